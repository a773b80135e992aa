"""Normalisation: `batch_norm` over all axes but the last (Ioffe & Szegedy 2015).

For inference it is a scale and a shift a channel, which `compile.passes.fold_batch_norm` moves into the convolution
before it; alone it lowers to the `affine` kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Array, Node, TensorType
from homespun.graph.operator import Attributes, Channels, Cost, Operator


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    for name, t in zip(("weight", "bias", "mean", "variance"), ins[1:], strict=True):
        if t is None or t.shape != x.shape[-1:]:
            raise ShapeError(f"{name} must have one value for each of the {x.shape[-1]} channels")
    return [x]


def scale_and_shift(eps: float, weight: Array, bias: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """(scale, shift) in float32 with y = x * scale + shift, worked out in float64."""
    scale = weight.astype(np.float64) / np.sqrt(variance.astype(np.float64) + eps)
    shift = bias.astype(np.float64) - mean.astype(np.float64) * scale
    return scale.astype(np.float32), shift.astype(np.float32)


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(2 * outs[0].size)


def _lower(low: Any, node: Node) -> None:
    a = low.attributes(node)
    scale, shift = scale_and_shift(a["eps"], *(low.data(n) for n in node.inputs[1:]))
    y = low.type(node.outputs[0])
    operands = {
        "input": node.inputs[0],
        "scale": low.constant(scale),
        "shift": low.constant(shift),
        "output": node.outputs[0],
    }
    ints = {"rows": y.size // y.shape[-1], "channels": y.shape[-1], "activation": low.function("none")}
    low.emit("affine", operands, ints, {"alpha": 0.0, "beta": 0.0})


def _to_onnx(write: Any, node: Node) -> None:
    a, x = write.attributes(node), node.inputs[0]
    rank = len(write.type(x).shape)
    if rank not in (2, 4):  # channels are axis 1 there, which only these have here or are written with
        scale, shift = scale_and_shift(a["eps"], *(write.data(n) for n in node.inputs[1:]))
        write.give(node.outputs[0], write("Add", write("Mul", write.ours(x), scale), shift))
        return
    operands = [write.first(x) if rank == 4 else write.ours(x), *(write.ours(n) for n in node.inputs[1:])]
    y = write("BatchNormalization", *operands, epsilon=float(a["eps"]), momentum=1.0 - float(a["momentum"]))
    write.give(node.outputs[0], y, rank == 4)


def _channels(channels: Channels, node: Node) -> None:
    x, *statistics = node.inputs
    channels.couple(channels.of(x), *(channels.of(name) for name in statistics))
    channels.give(node.outputs[0], channels.of(x))


BATCH_NORM = Operator(
    name="batch_norm",
    inputs=("x", "weight", "bias", "mean", "variance"),
    attributes={"eps": 1e-5, "momentum": 0.1},
    shape=_shape,
    cost=_cost,
    lower=_lower,
    in_place=(0,),
    onnx="BatchNormalization",
    to_onnx=_to_onnx,
    channels=_channels,
)

OPERATORS = (BATCH_NORM,)
