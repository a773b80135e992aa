"""Where the time of a training step goes: each kernel's time and its share of what the machine can do at most.

    python benchmarks/training_kernels.py [--batch 8] [--precisions float32,mixed] [--threads 2] [--calls]

Multiply-adds are compared with a loop of them in registers (twice that for bfloat16, of which a register holds twice as
many), bytes read and written with a plain copy; peaks are measured in the same run. `--calls` prints single
calls too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from homespun import _native
from kernels import Bench
from training_step import samples, trainer_of


@dataclass
class Total:
    ms: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    calls: int = 0

    def add(self, ms: float, flops: float, size: float) -> None:
        self.ms, self.flops, self.bytes, self.calls = (
            self.ms + ms,
            self.flops + flops,
            self.bytes + size,
            self.calls + 1,
        )

    def line(self, name: str, peak: float, bandwidth: float) -> str:
        rate, moved = self.flops / self.ms / 1e6, self.bytes / self.ms / 1e6
        return (
            f"{name:34} {self.calls:4} calls {self.ms:8.2f} ms  {rate:6.1f} GFLOP/s ({rate / peak:4.0%})"
            f"  {moved:5.1f} GB/s ({moved / bandwidth:4.0%})"
        )


def multiply_adds(kernel: str, ints: Mapping[str, int]) -> int:
    """Floating-point operations of the products of one call; what kernels do beside them is not counted."""
    if not kernel.startswith(("train_conv", "train_depthwise")):
        return 0
    groups, filters = (ints["channels"],) * 2 if "depthwise" in kernel else (ints["groups"], ints["out_channels"])
    window = ints["kernel_h"] * ints["kernel_w"] * ints["channels"] // groups
    products = ints["wants_x"] + ints["wants_weights"] if "backward" in kernel else 1
    return 2 * products * ints["batch"] * ints["out_height"] * ints["out_width"] * filters * window


def profiled(trainer: Any, x: Any, y: np.ndarray, steps: int) -> tuple[Any, np.ndarray]:
    """The program of a step, and the median milliseconds of each of its calls."""
    trainer.step(x, y)
    compiled = trainer._programs.main(len(y))
    compiled.program.profile(True)
    runs = []
    for _ in range(steps):
        trainer.step(x, y)
        runs.append(list(compiled.program.timings()))
    return compiled, 1e3 * np.median(runs, axis=0)


def profile(trainer: Any, batch: int, steps: int) -> list[tuple[str, str, float, int, int]]:
    """(node, kernel, median milliseconds, floating-point operations, bytes) of each call of a step."""
    compiled, times = profiled(trainer, *samples(batch), steps)
    lowered, schema, rows = compiled.lowered, _native.kernels(), []
    for node, call, use, ms in zip(lowered.nodes, lowered.instructions, lowered.uses, times, strict=True):
        ints = dict(zip(schema[call[0]][1], call[2], strict=True))
        touched = [n for n in (*use.reads, *use.writes) if "/workspace" not in n]
        size = sum(lowered.types[n].nbytes for n in touched)
        rows.append((node, call[0], float(ms), multiply_adds(call[0], ints), size))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--calls", action="store_true")
    options = parser.parse_args()
    bench = Bench(_native.isas()[0], options.threads, 0.2)
    print(f"{bench.isa}, {options.threads} threads: peak {bench.peak:.0f} GFLOP/s, copy {bench.bandwidth:.1f} GB/s")
    for precision in options.precisions.split(","):
        peak = bench.peak * (2 if precision == "mixed" else 1)
        trainer = trainer_of(precision, options.batch, options.threads)
        totals: dict[str, Total] = {}
        whole = Total()
        print(f"-- {precision}, batch {options.batch}: {trainer.memory}")
        for node, kernel, *figures in profile(trainer, options.batch, options.steps):
            totals.setdefault(kernel, Total()).add(*figures)
            whole.add(*figures)
            if options.calls:
                single = Total()
                single.add(*figures)
                print(single.line(f"{kernel} {node}"[:70], peak, bench.bandwidth))
        for kernel, total in sorted(totals.items(), key=lambda item: -item[1].ms):
            print(total.line(kernel, peak, bench.bandwidth))
        print(whole.line("all", peak, bench.bandwidth), flush=True)


if __name__ == "__main__":
    main()
