"""Operators that only the backward pass has: gradients of element-wise functions, pooling, softmax; sums of gradients.

The gradient rules of the operators that need them stand with those operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Operator
from homespun.ops.pooling import pool_geometry
from homespun.ops.training_norm import is_half


def _like_first(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[0] is not None
    return [ins[0]]


def _lower_constant(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    low.emit("fill", {"output": node.outputs[0]}, {"count": t.size}, {"value": low.attributes(node)["value"]})


#: A tensor of the shape of another, float32, filled with one value.
CONSTANT_LIKE = Operator(
    "constant_like",
    ("x",),
    lambda a, ins: [TensorType(_like_first(a, ins)[0].shape)],
    {"value": REQUIRED},
    lower=_lower_constant,
    gradient=lambda build, node, grads: [None],
)


def _lower_add(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    operands = {"a": node.inputs[0], "b": node.inputs[1], "y": node.outputs[0]}
    low.emit("add_gradients", operands, {"count": t.size, "half": is_half(t)})


#: Sum of two gradients of the same tensor.
ADD_GRADIENTS = Operator("add_gradients", ("a", "b"), _like_first, lower=_lower_add, in_place=(0, 1))


def _lower_unary(low: Any, node: Node) -> None:
    a, t = low.attributes(node), low.type(node.inputs[0])
    ints = {"count": t.size, "activation": low.function(a["function"]), "half": is_half(t)}
    operands = {"x": node.inputs[0], "dy": node.inputs[1], "dx": node.outputs[0]}
    low.emit("unary_gradient", operands, ints, {"alpha": a["alpha"], "beta": a["beta"]})


UNARY_GRADIENT = Operator(
    "unary_gradient",
    ("x", "dy"),
    _like_first,
    {"function": REQUIRED, "alpha": 0.0, "beta": 0.0},
    lower=_lower_unary,
    in_place=(0, 1),
)


def _lower_softmax(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    ints = {"rows": t.size // t.shape[-1], "channels": t.shape[-1], "log": int(low.attributes(node)["log"])}
    low.emit("softmax_gradient", {"y": node.inputs[0], "dy": node.inputs[1], "dx": node.outputs[0]}, ints)


SOFTMAX_GRADIENT = Operator(
    "softmax_gradient", ("y", "dy"), _like_first, {"log": False}, lower=_lower_softmax, in_place=(0, 1)
)


def _lower_pool(low: Any, node: Node) -> None:
    x, dy = node.inputs
    ints = pool_geometry(low.attributes(node), low.type(x), low.type(dy))
    ints = {k: v for k, v in ints.items() if k not in ("dilation_h", "dilation_w")}
    x = "" if ints["average"] else x  # where the maximum was is read from x; a mean needs nothing
    low.emit("pool_gradient", {"x": x, "dy": dy, "dx": node.outputs[0]}, ints)


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
)


def _image_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    dy = _like_first(a, ins)[0]
    return [TensorType((dy.shape[0], *a["size"], dy.shape[-1]), dy.dtype)]


def _lower_image_mean(low: Any, node: Node) -> None:
    t = low.type(node.outputs[0])
    ints = {"batch": t.shape[0], "rows": math.prod(t.shape[1:-1]), "channels": t.shape[-1], "half": is_half(t)}
    low.emit("image_mean_gradient", {"dy": node.inputs[0], "dx": node.outputs[0]}, ints)


#: Gradient of the mean over an image of `size` (height, width).
IMAGE_MEAN_GRADIENT = Operator(
    "image_mean_gradient", ("dy",), _image_shape, {"size": REQUIRED}, lower=_lower_image_mean
)


def _lower_dropout(low: Any, node: Node) -> None:
    a, t = low.attributes(node), low.type(node.outputs[0])
    ints = {"count": t.size, "layer": a["layer"], "half": is_half(t)}
    operands = {"x": node.inputs[0], "random": node.inputs[1], "y": node.outputs[0]}
    low.emit("dropout", operands, ints, {"rate": a["rate"]})


def _dropout_gradient(build: Any, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    a = {"rate": node.attributes["rate"], "layer": node.attributes["layer"]}
    return [build.add("train_dropout", [dy, node.inputs[1]], node.inputs[0], **a), None]


#: Dropout in training. `random` is the state (seed, step); `layer` tells the dropouts of a network apart. The gradient
#: draws the same numbers again, so nothing is saved.
TRAIN_DROPOUT = Operator(
    "train_dropout",
    ("x", "random"),
    _like_first,
    {"rate": REQUIRED, "layer": REQUIRED},
    lower=_lower_dropout,
    gradient=_dropout_gradient,
    saves=("random",),
    in_place=(0,),
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
CAST = Operator("cast", ("x",), _cast_shape, {"dtype": REQUIRED}, lower=_lower_cast, gradient=_cast_gradient)

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
