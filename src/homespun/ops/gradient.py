"""Operators that only the backward pass has: gradients of element-wise functions, pooling, softmax; sums of gradients.

The gradient rules of the operators that need them stand with those operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ModelError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Operator
from homespun.ops.activation import onnx_slope
from homespun.ops.convolution import onnx_window, padding_of
from homespun.ops.coupling import each_channel
from homespun.ops.pooling import pool_geometry
from homespun.ops.storage import is_half


def _like_first(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[0] is not None
    return [ins[0]]


def _lower_constant(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    low.emit("fill", {"output": node.outputs[0]}, {"count": t.size}, {"value": low.attributes(node)["value"]})


def _constant_to_onnx(write: Any, node: Node) -> None:
    y, value = write.type(node.outputs[0]), write.attributes(node)["value"]
    if len(y.shape) == 4:
        write.give(node.outputs[0], write.filled(write.shape(node.outputs[0], True), value), True)
    else:
        write.give(node.outputs[0], write.filled(y.shape, value))


#: A tensor of the shape of another, float32, filled with one value.
CONSTANT_LIKE = Operator(
    "constant_like",
    ("x",),
    lambda a, ins: [TensorType(_like_first(a, ins)[0].shape)],
    {"value": REQUIRED},
    lower=_lower_constant,
    gradient=lambda build, node, grads: [None],
    to_onnx=_constant_to_onnx,
)


def _lower_add(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    channels = t.shape[-1] if t.shape else 1
    operands = {"a": node.inputs[0], "b": node.inputs[1], "y": node.outputs[0]}
    low.emit("add_gradients", operands, {"rows": t.size // channels, "channels": channels, "half": is_half(t)})


def _add_to_onnx(write: Any, node: Node) -> None:
    operands, first = write.together(*node.inputs)
    write.give(node.outputs[0], write("Add", *operands), first)


#: Sum of two gradients of the same tensor.
ADD_GRADIENTS = Operator(
    "add_gradients", ("a", "b"), _like_first, lower=_lower_add, in_place=(0, 1), to_onnx=_add_to_onnx
)


def _lower_unary(low: Any, node: Node) -> None:
    a, t = low.attributes(node), low.type(node.inputs[0])
    ints = {"count": t.size, "activation": low.function(a["function"]), "half": is_half(t)}
    operands = {"x": node.inputs[0], "dy": node.inputs[1], "dx": node.outputs[0]}
    low.emit("unary_gradient", operands, ints, {"alpha": a["alpha"], "beta": a["beta"]})


def _unary_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    (x, dy), first = write.together(*node.inputs)
    slope = onnx_slope(write, a["function"], x, float(a["alpha"]), float(a["beta"]))
    write.give(node.outputs[0], write("Mul", dy, slope), first)


UNARY_GRADIENT = Operator(
    "unary_gradient",
    ("x", "dy"),
    _like_first,
    {"function": REQUIRED, "alpha": 0.0, "beta": 0.0},
    lower=_lower_unary,
    in_place=(0, 1),
    to_onnx=_unary_to_onnx,
)


def _lower_softmax(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    ints = {"rows": t.size // t.shape[-1], "channels": t.shape[-1], "log": int(low.attributes(node)["log"])}
    low.emit("softmax_gradient", {"y": node.inputs[0], "dy": node.inputs[1], "dx": node.outputs[0]}, ints)


def _softmax_to_onnx(write: Any, node: Node) -> None:
    (y, dy), first = write.together(*node.inputs)
    log = write.attributes(node)["log"]
    axis = np.asarray([1 if first else -1], np.int64)
    total = write("ReduceSum", dy if log else write("Mul", dy, y), axis)
    dx = write("Sub", dy, write("Mul", write("Exp", y), total)) if log else write("Mul", y, write("Sub", dy, total))
    write.give(node.outputs[0], dx, first)


SOFTMAX_GRADIENT = Operator(
    "softmax_gradient",
    ("y", "dy"),
    _like_first,
    {"log": False},
    lower=_lower_softmax,
    in_place=(0, 1),
    to_onnx=_softmax_to_onnx,
)


def _lower_pool(low: Any, node: Node) -> None:
    x, dy = node.inputs
    ints = pool_geometry(low.attributes(node), low.type(x), low.type(dy))
    ints = {k: v for k, v in ints.items() if k not in ("dilation_h", "dilation_w")}
    x = "" if ints["average"] else x  # where the maximum was is read from x; a mean needs nothing
    low.emit("pool_gradient", {"x": x, "dy": dy, "dx": node.outputs[0]}, ints)


def _pool_to_onnx(write: Any, node: Node) -> None:
    """The maximum's gradient is scattered to where the maximum was; the mean's spread over its window."""
    a = write.attributes(node)
    x, dy = write.first(node.inputs[0]), write.first(node.inputs[1])
    n, c, h, w = write.shape(node.inputs[0], True)
    spans = {"kernel_shape": list(a["kernel"]), "ceil_mode": int(a["ceil"]), **onnx_window(a)}
    if not a["average"]:
        _, places = write("MaxPool", x, outputs=2, **spans)
        flat = np.asarray([-1], np.int64)
        updates = (write("Reshape", places, flat), write("Reshape", dy, flat))
        dx = write("ScatterElements", write.filled((n * c * h * w,), 0.0), *updates, axis=0, reduction="add")
        write.give(node.outputs[0], write("Reshape", dx, np.asarray([n, c, h, w], np.int64)), True)
        return
    kernel, pads = a["kernel"], padding_of(a, (h, w), a["kernel"])
    if tuple(a["dilation"]) != (1, 1):
        raise ModelError(f"node {node}: dilated average pooling can't be written as ONNX")
    out = write.shape(node.inputs[1], True)[2:]
    spread = np.full((c, 1, *kernel), 1.0, np.float32)
    share = _shares(a, (h, w), out, pads)
    full = write("ConvTranspose", write("Mul", dy, share), spread, strides=list(a["stride"]), group=c)
    write.give(
        node.outputs[0],
        write.cut(full, [(n - 1) * s + k for n, s, k in zip(out, a["stride"], kernel, strict=True)], pads, (h, w)),
        True,
    )


def _shares(a: Attributes, size: tuple[int, int], out: Sequence[int], pads: tuple[int, ...]) -> Any:
    """One over the number of pixels that each window of an average counts, (1, 1, height, width)."""
    counts = []
    for axis in range(2):
        starts = np.arange(out[axis]) * a["stride"][axis] - pads[axis]
        ends = starts + a["kernel"][axis]
        if a["count_include_pad"]:
            counts.append(np.minimum(ends, size[axis] + pads[axis + 2]) - starts)
        else:
            counts.append(np.minimum(ends, size[axis]) - np.maximum(starts, 0))
    area = np.maximum(1, counts[0][:, None] * counts[1][None, :])
    return (1.0 / area).astype(np.float32)[None, None]


POOL_GRADIENT = Operator(
    "pool_gradient",
    ("x", "dy"),
    _like_first,
    {
        "kernel": REQUIRED,
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": (0, 0, 0, 0),
        "ceil": False,
        "count_include_pad": False,
        "average": False,
    },
    lower=_lower_pool,
    to_onnx=_pool_to_onnx,
)


def _image_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    dy = _like_first(a, ins)[0]
    return [TensorType((dy.shape[0], *a["size"], dy.shape[-1]), dy.dtype)]


def _lower_image_mean(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    ints = {"batch": t.shape[0], "rows": math.prod(t.shape[1:-1]), "channels": t.shape[-1], "half": is_half(t)}
    low.emit("image_mean_gradient", {"dy": node.inputs[0], "dx": node.outputs[0]}, ints)


def _image_mean_to_onnx(write: Any, node: Node) -> None:
    height, width = write.attributes(node)["size"]
    shape = np.asarray(write.shape(node.outputs[0], True), np.int64)
    dx = write("Expand", write("Div", write.first(node.inputs[0]), float(height * width)), shape)
    write.give(node.outputs[0], dx, True)


#: Gradient of the mean over an image of `size` (height, width).
IMAGE_MEAN_GRADIENT = Operator(
    "image_mean_gradient",
    ("dy",),
    _image_shape,
    {"size": REQUIRED},
    lower=_lower_image_mean,
    to_onnx=_image_mean_to_onnx,
)


def _lower_dropout(low: Any, node: Node) -> None:
    a, t = low.attributes(node), low.type(node.outputs[0])
    together = t.size // t.shape[0] if a["samples"] else 1
    ints = {"count": t.size, "together": together, "layer": a["layer"], "half": is_half(t)}
    operands = {"x": node.inputs[0], "random": node.inputs[1], "y": node.outputs[0]}
    low.emit("dropout", operands, ints, {"rate": a["rate"]})


def _dropout_gradient(build: Any, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    return [build.add("train_dropout", [dy, node.inputs[1]], node.inputs[0], **node.attributes), None]


def _dropout_to_onnx(write: Any, node: Node) -> None:
    """The runtime draws the numbers, so the backward pass reads the forward pass's mask.

    For whole samples, the mask is that of one value of each; of constants, a runtime would draw them once for all.
    """
    a = write.attributes(node)
    key, scale = ("dropout", a["layer"]), 1.0 / (1.0 - a["rate"]) if a["rate"] < 1 else 0.0
    (x,), first = write.together(node.inputs[0])
    drawn = key not in write.shared
    if drawn:
        axes = np.arange(1, len(write.type(node.inputs[0]).shape))
        source = write("Slice", x, 0 * axes, 0 * axes + 1, axes) if a["samples"] else x
        y, mask = write("Dropout", source, float(a["rate"]), np.asarray(True), outputs=2, seed=a["layer"] + 1)
        write.shared[key] = (mask, first)
    mask, layout = write.shared[key]
    if a["samples"] or not drawn:
        first = first if a["samples"] else layout
        x = write.first(node.inputs[0]) if first else write.ours(node.inputs[0])
        y = write("Mul", write("Mul", x, write("Cast", mask, to=1)), scale)
    write.give(node.outputs[0], y, first)


#: Dropout in training. `random` is the state (seed, step); `layer` tells the dropouts of a network apart; with
#: `samples`, a number holds for all values of a sample. The gradient draws them again, so nothing is saved.
TRAIN_DROPOUT = Operator(
    "train_dropout",
    ("x", "random"),
    _like_first,
    {"rate": REQUIRED, "layer": REQUIRED, "samples": False},
    lower=_lower_dropout,
    gradient=_dropout_gradient,
    saves=("random",),
    in_place=(0,),
    to_onnx=_dropout_to_onnx,
)


def _cast_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    return [TensorType(_like_first(a, ins)[0].shape, a["dtype"])]


def _lower_cast(low: Any, node: Node) -> None:
    x, y = low.type(node.inputs[0]), low.type(node.outputs[0])
    ints = {"count": x.size, "from_half": is_half(x), "to_half": is_half(y)}
    low.emit("cast", {"x": node.inputs[0], "y": node.outputs[0]}, ints)


def _cast_gradient(build: Any, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    return [build.add("cast", [dy], node.inputs[0], dtype=build.type(node.inputs[0]).dtype)]


#: Conversion between float32, bfloat16 and float16.
CAST = Operator(
    "cast",
    ("x",),
    _cast_shape,
    {"dtype": REQUIRED},
    lower=_lower_cast,
    gradient=_cast_gradient,
    channels=each_channel,
)

OPERATORS = (
    CONSTANT_LIKE,
    ADD_GRADIENTS,
    UNARY_GRADIENT,
    SOFTMAX_GRADIENT,
    POOL_GRADIENT,
    IMAGE_MEAN_GRADIENT,
    TRAIN_DROPOUT,
    CAST,
)
