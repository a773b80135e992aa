"""`layer_norm` over the last axis. Source: Ba et al. 2016, "Layer Normalization"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator
from homespun.ops.storage import is_half
from homespun.ops.training_norm import rows_of


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    for name, t in zip(("weight", "bias"), ins[1:], strict=True):
        if not x.shape or t is None or t.shape != x.shape[-1:]:
            raise ShapeError(f"{name} must have one value for each element of the last axis of {list(x.shape)}")
    return [x]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(8 * outs[0].size)


def _call(low: Any, node: Node) -> tuple[dict[str, int], dict[str, float]]:
    t = low.type(node.inputs[0])
    return {"rows": rows_of(t), "channels": t.shape[-1], "half": is_half(t)}, {"epsilon": low.attributes(node)["eps"]}


def _lower(low: Any, node: Node) -> None:
    x, weight, bias = node.inputs
    low.emit("layer_norm", {"x": x, "weight": weight, "bias": bias, "y": node.outputs[0]}, *_call(low, node))


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    x, weight, _ = node.inputs
    stems = [name if build.wanted(name) else "" for name in node.inputs]
    found = build.add_many("layer_norm_gradient", [x, dy, weight], stems, eps=node.attributes.get("eps", _EPS))
    return [name or None for name in found]


def _to_onnx(write: Any, node: Node) -> None:
    operands = [write.ours(n) for n in node.inputs]
    y = write("LayerNormalization", *operands, axis=-1, epsilon=float(write.attributes(node)["eps"]))
    write.give(node.outputs[0], y)


_EPS = 1e-5
#: y = (x - mean) / sqrt(variance + eps) * weight + bias, mean and variance of each row.
LAYER_NORM = Operator(
    "layer_norm",
    ("x", "weight", "bias"),
    _shape,
    {"eps": _EPS},
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("x", "weight"),
    in_place=(0,),
    rows=("x",),
    onnx="LayerNormalization",
    to_onnx=_to_onnx,
)


def _gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    of_channels = TensorType(x.shape[-1:])
    return [x, of_channels, of_channels]


def _lower_gradient(low: Any, node: Node) -> None:
    operands = dict(zip(("x", "dy", "weight"), node.inputs, strict=True))
    operands |= dict(zip(("dx", "weight_gradient", "bias_gradient"), node.outputs, strict=True))
    low.emit("layer_norm_gradient", operands, *_call(low, node))


def _gradient_to_onnx(write: Any, node: Node) -> None:
    x, dy, weight = (write.ours(n) for n in node.inputs)
    dx, dw, db = node.outputs

    def mean(v: str) -> str:
        return str(write("ReduceMean", v, axes=[-1]))

    centred = write("Sub", x, mean(x))
    spread = mean(write("Mul", centred, centred))
    inverse = write("Reciprocal", write("Sqrt", write("Add", spread, float(write.attributes(node)["eps"]))))
    normal = write("Mul", centred, inverse)
    rows = np.arange(len(write.type(node.inputs[0]).shape) - 1)
    if dw:
        write.give(dw, write("ReduceSum", write("Mul", dy, normal), rows, keepdims=0))
    if db:
        write.give(db, write("ReduceSum", dy, rows, keepdims=0))
    if dx:
        g = write("Mul", dy, weight)
        along = write("Mul", normal, mean(write("Mul", g, normal)))
        write.give(dx, write("Mul", write("Sub", write("Sub", g, mean(g)), along), inverse))


LAYER_NORM_GRADIENT = Operator(
    "layer_norm_gradient",
    ("x", "dy", "weight"),
    _gradient_shape,
    {"eps": _EPS},
    cost=lambda a, ins, outs: Cost(16 * outs[0].size),
    lower=_lower_gradient,
    in_place=(1, 0),
    to_onnx=_gradient_to_onnx,
)

OPERATORS = (LAYER_NORM, LAYER_NORM_GRADIENT)
