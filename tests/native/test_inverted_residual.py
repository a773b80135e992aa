"""The fused block against its three convolutions: threads that meet inside an image, rings that turn, every option."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import references
from conftest import KernelRunner
from test_conv2d import Case

from homespun import _native

ACTIVATIONS = _native.activations()


@dataclass(frozen=True)
class Block:
    batch: int
    size: tuple[int, int]
    channels: int
    hidden: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    expands: bool = True
    residual: str = ""
    activations: tuple[str, str, str] = ("relu6", "relu6", "none")


BLOCKS = [
    Block(1, (9, 7), 8, 24, 8, residual="after"),
    Block(2, (12, 15), 16, 96, 24, stride=2),
    Block(2, (13, 14), 5, 33, 7, kernel=5, pads=(2, 2, 2, 2), activations=("silu", "hard_swish", "relu")),
    Block(3, (8, 8), 12, 40, 12, kernel=5, stride=2, pads=(1, 1, 2, 2)),
    Block(2, (40, 56), 4, 144, 4, residual="before", activations=("relu6", "relu6", "relu")),  # the ring turns
    Block(1, (2, 3), 8, 16, 40),
    Block(3, (7, 7), 32, 32, 48, expands=False, activations=("none", "relu6", "relu6")),
    Block(1, (30, 20), 20, 20, 20, expands=False, residual="after"),
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_inverted_residual(kernel: KernelRunner, rng: np.random.Generator, block: Block) -> None:
    hidden = block.hidden
    first = Case(batch=block.batch, size=block.size, channels=(block.channels, hidden))
    second = Case(
        batch=block.batch, size=block.size, channels=(hidden, hidden), kernel=(block.kernel, block.kernel),
        stride=(block.stride, block.stride), pads=block.pads, groups=hidden,
    )  # fmt: skip
    third = Case(batch=block.batch, size=second.out, channels=(hidden, block.out_channels))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[:-1])))

    x = rng.standard_normal((block.batch, *block.size, block.channels), np.float32)
    expand = normal(1, 1, block.channels, hidden)
    filters = normal(block.kernel, block.kernel, 1, hidden)
    project = normal(1, 1, hidden, block.out_channels)
    biases = [rng.standard_normal(n, np.float32) for n in (hidden, hidden, block.out_channels)]
    residual = (
        rng.standard_normal((block.batch, *second.out, block.out_channels), np.float32) if block.residual else None
    )
    ints = {
        "batch": block.batch, "height": block.size[0], "width": block.size[1], "channels": block.channels,
        "hidden": hidden, "out_height": second.out[0], "out_width": second.out[1], "out_channels": block.out_channels,
        "kernel_h": block.kernel, "kernel_w": block.kernel, "stride_h": block.stride, "stride_w": block.stride,
        "pad_top": block.pads[0], "pad_left": block.pads[1], "expands": int(block.expands),
        "expand_activation": ACTIVATIONS[block.activations[0]],
        "depthwise_activation": ACTIVATIONS[block.activations[1]],
        "activation": ACTIVATIONS[block.activations[2]], "residual_after": int(block.residual == "after"),
    }  # fmt: skip
    operands = {
        "input": x,
        "depthwise_weights": kernel.pack("depthwise", second.ints(), filters), "depthwise_bias": biases[1],
        "project_weights": kernel.pack("conv2d", third.ints(), project), "project_bias": biases[2],
        "output": np.zeros((block.batch, *second.out, block.out_channels), np.float32),
    }  # fmt: skip
    expected = x
    if block.expands:
        operands |= {"expand_weights": kernel.pack("conv2d", first.ints(), expand), "expand_bias": biases[0]}
        expected = references.conv2d(x, expand, block.size)
        expected = references.finish(expected, biases[0], None, block.activations[0], False)
    if residual is not None:
        operands["residual"] = residual
    expected = references.conv2d(expected, filters, second.out, hidden, stride=second.stride, pads=block.pads[:2])
    expected = references.finish(expected, biases[1], None, block.activations[1], False)
    expected = references.conv2d(expected, project, second.out)
    expected = references.finish(expected, biases[2], residual, block.activations[2], block.residual == "after")
    got = kernel("inverted_residual", operands, ints)["output"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
