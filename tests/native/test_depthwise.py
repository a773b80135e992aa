"""Depthwise convolution against NumPy: the blocks of its fast paths, their edges, and the general path."""

from __future__ import annotations

import numpy as np
import pytest
import references
from conftest import KernelRunner
from test_conv2d import Case

from homespun import _native

ACTIVATIONS = _native.activations()


def depthwise(
    size: tuple[int, int], channels: int, kernel: int, stride: int, pads: tuple[int, int, int, int], **more: object
) -> Case:
    case = {"size": size, "channels": (channels, channels), "kernel": (kernel, kernel), "stride": (stride, stride)}
    return Case(**case, pads=pads, groups=channels, **more)  # type: ignore[arg-type]


CASES = [
    depthwise((7, 7), 16, 3, 1, (1, 1, 1, 1), activation="relu6"),
    depthwise((9, 29), 35, 3, 1, (1, 1, 1, 1), activation="relu6", batch=2),
    depthwise((8, 30), 32, 3, 2, (1, 1, 1, 1), activation="relu"),
    depthwise((9, 31), 33, 3, 2, (0, 0, 1, 1), activation="none", bias=False),
    depthwise((14, 14), 96, 5, 1, (2, 2, 2, 2), activation="relu6"),
    depthwise((14, 15), 50, 5, 2, (1, 2, 2, 2), activation="hard_swish"),
    depthwise((3, 3), 1, 5, 1, (2, 2, 2, 2), bias=False),
    depthwise((1, 1), 20, 3, 1, (1, 1, 1, 1)),
    depthwise((2, 12), 7, 3, 1, (4, 4, 4, 4)),
    depthwise((12, 12), 18, 3, 3, (1, 1, 1, 1)),
    depthwise((12, 13), 18, 7, 1, (3, 3, 3, 3), activation="silu"),
    depthwise((12, 13), 18, 3, 1, (2, 2, 2, 2), dilation=(2, 2)),
    depthwise((10, 9), 24, 3, 1, (1, 1, 1, 1), residual="before", activation="relu"),
    depthwise((10, 9), 24, 3, 1, (1, 1, 1, 1), residual="after", activation="relu"),
    depthwise((10, 9), 24, 3, 1, (1, 1, 1, 1), residual="after", activation="silu"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_depthwise(kernel: KernelRunner, rng: np.random.Generator, case: Case) -> None:
    channels = case.channels[0]
    x = rng.standard_normal((case.batch, *case.size, channels), np.float32)
    weights = rng.standard_normal((*case.kernel, 1, channels), np.float32) / np.float32(case.kernel[0])
    shape = (case.batch, *case.out, channels)
    bias = rng.standard_normal(channels, np.float32) if case.bias else None
    residual = rng.standard_normal(shape, np.float32) if case.residual else None
    ints = case.ints()
    operands = {"input": x, "weights": kernel.pack("depthwise", ints, weights), "output": np.zeros(shape, np.float32)}
    if bias is not None:
        operands["bias"] = bias
    if residual is not None:
        operands["residual"] = residual
    got = kernel("depthwise", operands, ints)["output"]
    expected = references.conv2d(
        x, weights, case.out, channels, stride=case.stride, dilation=case.dilation, pads=case.pads[:2]
    )
    expected = references.finish(expected, bias, residual, case.activation, case.residual == "after")
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
