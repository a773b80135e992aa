"""Sums, means and maxima over neighbouring axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Channels, Cost, Gradients, Operator
from homespun.ops.coupling import each_channel, stay
from homespun.ops.parts import axis_of

CODES = {"reduce_sum": 0, "reduce_mean": 1, "reduce_max": 2}
_ONNX = {"reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax"}


def _axes(a: Attributes, rank: int) -> list[int]:
    axes = sorted({axis_of(i, rank) for i in a["axes"]})
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        raise ShapeError(f"axes {list(a['axes'])} are not neighbours; reduce in two steps")
    return axes


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    axes = _axes(a, len(x.shape))
    if a["keep_axes"]:
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    else:
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return [TensorType(shape, x.dtype)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(ins[0].size)


def _lower(low: Any, node: Node) -> None:
    x = low.type(node.inputs[0]).shape
    axes = _axes(low.attributes(node), len(x))
    ints = {
        "outer": math.prod(x[: axes[0]]),
        "reduce": math.prod(x[axes[0] : axes[-1] + 1]),
        "inner": math.prod(x[axes[-1] + 1 :]),
        "function": CODES[node.op],
    }
    low.emit("reduce", {"input": node.inputs[0], "output": node.outputs[0]}, ints)


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    x = node.inputs[0]
    t = build.type(x)
    axes = _axes(node.attributes, len(t.shape))
    kept = tuple(1 if i in axes else n for i, n in enumerate(t.shape))
    if build.type(dy).shape != kept:
        dy = build.add("reshape", [dy], x, shape=kept)
    count = math.prod(t.shape[i] for i in axes)
    spread = build.add("constant_like", [x], x, value=1.0 / count if node.op == "reduce_mean" else 1.0)
    dx = build.add("mul", [spread, dy], x)
    if node.op == "reduce_max":
        # To every element that equals the maximum: all of dx, less the part that lies below.
        most = build.add("reshape", [node.outputs[0]], x, shape=kept)
        below = build.add("unary_gradient", [build.add("sub", [most, x], x), dx], x, function="relu")
        dx = build.add("sub", [dx, below], x)
    return [dx]


def _to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    (x,), first = write.together(node.inputs[0])
    axes = _axes(a, len(write.type(node.inputs[0]).shape))
    if first and not a["keep_axes"]:
        x, first = write.ours(node.inputs[0]), False
    axes = sorted(write.axis(i, first) for i in axes)
    keeps = int(a["keep_axes"])
    if node.op == "reduce_sum":
        y = write("ReduceSum", x, np.asarray(axes, np.int64), keepdims=keeps)
    else:
        y = write(_ONNX[node.op], x, axes=axes, keepdims=keeps)
    write.give(node.outputs[0], y, first)


def _channels(channels: Channels, node: Node) -> None:
    rank = len(channels.type(node.inputs[0]).shape)
    rule = stay if rank - 1 in _axes(node.attributes, rank) else each_channel
    rule(channels, node)


OPERATORS = tuple(
    Operator(
        name,
        ("x",),
        _shape,
        {"axes": REQUIRED, "keep_axes": False},
        cost=_cost,
        lower=_lower,
        gradient=_gradient,
        saves=("x", "output") if name == "reduce_max" else (),
        onnx=_ONNX[name],
        to_onnx=_to_onnx,
        channels=_channels,
    )
    for name in CODES
)
