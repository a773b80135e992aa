"""What refining the network gives: refined against analytic, with 20 labels a topic, on photos split by source.

    python benchmarks/refining.py --data ../shared/data/topics --out evaluation/refining
    --seeds N     draws of known and new topics (default: 5; two minutes each on two quiet cores)
    --labels K    labelled photos of each topic (default: 20)

Topics are split as `homespun album evaluate` splits them. A family labels K photos of each tested topic, new ones and
known ones from other sources; all other tested photos are asked. *Weak* topics are those of which the analytic head
got less than 80% of the labelled photos right when they were held out: known before any photo is asked. Prints a table
and writes `refining.json`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import homespun as hs
from homespun.album.imaging import read_photo
from homespun.album.vision import ASSETS, BACKBONE, network_input
from homespun.learning import folders
from homespun.learning.calibration import expected_calibration_error
from homespun.learning.exemplars import BITS, Exemplars, chosen
from homespun.learning.pretraining import fit_builtin
from homespun.learning.refine import Refiner
from homespun.learning.tail import Maps, Tail, Weights
from homespun.learning.task import Foundation, Task, divide

EXEMPLARS = 20
WEAK = 0.8
Rows = npt.NDArray[np.intp]


class Photos:
    """The photos, their topics and sources, and what the trunk makes of them."""

    def __init__(self, data: Path) -> None:
        self.listed = folders.read_sources(folders.find_photos(data), data / "index.csv")
        self.topics = np.array([photo.topic for photo in self.listed])
        self.groups = [f"{photo.source} {photo.origin}" for photo in self.listed]
        self.backbone = hs.load(ASSETS / BACKBONE)
        self.tail = Tail(self.backbone)
        trunk = hs.Predictor(self.tail.trunk(), batch=8, weights="int8")
        self.maps = np.empty((len(self.listed), *self.tail.shape), np.float16)
        for start in range(0, len(self.listed), 8):
            pixels = np.stack([read_photo(photo.path).pixels for photo in self.listed[start : start + 8]])
            self.maps[start : start + 8] = trunk(network_input(pixels, self.backbone))
        self.features = self.features_with(self.tail.weights, np.arange(len(self.listed)))

    def features_with(self, weights: Weights, rows: Rows) -> npt.NDArray[np.float32]:
        """Features of some photos with other weights in the tail; other rows are zero."""
        network = hs.Predictor(self.tail.with_weights(weights), batch=32, weights="int8")
        result = np.zeros((len(self.listed), 1280), np.float32)
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            result[batch] = network(self.maps[batch].astype(np.float32))
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--labels", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(options.data)
    results = []
    for seed in range(options.first, options.first + options.seeds):
        results.append(measure(photos, seed, options.labels, options.out / "run"))
        print(line(results[-1]), flush=True)
    keys = ("weak", "strong", "known", "new", "all")
    for key in keys:
        before, after = (np.nanmean([result[key][side] for result in results]) for side in (0, 1))
        print(f"{key:>8}  {before:.3f} -> {after:.3f}  ({100 * (after - before):+.1f})")
    (options.out / "refining.json").write_text(json.dumps(results, indent=1) + "\n")


def measure(photos: Photos, seed: int, labels: int, folder: Path) -> dict[str, Any]:
    """One draw: accuracy by topic of both networks on photos that nobody labelled, and what refining took."""
    topics = photos.topics
    known, test = (np.array(rows) for rows in folders.split(photos.listed, seed))
    random = np.random.default_rng(seed)
    family, asked = [], []
    for name in np.unique(topics[test]):
        rows = random.permutation(test[topics[test] == name])
        half = len(rows) // 2
        family += list(rows[: min(half, labels)])
        asked += list(rows[half:])
    family, asked = np.array(family), np.array(asked)
    made = fit_builtin(photos.features[known], topics[known].tolist(), [photos.groups[row] for row in known])
    foundation = Foundation(made.space, made.statistics, made.calibration)
    exemplars = []
    for name in made.statistics:
        rows = known[topics[known] == name]
        exemplars += list(rows[chosen(made.space.project(photos.features[rows]), EXEMPLARS)])
    shutil.rmtree(folder, ignore_errors=True)
    began, cpu = time.monotonic(), time.process_time()
    refined = Refiner(
        photos.backbone,
        foundation,
        Exemplars(Maps.of(photos.maps[exemplars], BITS), tuple(topics[exemplars]), ""),
        task(photos, family, list(made.statistics)),
        folder,
    ).run()
    took = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    before = accuracy(photos, photos.features, foundation, family, asked)
    new = photos.features_with(refined.weights, np.concatenate([family, asked]))
    after = accuracy(photos, new, refined.foundation, family, asked)
    tested = [name for name in before if name != "error"]
    weak = [name for name in tested if refined.verdict.topics[name][1] < WEAK]
    groups = {
        "weak": weak,
        "strong": [name for name in tested if name not in weak],
        "known": [name for name in tested if name in made.statistics],
        "new": [name for name in tested if name not in made.statistics],
        "all": tested,
    }
    means = {
        key: [float(np.mean([side[name] for name in names])) if names else float("nan") for side in (before, after)]
        for key, names in groups.items()
    }
    verdict = asdict(refined.verdict) | {"chance": refined.verdict.family.chance}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    calibration = [before["error"], after["error"]]
    return {
        "seed": seed,
        "weak_topics": weak,
        **means,
        "calibration": calibration,
        "verdict": verdict,
        **took,
        "peak": peak,
    }


def task(photos: Photos, family: Rows, builtin: list[str]) -> Task:
    names = builtin + sorted(set(photos.topics[family]) - set(builtin))
    positive = photos.topics[family][:, None] == np.array(names)
    contents = [photos.groups[row] for row in family]
    return Task(
        tuple(map(str, family)),
        tuple(names),
        Maps.of(photos.maps[family]),
        positive,
        np.zeros_like(positive),
        divide(contents, ["one event"] * len(family)),
    )


def accuracy(
    photos: Photos, features: npt.NDArray[np.float32], foundation: Foundation, family: Rows, asked: Rows
) -> dict[str, float]:
    """Share of each topic's photos that come out right, and the calibration "error"; the library is observed."""
    learner = foundation.learner()
    for row in family:
        learner.learn(str(row), features[row], positive=[str(photos.topics[row])])
    everything = np.concatenate([family, asked])
    learner.observe(learner.prepare(features[everything]), [str(row) for row in everything])
    confidences = learner.confidences(features[asked])
    right = np.array(learner.topics)[confidences.argmax(axis=1)] == photos.topics[asked]
    result = {str(name): float(right[photos.topics[asked] == name].mean()) for name in np.unique(photos.topics[asked])}
    return result | {"error": expected_calibration_error(confidences.max(axis=1), right)}


def line(result: dict[str, Any]) -> str:
    """One draw in a line."""
    parts = [f"{key} {result[key][0]:.3f} -> {result[key][1]:.3f}" for key in ("weak", "strong", "known", "new", "all")]
    verdict = result["verdict"]
    return (
        f"seed {result['seed']}: {', '.join(parts)}; {verdict['reason']} (p = {verdict['chance']:.2g}); "
        f"{result['seconds']:.0f} s, {result['cpu_seconds']:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
