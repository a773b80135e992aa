"""Steps of transfer learning beside PyTorch: MobileNetV2 with most of it frozen, turns step by step in one run.

    python benchmarks/transfer_step.py [--batches 8] [--tasks last,head,cached,cached32] [--threads 2] [--json FILE]

"last" trains the last two blocks and what comes after, "head" the classifier, both with the frozen part run in every
step; "cached" trains the classifier on features kept from before, of 1,000 classes or of 32. PyTorch runs the frozen
part in inference mode, without gradients, in both memory layouts; Homespun as its inference program, in float32 and in
8 bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from turns import Step, serve, take_turns

TASKS = {"last": "last:2", "head": "head", "cached": "head", "cached32": "head"}
CLASSES = {"last": 1000, "head": 1000, "cached": 1000, "cached32": 32}
PARTS = {"last": 16, "head": 22}  # of PyTorch's modules, how many are frozen
FEATURES = 1280
ENGINES = ("homespun", "homespun int8", "pytorch", "pytorch channels last")


def samples(task: str, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images, features, labels)."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 224, 224, 3), np.float32)
    return images, random.random((batch, FEATURES), np.float32), random.integers(0, CLASSES[task], batch)


def homespun(task: str, batch: int, threads: int, backbone_weights: str) -> Step:
    import homespun as hs

    model, optimizer = hs.zoo.mobilenet_v2(classes=CLASSES[task]), hs.optim.SGD(0.01, momentum=0.9)
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), optimizer, batch=batch, threads=threads,
                         trainable=TASKS[task], backbone_weights=backbone_weights)  # fmt: skip
    images, features, labels = samples(task, batch)
    if task.startswith("cached"):
        return lambda: trainer.step_on_features([features], labels)
    return lambda: trainer.step(images, labels)


def pytorch(task: str, batch: int, threads: int, channels_last: bool) -> Step:
    import torch
    from torch import nn

    from torch_mobilenet import mobilenet_v2

    torch.set_num_threads(threads)
    images, features, labels = samples(task, batch)
    network, y = mobilenet_v2(), torch.from_numpy(labels)
    if task.startswith("cached"):
        frozen, x = nn.Sequential(), torch.from_numpy(features)
        trained = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, CLASSES[task]))
    else:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        if channels_last:
            network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        frozen, trained = network[: PARTS[task]].eval().requires_grad_(False), network[PARTS[task] :]
    optimizer = torch.optim.SGD(trained.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            kept = frozen(x)
        torch.nn.functional.cross_entropy(trained(kept), y).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="8,32")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        engine, task, batch, threads = options.serve
        ours = engine.startswith("homespun")
        choice = ("int8" if "int8" in engine else "float32") if ours else "channels" in engine
        serve("homespun" if ours else "torch",
              partial(homespun if ours else pytorch, task, int(batch), int(threads), choice))  # fmt: skip
        return
    rows = []
    for task in options.tasks.split(","):
        engines = [e for e in ENGINES if not task.startswith("cached") or " " not in e]
        for batch in map(int, options.batches.split(",")):
            settings = [task, str(batch), str(options.threads)]
            commands = {e: [sys.executable, str(Path(__file__).resolve()), "--serve", e, *settings] for e in engines}
            reports = take_turns(commands, options.turns * (10 if task.startswith("cached") else 1))
            best = min(r.ms for e, r in reports.items() if e.startswith("pytorch"))
            for engine, r in reports.items():
                rows.append({"task": task, "batch": batch, "engine": engine, "ms": r.ms, "least_ms": r.least_ms,
                             "mb": r.working_set_mb})  # fmt: skip
                print(f"{task:8} batch {batch:2} {engine:22} {r.ms:8.2f} ({r.least_ms:.2f}) ms = {r.ms / best:.2f} "
                      f"of the best PyTorch; working set {r.working_set_mb:.0f} MB", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
