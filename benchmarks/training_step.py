"""Training steps beside other engines: MobileNetV2, the same batch, turns step by step in one run.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/training_step.py [--batches 8,32] [--precisions float32,mixed] [--threads 2] [--json FILE]
    python benchmarks/training_step.py --more-peers build/more-peers/bin/python    # onnxruntime-training and MNN too
    python benchmarks/training_step.py --pauses 200    # how long a pause takes to hold, and what memory it gives back

PyTorch runs as its users would run it fastest here: channels last for large batches and for bfloat16 autocast. The
other peers have an environment of their own (requirements-more-peers.txt): onnxruntime-training would take the place
of onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from turns import Report, Step, serve, take_turns

HERE = Path(__file__).resolve()


def samples(batch: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((batch, 224, 224, 3), np.float32), random.integers(0, 1000, batch)


def trainer_of(precision: str, batch: int, threads: int) -> Any:
    import homespun as hs

    model, optimizer = hs.zoo.mobilenet_v2(classes=1000), hs.optim.SGD(0.01, momentum=0.9)
    return hs.Trainer(model, hs.losses.CrossEntropy(), optimizer, batch=batch, precision=precision, threads=threads)


def homespun(precision: str, batch: int, threads: int) -> Step:
    trainer = trainer_of(precision, batch, threads)
    x, y = samples(batch)
    return lambda: trainer.step(x, y)


def pytorch(precision: str, batch: int, threads: int) -> Step:
    import torch

    from torch_mobilenet import mobilenet_v2

    torch.set_num_threads(threads)
    network = mobilenet_v2()
    images, labels = samples(batch)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    if precision == "mixed" or batch >= 32:
        network = network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    return step


ENGINES = {"homespun": homespun, "pytorch": pytorch}
IMPORTS = {"homespun": "homespun", "pytorch": "torch"}
MORE_PEERS = {"onnxruntime": "onnxruntime_step.py", "mnn": "mnn_step.py"}


def compare(precision: str, batch: int, options: argparse.Namespace) -> dict[str, Report]:
    settings = [precision, str(batch), str(options.threads)]
    commands = {e: [sys.executable, str(HERE), "--serve", e, *settings] for e in ENGINES}
    if options.more_peers and precision == "float32":
        commands |= {e: [options.more_peers, str(HERE.with_name(f)), *settings[1:]] for e, f in MORE_PEERS.items()}
    return take_turns(commands, options.turns)


def print_pauses(count: int, threads: int) -> None:
    """Pauses at random moments of steps; with memory given back, how much of the arena is not resident while it holds:
    beside what is resident in the pause that keeps least. (What is less than before the pause would not tell: parts of
    the arena that the step has not come to yet are not resident then.)"""
    trainer = trainer_of("float32", 8, threads)
    x, y = samples(8)
    trainer.step(x, y)
    began = time.perf_counter()
    trainer.step(x, y)
    seconds = time.perf_counter() - began
    arena = trainer.memory.arena
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            trainer.step(x, y)

    worker = threading.Thread(target=work)
    worker.start()
    random = np.random.default_rng(0)
    for release in (False, True):
        waits, held = [], []
        for _ in range(count):
            time.sleep(float(random.uniform(1.2, 2.4)) * seconds)
            began = time.perf_counter()
            trainer.pause(release_memory=release)
            waits.append(1e3 * (time.perf_counter() - began))
            held.append(resident())
            trainer.resume()
        given = 1 - (np.array(held) - min(held)) / arena
        print(
            f"pause, release_memory={release}: median {statistics.median(waits):.1f} ms, "
            f"99th percentile {np.quantile(waits, 0.99):.1f} ms, most {max(waits):.1f} ms"
            + (
                f"; share of the arena given back: median {np.median(given):.0%}, least {given.min():.0%}, "
                f"at least 90% in {np.mean(given >= 0.9):.0%} of the pauses"
                if release
                else ""
            )
        )
    ended.set()
    worker.join()


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="8,32")
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--more-peers", metavar="PYTHON", help="Python of the environment with the other peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pauses", type=int, default=0)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        engine, precision, batch, threads = options.serve
        serve(IMPORTS[engine], partial(ENGINES[engine], precision, int(batch), int(threads)))
        return
    if options.pauses:
        print_pauses(options.pauses, options.threads)
        return
    rows = []
    for precision in options.precisions.split(","):
        for batch in map(int, options.batches.split(",")):
            reports = compare(precision, batch, options)
            ours = reports["homespun"]
            for engine, r in reports.items():
                rows.append({"precision": precision, "batch": batch, "engine": engine, "ms": r.ms,
                             "least_ms": r.least_ms, "mb": r.working_set_mb, "first_s": r.first_s})  # fmt: skip
                print(
                    f"{precision} batch {batch:2} {engine:12} {r.ms:6.0f} ({r.least_ms:.0f}) ms, working set "
                    f"{r.working_set_mb:5.0f} MB, first step {r.first_s:5.2f} s; Homespun takes {ours.ms / r.ms:.2f} "
                    f"of its time, {ours.working_set_mb / r.working_set_mb:.2f} of its memory",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
