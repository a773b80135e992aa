"""Time of each kernel at the shapes of MobileNetV2, beside what this machine can do at most.

    python benchmarks/kernels.py [--batch 8] [--threads 2] [--isa avx512] [--only conv2d] [--json FILE]

Compute-bound kernels are compared with a loop of multiply-adds in registers, memory-bound ones with a plain copy of the
same number of bytes; both are measured in the same run. Times are minima: the machine may be busy with other things
(on one thread, `--threads 1`, processor time is measured, which stands still while others run).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from homespun import _native

ACTIVATIONS = _native.activations()


@dataclass
class Figure:
    kernel: str
    shape: str
    milliseconds: float
    gflops: float
    peak_share: float
    gigabytes: float
    bandwidth_share: float


class Bench:
    """Runs single kernels over arrays in the arena and measures them."""

    def __init__(self, isa: str, threads: int, seconds: float) -> None:
        self.isa, self.threads, self.seconds = isa, threads, seconds
        self.rng = np.random.default_rng(0)
        rounds = 1 << 21
        best, arrays = self.measure("probe_peak", {"output": np.zeros(threads, np.float32)}, {"rounds": rounds}, {})
        self.peak = arrays["output"].sum() / best / 1e9
        count = 24 << 20  # 100 MB in and out: no cache holds it
        x = np.ones(count, np.float32)
        best, _ = self.measure(
            "unary", {"input": x, "output": x.copy()}, {"count": count, "activation": 0, "half": 0}, {}
        )
        self.bandwidth = 2 * 4 * count / best / 1e9

    def measure(
        self, kernel: str, operands: dict[str, np.ndarray], ints: dict[str, int], floats: dict[str, float]
    ) -> tuple[float, dict[str, np.ndarray]]:
        names, int_names, float_names = _native.kernels()[kernel]
        ints = {n: 0 for n in int_names if n.endswith("_row")} | ints
        if "workspace" in names:
            operands["workspace"] = np.empty(_native.workspace_bytes(kernel, ints, self.threads, self.isa), np.uint8)
        offsets, size = {}, 0
        for name, array in operands.items():
            offsets[name] = size
            size = (size + array.nbytes + 63) // 64 * 64
        where = [(0, offsets[n]) if n in offsets else (-1, 0) for n in names]
        instruction = (kernel, where, [ints[n] for n in int_names], [floats.get(n, 0.0) for n in float_names])
        program = _native.Program([instruction], size, np.empty(0, np.uint8), None, 0, self.threads, self.isa)
        arena = program.arena
        for name, array in operands.items():
            arena[offsets[name] : offsets[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
        program.profile(True)
        times: list[float] = []
        while len(times) < 5 or (sum(times) < self.seconds and len(times) < 2000):
            begin = time.thread_time()
            program.run([])
            times += [time.thread_time() - begin] if self.threads == 1 else program.timings()
        views = {n: arena[offsets[n] : offsets[n] + a.nbytes].view(a.dtype) for n, a in operands.items()}
        return min(times), views

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, np.float32)

    def figure(
        self, kernel: str, shape: str, flops: int, operands: dict[str, np.ndarray], ints: dict[str, int]
    ) -> Figure:
        traffic = sum(a.nbytes for a in operands.values())
        best, _ = self.measure(kernel, operands, ints, {})
        rate, moved = flops / best / 1e9, traffic / best / 1e9
        return Figure(kernel, shape, best * 1e3, rate, rate / self.peak, moved, moved / self.bandwidth)

    def pack(self, kernel: str, window: int, channels: int, out_channels: int, groups: int = 1) -> np.ndarray:
        weights = self.normal(window, window, channels // groups, out_channels)
        return _native.pack(kernel, convolution(1, 1, channels, out_channels, window, 1, groups), [weights], self.isa)

    def conv(self, kernel: str, batch: int, size: int, c: int, m: int, window: int, stride: int, groups: int) -> Figure:
        """A convolution of `c` to `m` channels."""
        ints = convolution(batch, size, c, m, window, stride, groups)
        out = ints["out_height"]
        operands = {
            "input": self.normal(batch, size, size, c),
            "weights": self.pack(kernel, window, c, m, groups),
            "bias": self.normal(m),
            "output": np.zeros((batch, out, out, m), np.float32),
        }
        flops = 2 * window**2 * c // groups * m * out**2 * batch
        shape = f"{size}x{size}x{c} -> {out}x{out}x{m}" + (f", {window}x{window}" if window > 1 else "")
        return self.figure(kernel, shape, flops, operands, ints)

    def block(self, batch: int, size: int, channels: int, hidden: int, out_channels: int, stride: int) -> Figure:
        """A whole inverted-residual block in one kernel."""
        out, expands = size // stride, hidden != channels
        ints = convolution(batch, size, channels, out_channels, 3, stride, 1) | {
            "hidden": hidden, "expands": int(expands), "expand_activation": ACTIVATIONS["relu6"],
            "depthwise_activation": ACTIVATIONS["relu6"], "activation": ACTIVATIONS["none"],
        }  # fmt: skip
        ints = {name: ints[name] for name in _native.kernels()["inverted_residual"][1]}
        operands = {
            "input": self.normal(batch, size, size, channels),
            "depthwise_weights": self.pack("depthwise", 3, hidden, hidden, hidden),
            "depthwise_bias": self.normal(hidden),
            "project_weights": self.pack("conv2d", 1, hidden, out_channels),
            "project_bias": self.normal(out_channels),
            "output": np.zeros((batch, out, out, out_channels), np.float32),
        }
        if expands:
            operands |= {"expand_weights": self.pack("conv2d", 1, channels, hidden), "expand_bias": self.normal(hidden)}
        expansion = size**2 * channels * hidden if expands else 0
        flops = 2 * batch * (expansion + out**2 * hidden * (9 + out_channels))
        shape = f"{size}x{size}x{channels} -> {hidden} -> {out}x{out}x{out_channels}"
        return self.figure("inverted_residual", shape, flops, operands, ints)


def convolution(batch: int, size: int, channels: int, m: int, window: int, stride: int, groups: int) -> dict[str, int]:
    """The ints of a convolution with "same" padding and ReLU6."""
    pad = window // 2
    out = (size + 2 * pad - window) // stride + 1
    return {
        "batch": batch, "height": size, "width": size, "channels": channels, "out_height": out, "out_width": out,
        "out_channels": m, "kernel_h": window, "kernel_w": window, "stride_h": stride, "stride_w": stride,
        "dilation_h": 1, "dilation_w": 1, "pad_top": pad, "pad_left": pad, "groups": groups,
        "activation": ACTIVATIONS["relu6"], "residual_after": 0,
    }  # fmt: skip


# Input size, channels in, expanded, out, stride of each kind of block, and how often it occurs.
BLOCKS = [
    (112, 32, 32, 16, 1, 1), (112, 16, 96, 24, 2, 1), (56, 24, 144, 24, 1, 1), (56, 24, 144, 32, 2, 1),
    (28, 32, 192, 32, 1, 2), (28, 32, 192, 64, 2, 1), (14, 64, 384, 64, 1, 3), (14, 64, 384, 96, 1, 1),
    (14, 96, 576, 96, 1, 2), (14, 96, 576, 160, 2, 1), (7, 160, 960, 160, 1, 2), (7, 160, 960, 320, 1, 1),
]  # fmt: skip


def mobilenet_v2(bench: Bench, batch: int, only: str) -> list[tuple[int, Figure]]:
    """(occurrences, figure) of the kernels of the network: convolution by convolution, then whole blocks."""
    calls: list[tuple[int, tuple[str, int, int, int, int, int, int]]] = [(1, ("conv2d", 224, 3, 32, 3, 2, 1))]
    for size, channels, hidden, out, stride, times in BLOCKS:
        if hidden != channels:
            calls.append((times, ("conv2d", size, channels, hidden, 1, 1, 1)))
        calls.append((times, ("depthwise", size, hidden, hidden, 3, stride, hidden)))
        calls.append((times, ("conv2d", size // stride, hidden, out, 1, 1, 1)))
    calls.append((1, ("conv2d", 7, 320, 1280, 1, 1, 1)))
    figures = [(n, bench.conv(call[0], batch, *call[1:])) for n, call in calls if only in call[0]]
    if only in "inverted_residual":
        figures += [(times, bench.block(batch, *block)) for *block, times in BLOCKS]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default=_native.isas()[0], choices=_native.isas())
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.2, help="time to spend on each shape")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    bench = Bench(options.isa, options.threads, options.seconds)
    print(f"{options.isa}, {options.threads} threads: peak {bench.peak:.0f} GFLOP/s, copy {bench.bandwidth:.1f} GB/s")
    figures = mobilenet_v2(bench, options.batch, options.only)
    totals: dict[str, float] = {}
    for n, f in figures:
        totals[f.kernel] = totals.get(f.kernel, 0.0) + n * f.milliseconds
        print(
            f"{f.kernel:17} {f.shape:32} x{n}  {f.milliseconds:7.3f} ms  {f.gflops:6.1f} GFLOP/s ({f.peak_share:4.0%})"
            f"  {f.gigabytes:5.1f} GB/s ({f.bandwidth_share:4.0%})"
        )
    print(f"in the network, batch {options.batch}: " + ", ".join(f"{k} {total:.2f} ms" for k, total in totals.items()))
    if options.json:
        rows = [{"times": n, **asdict(f)} for n, f in figures]
        machine = {"peak_gflops": bench.peak, "copy_gigabytes": bench.bandwidth, "isa": options.isa}
        options.json.write_text(json.dumps({"machine": machine, "batch": options.batch, "kernels": rows}, indent=1))


if __name__ == "__main__":
    main()
