"""Training steps beside PyTorch: MobileNetV2, the same batch, turns step by step in one run.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/training_step.py [--batches 8,32] [--precisions float32,mixed] [--threads 2] [--json FILE]
    python benchmarks/training_step.py --kernels       # time of each kernel of a step, without a peer
    python benchmarks/training_step.py --pauses 200    # how long a pause takes to hold, and what memory it gives back

Each engine runs in a process of its own, so that working sets (peak less what the import took) can be told apart, and
waits asleep while the other has its turn. PyTorch runs as its users would run it fastest here: channels last for large
batches and for bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], object]


def peak() -> float:
    """Largest resident set of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def samples(batch: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((batch, 224, 224, 3), np.float32), random.integers(0, 1000, batch)


def homespun(precision: str, batch: int, threads: int) -> Step:
    import homespun as hs

    trainer = hs.Trainer(
        hs.zoo.mobilenet_v2(classes=1000),
        loss=hs.losses.CrossEntropy(),
        optimizer=hs.optim.SGD(0.01, momentum=0.9),
        batch=batch,
        precision=precision,
        threads=threads,
    )
    x, y = samples(batch)
    return lambda: trainer.step(x, y)


def torch_network() -> Any:
    """MobileNetV2 (Sandler et al. 2018, table 2) as a PyTorch module, in training mode."""
    import torch
    from torch import nn

    class Residual(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + super().forward(x)

    def layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]

    layers, inputs = layer(3, 32, 3, 2), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, outputs, repeats, first_stride in stages:
        for i in range(repeats):
            stride, hidden = first_stride if i == 0 else 1, inputs * expansion
            expand = layer(inputs, hidden) if expansion > 1 else []
            block = [*expand, *layer(hidden, hidden, 3, stride, hidden), *layer(hidden, outputs)[:2]]
            layers.append(Residual(*block) if stride == 1 and inputs == outputs else nn.Sequential(*block))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *layer(320, 1280), *head).train()


def pytorch(precision: str, batch: int, threads: int) -> Step:
    import torch

    torch.set_num_threads(threads)
    network = torch_network()
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


def serve(engine: str, precision: str, batch: int, threads: int, pipe: Connection) -> None:
    """One step for each message; a report at the end."""
    __import__(IMPORTS[engine])
    before = peak()
    step = ENGINES[engine](precision, batch, threads)
    began = time.perf_counter()
    step()
    first = time.perf_counter() - began
    step()
    while pipe.recv():
        began = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - began)
    pipe.send({"first_s": first, "working_set_mb": peak() - before})


def compare(precision: str, batch: int, threads: int, turns: int) -> dict[str, float]:
    """Medians, minima, working sets, and ratios of ours to PyTorch's."""
    context = multiprocessing.get_context("spawn")
    pipes, times = {}, {e: [] for e in ENGINES}
    for engine in ENGINES:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(engine, precision, batch, threads, theirs), daemon=True).start()
        theirs.close()  # or a process that fails would be waited for without end
        pipes[engine] = ours
    for _ in range(turns):
        for engine, pipe in pipes.items():
            pipe.send(True)
            times[engine].append(pipe.recv())
    row: dict[str, float] = {}
    for engine, pipe in pipes.items():
        pipe.send(False)
        report = pipe.recv()
        row[f"{engine}_ms"] = 1e3 * statistics.median(times[engine])
        row[f"{engine}_least_ms"] = 1e3 * min(times[engine])
        row[f"{engine}_mb"], row[f"{engine}_first_s"] = report["working_set_mb"], report["first_s"]
    row["time_ratio"] = row["homespun_ms"] / row["pytorch_ms"]
    row["memory_ratio"] = row["homespun_mb"] / row["pytorch_mb"]
    return row


def print_kernels(precision: str, batch: int, threads: int) -> None:
    step = homespun(precision, batch, threads)
    trainer = next(c.cell_contents for c in step.__closure__ if hasattr(c.cell_contents, "pause"))  # type: ignore[attr-defined]
    compiled = trainer._main_program()
    compiled.program.profile(True)
    runs = []
    for _ in range(12):
        step()
        runs.append(list(compiled.program.timings()))
    totals: dict[str, list[float]] = {}
    for call, seconds in zip(compiled.lowered.instructions, np.median(runs, axis=0), strict=True):
        totals.setdefault(call[0], []).append(1e3 * float(seconds))
    for kernel, parts in sorted(totals.items(), key=lambda item: -sum(item[1])):
        print(f"{kernel:36} {sum(parts):8.2f} ms in {len(parts)} calls")


def print_pauses(count: int, threads: int) -> None:
    step = homespun("float32", 8, threads)
    trainer = next(c.cell_contents for c in step.__closure__ if hasattr(c.cell_contents, "pause"))  # type: ignore[attr-defined]
    step()
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            step()

    worker = threading.Thread(target=work)
    worker.start()
    random = np.random.default_rng(0)
    for release in (False, True):
        waits = []
        for _ in range(count):
            time.sleep(float(random.uniform(0.02, 0.15)))
            began = time.perf_counter()
            trainer.pause(release_memory=release)
            waits.append(1e3 * (time.perf_counter() - began))
            trainer.resume()
        print(
            f"pause, release_memory={release}: median {statistics.median(waits):.1f} ms, "
            f"99th percentile {np.quantile(waits, 0.99):.1f} ms, most {max(waits):.1f} ms"
        )
    ended.set()
    worker.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="8,32")
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--pauses", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for precision in options.precisions.split(","):
        for batch in map(int, options.batches.split(",")):
            if options.kernels:
                print(f"-- {precision}, batch {batch}")
                print_kernels(precision, batch, options.threads)
                continue
            if options.pauses:
                break
            row = compare(precision, batch, options.threads, options.turns)
            rows.append({"precision": precision, "batch": batch, **row})
            print(
                f"{precision} batch {batch}: {row['homespun_ms']:.0f} vs {row['pytorch_ms']:.0f} ms = "
                f"{row['time_ratio']:.2f}x; working set {row['homespun_mb']:.0f} vs {row['pytorch_mb']:.0f} MB = "
                f"{row['memory_ratio']:.2f}x"
            )
    if options.pauses:
        print_pauses(options.pauses, options.threads)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
