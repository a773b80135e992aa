"""8-bit kernels: integer sums are exact, and so the same, on every instruction set; quantisation as NumPy does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import references
from conftest import KernelRunner

from homespun import _native

ACTIVATIONS = _native.activations()


@dataclass(frozen=True)
class Case:
    """A convolution; `pads` are those at the top and left, the output size says the rest."""

    size: tuple[int, int]
    channels: tuple[int, int]
    out: tuple[int, int] = (0, 0)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    groups: int = 1
    batch: int = 1

    def ints(self, **more: int) -> dict[str, int]:
        height, width = self.out if self.out != (0, 0) else self.size
        return {
            "batch": self.batch, "height": self.size[0], "width": self.size[1], "channels": self.channels[0],
            "out_height": height, "out_width": width, "out_channels": self.channels[1],
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1], "stride_h": self.stride[0],
            "stride_w": self.stride[1], "dilation_h": self.dilation[0], "dilation_w": self.dilation[1],
            "pad_top": self.pads[0], "pad_left": self.pads[1], "groups": self.groups,
            "activation": ACTIVATIONS["none"], "residual_after": 0,
            "input_codes": 0, "input_non_negative": 0, "output_codes": 0, **more,
        }  # fmt: skip

    def columns(self, x: np.ndarray) -> np.ndarray:
        """(N, OH, OW, groups, K): what lies under each window."""
        out = self.out if self.out != (0, 0) else self.size
        seen = references.windows(x, out, self.kernel, self.stride, self.dilation, self.pads)
        n, oh, ow, kh, kw, c = seen.shape
        split = seen.reshape(n, oh, ow, kh, kw, self.groups, c // self.groups)
        return np.moveaxis(split, 5, 3).reshape(n, oh, ow, self.groups, -1)

    def multiply(self, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(N, OH, OW, M) from `columns` and weights (kh, kw, C / groups, M), in float64: exact for integers."""
        per_group = weights.reshape(-1, self.groups, weights.shape[-1] // self.groups).astype(np.float64)
        return np.einsum("nhwgk,kgm->nhwgm", columns, per_group).reshape(*columns.shape[:3], -1)

    def weights(self, rng: np.random.Generator) -> np.ndarray:
        shape = (*self.kernel, self.channels[0] // self.groups, self.channels[1])
        weights = rng.integers(-127, 128, shape, np.int8)
        weights.reshape(-1, shape[-1])[:, 0] = 127  # the largest sums there are
        return weights


CASES = [
    Case((5, 7), (8, 16)),
    Case((7, 7), (32, 72), batch=2),
    Case((3, 3), (5, 1)),
    Case((1, 1), (1280, 100)),
    Case((13, 17), (24, 144)),
    Case((9, 11), (16, 96), batch=3),
    Case((4, 4), (960, 33)),
    Case((20, 20), (17, 40)),
    Case((14, 14), (96, 25)),
    Case((8, 8), (8, 16), out=(4, 4), stride=(2, 2)),
    Case((11, 9), (3, 32), out=(6, 5), kernel=(3, 3), stride=(2, 2), pads=(1, 1)),
    Case((6, 6), (7, 19), out=(6, 6), kernel=(3, 3), dilation=(2, 2), pads=(2, 2), batch=2),
    Case((6, 9), (12, 18), out=(6, 8), kernel=(3, 4), pads=(1, 1), groups=3),
    Case((5, 5), (6, 6), groups=6),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_of_products_of_codes_are_exact(case: Case, kernel: KernelRunner, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (case.batch, *case.size, case.channels[0]), np.uint8)
    x[0, 0] = 255
    weights, ints = case.weights(rng), case.ints(input_codes=1)
    one, none = np.ones(case.channels[1], np.float32), np.zeros(case.channels[1], np.float32)
    want = case.multiply(case.columns(x), weights)
    got = kernel(
        "int8_conv2d",
        {
            "input": x,
            "weights": kernel.pack("int8_conv2d", ints, weights, one, none),
            "output": np.empty(want.shape, np.float32),
        },
        ints,
    )["output"]
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("non_negative", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_floats_are_quantised_window_by_window(
    case: Case, non_negative: bool, kernel: KernelRunner, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(case.batch, *case.size, case.channels[0])).astype(np.float32)
    x *= rng.lognormal(sigma=3, size=(case.batch, *case.size, 1)).astype(np.float32)
    x = np.abs(x) if non_negative else x
    x[-1, -1, -1] = 0
    weights, ints = case.weights(rng), case.ints(input_non_negative=int(non_negative))
    scale = rng.uniform(0.001, 0.01, case.channels[1]).astype(np.float32)
    bias = rng.normal(size=case.channels[1]).astype(np.float32)
    columns = case.columns(x).astype(np.float32)
    top = np.float32(255 if non_negative else 127)
    largest = np.abs(columns).max(axis=-1, keepdims=True)
    factor = np.divide(top, largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(columns * factor).astype(np.float64)
    steps = np.repeat(largest[..., 0] / top, case.channels[1] // case.groups, axis=-1).astype(np.float64)
    want = case.multiply(codes, weights) * steps * scale + bias
    got = kernel(
        "int8_conv2d",
        {
            "input": x,
            "weights": kernel.pack("int8_conv2d", ints, weights, scale, bias),
            "output": np.empty(want.shape, np.float32),
        },
        ints,
    )["output"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_come_out_rounded_and_saturated(case: Case, kernel: KernelRunner, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (case.batch, *case.size, case.channels[0]), np.uint8)
    weights, ints = case.weights(rng), case.ints(input_codes=1, output_codes=1)
    sums = case.multiply(case.columns(x), weights)
    scale = (2.0 ** np.floor(np.log2(200 / np.abs(sums).max(axis=(0, 1, 2))))).astype(np.float32)  # products are exact
    bias = rng.integers(-20, 80, case.channels[1]).astype(np.float32)
    scale[0] *= 1024
    want = np.clip(np.rint(sums * scale + bias), 0, 255)
    got = kernel(
        "int8_conv2d",
        {
            "input": x,
            "weights": kernel.pack("int8_conv2d", ints, weights, scale, bias),
            "output": np.empty(want.shape, np.uint8),
        },
        ints,
    )["output"]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("residual", ["before", "after", ""])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "hard_swish", "silu"])
def test_epilogues(activation: str, residual: str, kernel: KernelRunner, rng: np.random.Generator) -> None:
    case = Case((9, 9), (24, 40), batch=2)
    x = rng.integers(0, 256, (case.batch, *case.size, case.channels[0]), np.uint8)
    weights = case.weights(rng)
    ints = case.ints(
        input_codes=1, activation=ACTIVATIONS[activation], residual_after=int(residual == "after" and residual != "")
    )
    scale = rng.uniform(1e-5, 1e-4, case.channels[1]).astype(np.float32)
    bias = rng.normal(size=case.channels[1]).astype(np.float32)
    other = rng.normal(size=(*x.shape[:3], case.channels[1])).astype(np.float32)
    want = case.multiply(case.columns(x), weights) * scale + bias
    want = references.activate(activation, want + other if residual == "before" else want)
    want = want + other if residual == "after" else want
    operands = {
        "input": x,
        "weights": kernel.pack("int8_conv2d", ints, weights, scale, bias),
        "output": np.empty(want.shape, np.float32),
    }
    if residual:
        operands["residual"] = other
    got = kernel("int8_conv2d", operands, ints)["output"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    if residual:  # the sum may take the place of what was added
        got = kernel("int8_conv2d", operands, ints, in_place={"output": "residual"})["output"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (9, 13), (16, 6)])
@pytest.mark.parametrize("channels", [1, 3, 16, 24, 32, 56, 64, 96, 113, 144])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise(
    window: int, stride: int, channels: int, size: tuple[int, int], kernel: KernelRunner, rng: np.random.Generator
) -> None:
    batch, pad = 2, window // 2
    out = tuple((n - 1) // stride + 1 for n in size)
    ints = {
        "batch": batch, "height": size[0], "width": size[1], "channels": channels, "out_height": out[0],
        "out_width": out[1], "kernel": window, "stride": stride, "pad_top": pad, "pad_left": pad,
    }  # fmt: skip
    x = rng.integers(0, 256, (batch, *size, channels), np.uint8)
    x[0, :, :2] = 255
    weights = rng.integers(-127, 128, (window, window, channels), np.int8)
    weights[..., 0] = -127
    seen = references.windows(x, out, (window, window), (stride, stride), (1, 1), (pad, pad))
    sums = np.einsum("nhwijc,ijc->nhwc", seen, weights.astype(np.float64))
    scale = np.full(channels, 2.0**-9, np.float32)
    bias = rng.integers(0, 120, channels).astype(np.float32)
    want = np.clip(np.rint(sums * scale + bias), 0, 255)
    got = kernel(
        "int8_depthwise",
        {
            "input": x,
            "weights": kernel.pack("int8_depthwise", ints, weights, scale, bias),
            "output": np.empty(want.shape, np.uint8),
        },
        ints,
    )["output"]
    np.testing.assert_array_equal(got, want)


def test_depthwise_window_at_the_far_corner(kernel: KernelRunner, rng: np.random.Generator) -> None:
    """Padding as TensorFlow has it: none before, some after."""
    ints = {
        "batch": 1, "height": 8, "width": 8, "channels": 20, "out_height": 4, "out_width": 4, "kernel": 3, "stride": 2,
        "pad_top": 0, "pad_left": 0,
    }  # fmt: skip
    x = rng.integers(0, 256, (1, 8, 8, 20), np.uint8)
    weights = rng.integers(-127, 128, (3, 3, 20), np.int8)
    seen = references.windows(x, (4, 4), (3, 3), (2, 2), (1, 1), (0, 0))
    want = np.clip(np.rint(np.einsum("nhwijc,ijc->nhwc", seen, weights.astype(np.float64)) * 2.0**-8), 0, 255)
    packed = kernel.pack("int8_depthwise", ints, weights, np.full(20, 2.0**-8, np.float32), np.zeros(20, np.float32))
    operands = {"input": x, "weights": packed, "output": np.empty(want.shape, np.uint8)}
    np.testing.assert_array_equal(kernel("int8_depthwise", operands, ints)["output"], want)


@pytest.mark.parametrize(("pixels", "channels"), [(1, 1), (49, 1280), (6, 37), (200, 16)])
def test_mean_over_an_image(pixels: int, channels: int, kernel: KernelRunner, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (3, pixels, channels), np.uint8)
    scale = rng.uniform(0.01, 0.1, channels).astype(np.float32)
    operands = {"input": x, "scale": scale, "output": np.empty((3, channels), np.float32)}
    got = kernel("int8_global_average_pool", operands, {"batch": 3, "pixels": pixels, "channels": channels})["output"]
    np.testing.assert_allclose(got, x.mean(axis=1) * scale, rtol=1e-6)


def test_weights_of_another_kind_are_refused(kernel: KernelRunner) -> None:
    ints = CASES[0].ints()
    with pytest.raises(ValueError, match="int8 weights"):
        kernel.pack("int8_conv2d", ints, np.zeros((1, 1, 8, 16), np.float32), *[np.zeros(16, np.float32)] * 2)
