"""Pooling over channels-last images: maximum, average, and the mean over the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.convolution import onnx_window, padding_of, window, window_geometry
from homespun.ops.coupling import each_channel
from homespun.ops.storage import is_half


def _pool_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    if len(x.shape) != 4:
        raise ShapeError("expected an image (N, H, W, C)")
    size = (x.shape[1], x.shape[2])
    pads = padding_of(a, size, a["kernel"])
    h, w = window(size, a["kernel"], a["stride"], a["dilation"], pads, a["ceil"])
    return [TensorType((x.shape[0], h, w, x.shape[3]), x.dtype)]


def _pool_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(a["kernel"][0] * a["kernel"][1] * outs[0].size)


def pool_geometry(a: Attributes, x: TensorType, y: TensorType) -> dict[str, int]:
    """The integers that describe a pooling to a kernel, forward and backward."""
    _, _, bottom, right = padding_of(a, (x.shape[1], x.shape[2]), a["kernel"])
    return {
        **window_geometry(a, x, y, a["kernel"]),
        "pad_bottom": bottom,
        "pad_right": right,
        "average": int(a.get("average", False)),
        "count_include_pad": int(a.get("count_include_pad", False)),
        "half": is_half(x),
    }


def _pool_lower(low: Any, node: Node) -> None:
    a = {**low.attributes(node), "average": node.op == "average_pool"}
    ints = pool_geometry(a, low.type(node.inputs[0]), low.type(node.outputs[0]))
    low.emit("pool", {"input": node.inputs[0], "output": node.outputs[0]}, ints)


def _pool_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    if tuple(node.attributes.get("dilation", (1, 1))) != (1, 1):  # type: ignore[arg-type]
        raise ShapeError(f"node {node}: dilated pooling has no gradient")
    average = node.op == "average_pool"
    x = node.inputs[0]
    return [build.add("pool_gradient", [x, dy], x, **node.attributes, average=average)]


def _pool_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    given: dict[str, Any] = {"kernel_shape": list(a["kernel"]), "ceil_mode": int(a["ceil"]), **onnx_window(a)}
    if node.op == "average_pool":
        if given.pop("dilations") != [1, 1]:
            raise ShapeError("average pooling with gaps between its pixels can't be written before operator set 19")
        given["count_include_pad"] = int(a["count_include_pad"])
    op = "MaxPool" if node.op == "max_pool" else "AveragePool"
    write.give(node.outputs[0], write(op, write.first(node.inputs[0]), **given), True)


_WINDOW = {"kernel": REQUIRED, "stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "ceil": False}

MAX_POOL = Operator(
    "max_pool",
    ("x",),
    _pool_shape,
    _WINDOW,
    cost=_pool_cost,
    lower=_pool_lower,
    gradient=_pool_gradient,
    saves=("x",),
    onnx="MaxPool",
    to_onnx=_pool_to_onnx,
    channels=each_channel,
)
AVERAGE_POOL = Operator(
    "average_pool",
    ("x",),
    _pool_shape,
    {**_WINDOW, "count_include_pad": False},
    cost=_pool_cost,
    lower=_pool_lower,
    gradient=_pool_gradient,
    onnx="AveragePool",
    to_onnx=_pool_to_onnx,
    channels=each_channel,
)


def _global_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    if len(x.shape) != 4:
        raise ShapeError("expected an image (N, H, W, C)")
    return [TensorType((x.shape[0], 1, 1, x.shape[3]), x.dtype)]


def _global_lower(low: Any, node: Node) -> None:
    n, h, w, c = low.type(node.inputs[0]).shape
    half = is_half(low.type(node.inputs[0]))
    if half:
        ints = {"batch": n, "rows": h * w, "channels": c, "half": half}
        low.emit("image_mean", {"x": node.inputs[0], "y": node.outputs[0]}, ints)
        return
    low.emit(
        "global_average_pool",
        {"input": node.inputs[0], "output": node.outputs[0]},
        {"batch": n, "pixels": h * w, "channels": c},
    )


def _global_to_onnx(write: Any, node: Node) -> None:
    write.give(node.outputs[0], write("GlobalAveragePool", write.first(node.inputs[0])), True)


def _global_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    _, h, w, _ = build.type(node.inputs[0]).shape
    return [build.add("image_mean_gradient", [dy], node.inputs[0], size=(h, w))]


def _global_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(ins[0].size)


GLOBAL_AVERAGE_POOL = Operator(
    "global_average_pool",
    ("x",),
    _global_shape,
    cost=_global_cost,
    lower=_global_lower,
    gradient=_global_gradient,
    onnx="GlobalAveragePool",
    to_onnx=_global_to_onnx,
    channels=each_channel,
)

OPERATORS = (MAX_POOL, AVERAGE_POOL, GLOBAL_AVERAGE_POOL)
