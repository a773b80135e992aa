"""Time of each kernel at the shapes of MobileNetV2, beside what this machine can do at most.

    python benchmarks/kernels.py [--batch 8] [--threads 2] [--isa avx512] [--only conv2d] [--json FILE]

Compute-bound kernels are compared with a loop of multiply-adds in registers, memory-bound ones with a plain copy of the
same number of bytes; both are measured in the same run. Times are minima: the machine may be busy with other things.
"""

from __future__ import annotations

import argparse
import json
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
        rounds = 1 << 21
        time, arrays = self._run("probe_peak", {"output": np.zeros(threads, np.float32)}, {"rounds": rounds}, {})
        self.peak = arrays["output"].sum() / time / 1e9
        count = 24 << 20  # 100 MB in and out: no cache holds it
        x = np.ones(count, np.float32)
        time, _ = self._run("unary", {"input": x, "output": x.copy()}, {"count": count, "activation": 0}, {})
        self.bandwidth = 2 * 4 * count / time / 1e9

    def _run(
        self, kernel: str, operands: dict[str, np.ndarray], ints: dict[str, int], floats: dict[str, float]
    ) -> tuple[float, dict[str, np.ndarray]]:
        names, int_names, float_names = _native.kernels()[kernel]
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
            program.run([])
            times += program.timings()
        views = {n: arena[offsets[n] : offsets[n] + a.nbytes].view(a.dtype) for n, a in operands.items()}
        return min(times), views

    def conv(
        self,
        kernel: str,
        batch: int,
        size: int,
        channels: int,
        out_channels: int,
        window: int,
        stride: int,
        groups: int,
    ) -> Figure:
        rng = np.random.default_rng(0)
        pad = window // 2
        out = (size + 2 * pad - window) // stride + 1
        ints = {
            "batch": batch, "height": size, "width": size, "channels": channels, "out_height": out, "out_width": out,
            "out_channels": out_channels, "kernel_h": window, "kernel_w": window,
            "stride_h": stride, "stride_w": stride,
            "dilation_h": 1, "dilation_w": 1, "pad_top": pad, "pad_left": pad, "groups": groups,
            "activation": ACTIVATIONS["relu6"], "residual_after": 0,
        }  # fmt: skip
        weights = rng.standard_normal((window, window, channels // groups, out_channels), np.float32)
        operands = {
            "input": rng.standard_normal((batch, size, size, channels), np.float32),
            "weights": _native.pack(kernel, ints, [weights], self.isa),
            "bias": rng.standard_normal(out_channels, np.float32),
            "output": np.zeros((batch, out, out, out_channels), np.float32),
        }
        traffic = sum(a.nbytes for a in operands.values())
        time, _ = self._run(kernel, operands, ints, {})
        flops = 2 * window**2 * channels // groups * out_channels * out**2 * batch
        shape = f"{size}x{size}x{channels} -> {out}x{out}x{out_channels}" + (
            f", {window}x{window}" if window > 1 else ""
        )
        rate, bytes_rate = flops / time / 1e9, traffic / time / 1e9
        return Figure(kernel, shape, time * 1e3, rate, rate / self.peak, bytes_rate, bytes_rate / self.bandwidth)


# Input size, channels in, expanded, out, stride of each kind of block, and how often it occurs.
BLOCKS = [
    (112, 32, 32, 16, 1, 1), (112, 16, 96, 24, 2, 1), (56, 24, 144, 24, 1, 1), (56, 24, 144, 32, 2, 1),
    (28, 32, 192, 32, 1, 2), (28, 32, 192, 64, 2, 1), (14, 64, 384, 64, 1, 3), (14, 64, 384, 96, 1, 1),
    (14, 96, 576, 96, 1, 2), (14, 96, 576, 160, 2, 1), (7, 160, 960, 160, 1, 2), (7, 160, 960, 320, 1, 1),
]  # fmt: skip


def mobilenet_v2(bench: Bench, batch: int, only: str) -> list[tuple[int, Figure]]:
    """(occurrences, figure) of each kernel call of the network."""
    calls: list[tuple[int, tuple[str, int, int, int, int, int, int]]] = [(1, ("conv2d", 224, 3, 32, 3, 2, 1))]
    for size, channels, hidden, out, stride, times in BLOCKS:
        if hidden != channels:
            calls.append((times, ("conv2d", size, channels, hidden, 1, 1, 1)))
        calls.append((times, ("depthwise", size, hidden, hidden, 3, stride, hidden)))
        calls.append((times, ("conv2d", size // stride, hidden, out, 1, 1, 1)))
    calls.append((1, ("conv2d", 7, 320, 1280, 1, 1, 1)))
    return [(n, bench.conv(call[0], batch, *call[1:])) for n, call in calls if only in call[0]]


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
            f"{f.kernel:10} {f.shape:32} x{n}  {f.milliseconds:7.3f} ms  {f.gflops:6.1f} GFLOP/s ({f.peak_share:4.0%})"
            f"  {f.gigabytes:5.1f} GB/s ({f.bandwidth_share:4.0%})"
        )
    parts = ", ".join(f"{kernel} {total:.2f} ms" for kernel, total in totals.items())
    print(f"whole network, batch {options.batch}: {parts}, together {sum(totals.values()):.2f} ms")
    if options.json:
        rows = [{"times": n, **asdict(f)} for n, f in figures]
        machine = {"peak_gflops": bench.peak, "copy_gigabytes": bench.bandwidth, "isa": options.isa}
        options.json.write_text(json.dumps({"machine": machine, "batch": options.batch, "kernels": rows}, indent=1))


if __name__ == "__main__":
    main()
