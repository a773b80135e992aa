"""Convolution and linear kernels against NumPy: odd shapes, strides, pads, dilation, groups, every epilogue."""

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
    batch: int = 1
    size: tuple[int, int] = (5, 7)
    channels: tuple[int, int] = (8, 16)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    groups: int = 1
    activation: str = "none"
    bias: bool = True
    residual: str = ""  # "before" or "after" the activation

    @property
    def out(self) -> tuple[int, int]:
        top, left, bottom, right = self.pads
        height = (self.size[0] + top + bottom - (self.kernel[0] - 1) * self.dilation[0] - 1) // self.stride[0] + 1
        width = (self.size[1] + left + right - (self.kernel[1] - 1) * self.dilation[1] - 1) // self.stride[1] + 1
        return height, width

    def ints(self) -> dict[str, int]:
        """The ints of `conv2d` and `depthwise`."""
        return {
            "batch": self.batch, "height": self.size[0], "width": self.size[1], "channels": self.channels[0],
            "out_height": self.out[0], "out_width": self.out[1], "out_channels": self.channels[1],
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1],
            "stride_h": self.stride[0], "stride_w": self.stride[1],
            "dilation_h": self.dilation[0], "dilation_w": self.dilation[1], "pad_top": self.pads[0],
            "pad_left": self.pads[1], "groups": self.groups, "activation": ACTIVATIONS[self.activation],
            "residual_after": int(self.residual == "after"),
        }  # fmt: skip


CASES = [
    Case(),
    Case(batch=2, size=(7, 7), channels=(33, 65), activation="relu"),
    Case(size=(3, 3), channels=(5, 1), bias=False),
    Case(size=(1, 1), channels=(70, 100), activation="relu6"),
    Case(batch=3, size=(9, 11), channels=(24, 144), activation="relu6", residual="before"),
    Case(batch=2, size=(6, 5), channels=(12, 31), activation="hard_swish", residual="after"),
    Case(size=(14, 14), channels=(17, 40), activation="relu", residual="after"),
    Case(size=(4, 4), channels=(3000, 33), activation="silu", residual="before"),
    Case(size=(8, 8), channels=(8, 16), stride=(2, 2)),
    Case(batch=2, size=(13, 15), channels=(3, 32), kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1), activation="relu6"),
    Case(batch=2, size=(12, 14), channels=(3, 32), kernel=(3, 3), stride=(2, 2), pads=(0, 0, 1, 1), activation="relu6"),
    Case(size=(9, 8), channels=(16, 20), kernel=(3, 3), pads=(1, 1, 1, 1), residual="before"),
    Case(size=(9, 8), channels=(4, 9), kernel=(5, 3), pads=(2, 1, 2, 1), activation="leaky_relu"),
    Case(size=(11, 10), channels=(6, 7), kernel=(3, 3), dilation=(2, 3), pads=(2, 3, 2, 3)),
    Case(batch=2, size=(7, 9), channels=(12, 18), kernel=(3, 3), pads=(1, 1, 1, 1), groups=3, activation="sigmoid"),
    Case(size=(5, 5), channels=(8, 24), groups=4, residual="after", activation="relu"),
    Case(size=(30, 30), channels=(64, 48), kernel=(3, 3), pads=(1, 1, 1, 1), activation="relu"),
    Case(
        batch=2, size=(9, 33), channels=(5, 20), kernel=(3, 3), pads=(1, 1, 1, 1), residual="after", activation="silu"
    ),
    Case(batch=2, size=(10, 40), channels=(4, 20), kernel=(3, 5), stride=(2, 1), dilation=(2, 1), pads=(2, 2, 2, 2)),
    Case(size=(40, 30), channels=(6, 33), kernel=(4, 3), pads=(0, 0, 1, 2), residual="before"),
    Case(batch=2, size=(31, 33), channels=(12, 16), stride=(2, 2), activation="relu"),
    Case(size=(20, 20), channels=(300, 40), kernel=(3, 3), activation="relu"),
    Case(size=(3, 3), channels=(300, 64), kernel=(3, 3), pads=(1, 1, 1, 1)),
    Case(size=(6, 6), channels=(4, 4), kernel=(7, 7), pads=(3, 3, 3, 3)),
    Case(size=(2, 2), channels=(4, 4), kernel=(3, 3), pads=(3, 3, 3, 3)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d(kernel: KernelRunner, rng: np.random.Generator, case: Case) -> None:
    x = rng.standard_normal((case.batch, *case.size, case.channels[0]), np.float32)
    weights = rng.standard_normal((*case.kernel, case.channels[0] // case.groups, case.channels[1]), np.float32)
    weights /= np.sqrt(np.prod(weights.shape[:3]), dtype=np.float32)
    out_shape = (case.batch, *case.out, case.channels[1])
    bias = rng.standard_normal(case.channels[1], np.float32) if case.bias else None
    residual = rng.standard_normal(out_shape, np.float32) if case.residual else None
    ints = case.ints()
    operands = {"input": x, "weights": kernel.pack("conv2d", ints, weights), "output": np.zeros(out_shape, np.float32)}
    if bias is not None:
        operands["bias"] = bias
    if residual is not None:
        operands["residual"] = residual
    expected = references.conv2d(
        x, weights, case.out, case.groups, stride=case.stride, dilation=case.dilation, pads=case.pads[:2]
    )
    expected = references.finish(expected, bias, residual, case.activation, case.residual == "after", alpha=0.1)
    got = kernel("conv2d", operands, ints, {"alpha": 0.1})["output"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    if residual is not None:  # the sum may take the place of what was added
        got = kernel("conv2d", operands, ints, {"alpha": 0.1}, in_place={"output": "residual"})["output"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7, 50])
@pytest.mark.parametrize(("inner", "columns"), [(1, 1), (70, 33), (1280, 100), (2500, 48)])
def test_linear(kernel: KernelRunner, rng: np.random.Generator, rows: int, inner: int, columns: int) -> None:
    x = rng.standard_normal((rows, inner), np.float32)
    weights = rng.standard_normal((inner, columns), np.float32) / np.float32(np.sqrt(inner))
    bias = rng.standard_normal(columns, np.float32)
    ints = {"rows": rows, "inner": inner, "columns": columns, "activation": ACTIVATIONS["gelu"], "residual_after": 0}
    operands = {
        "input": x,
        "weights": kernel.pack("linear", ints, weights),
        "bias": bias,
        "output": np.zeros((rows, columns), np.float32),
    }
    got = kernel("linear", operands, ints)["output"]
    expected = references.activate("gelu", x.astype(np.float64) @ weights + bias)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
