"""Operators that give values another shape or order: reshape, flatten, transpose; and identity and dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import ITEM_SIZE, Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Channels, Cost, Gradients, Operator
from homespun.ops.coupling import each_channel, stay


def free(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    """The cost of an operator that computes nothing."""
    return Cost(0)


def _reshape_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    shape = [x.shape[i] if d == 0 and i < len(x.shape) else d for i, d in enumerate(a["shape"])]
    known = math.prod(d for d in shape if d != -1)
    if shape.count(-1) == 1 and known and x.size % known == 0:
        shape[shape.index(-1)] = x.size // known
    if math.prod(shape) != x.size or -1 in shape:
        raise ShapeError(f"can't reshape {x.size} elements to {list(a['shape'])}")
    return [TensorType(tuple(shape), x.dtype)]


def _alias_lower(low: Any, node: Node) -> None:
    low.alias(node.outputs[0], node.inputs[0])


def _reshape_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    shape = build.type(node.inputs[0]).shape
    return [dy if build.type(dy).shape == shape else build.add("reshape", [dy], node.inputs[0], shape=shape)]


def _reshape_to_onnx(write: Any, node: Node) -> None:
    shape = np.asarray(write.attributes(node)["shape"], np.int64)
    write.give(node.outputs[0], write("Reshape", write.ours(node.inputs[0]), shape))


def _flatten_to_onnx(write: Any, node: Node) -> None:
    shape = write.type(node.inputs[0]).shape
    points = len(shape) == 4 and shape[1] == shape[2] == 1  # then both orders of axes are the same
    x = write.first(node.inputs[0]) if points else write.ours(node.inputs[0])
    write.give(node.outputs[0], write("Flatten", x))


def _identity_to_onnx(write: Any, node: Node) -> None:
    (x,), first = write.together(node.inputs[0])
    write.give(node.outputs[0], write("Identity", x), first)


def _dropout_to_onnx(write: Any, node: Node) -> None:
    """ONNX has no word for whole samples, so that an exported network is one without stochastic depth."""
    a = write.attributes(node)
    if a["samples"]:
        _identity_to_onnx(write, node)
        return
    (x,), first = write.together(node.inputs[0])
    write.give(node.outputs[0], write("Dropout", x, float(a["rate"])), first)


def _reshape_channels(channels: Channels, node: Node) -> None:
    """Where the last axes are merged, or the last is as before, each channel comes back once for each pixel."""
    before, after = channels.type(node.inputs[0]).shape, channels.type(node.outputs[0]).shape
    width = next((math.prod(before[i:]) for i in range(len(before)) if math.prod(before[i:]) == after[-1]), None)
    if width is None or width < before[-1]:
        stay(channels, node)
        return
    numbers = np.tile(channels.of(node.inputs[0]), width // before[-1])
    channels.give(node.outputs[0], numbers)
    shape = cast(tuple[int, ...], node.attributes.get("shape", (-1,)))
    if shape[-1] > 0:
        channels.adjust("shape", lambda left: (*shape[:-1], left(numbers)))


RESHAPE = Operator(
    "reshape",
    ("x",),
    _reshape_shape,
    {"shape": REQUIRED},
    cost=free,
    lower=_alias_lower,
    gradient=_reshape_gradient,
    in_place=(0,),
    onnx="Reshape",
    to_onnx=_reshape_to_onnx,
    channels=_reshape_channels,
)


def _flatten_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    return [TensorType((x.shape[0], x.size // x.shape[0]), x.dtype)]


FLATTEN = Operator(
    "flatten",
    ("x",),
    _flatten_shape,
    cost=free,
    lower=_alias_lower,
    gradient=_reshape_gradient,
    in_place=(0,),
    onnx="Flatten",
    to_onnx=_flatten_to_onnx,
    channels=_reshape_channels,
)


def _same(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[0] is not None
    return [ins[0]]


def _dropout_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    if not 0.0 <= a["rate"] <= 1.0:
        raise ShapeError(f"rate is {a['rate']}; it can be 0 to 1")
    return _same(a, ins)


IDENTITY = Operator(
    "identity",
    ("x",),
    _same,
    cost=free,
    lower=_alias_lower,
    gradient=_reshape_gradient,
    in_place=(0,),
    rows=("x",),
    onnx="Identity",
    to_onnx=_identity_to_onnx,
    channels=each_channel,
)
#: Zeroes a share `rate` of the values in training and scales the rest (Srivastava et al. 2014); nothing in inference.
#: With `samples`, whole samples at once: stochastic depth, where it stands before a residual is added (Huang et al.
#: 2016, "Deep Networks with Stochastic Depth", section 3).
DROPOUT = Operator(
    "dropout",
    ("x",),
    _dropout_shape,
    {"rate": 0.5, "samples": False},
    cost=free,
    lower=_alias_lower,
    in_place=(0,),
    rows=("x",),
    onnx="Dropout",
    to_onnx=_dropout_to_onnx,
    channels=each_channel,
)


def _permutation(a: Attributes, rank: int) -> tuple[int, ...]:
    axes = tuple(a["axes"])
    if sorted(axes) != list(range(rank)):
        raise ShapeError(f"axes {list(axes)} are no permutation of {rank} axes")
    return axes


def _transpose_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    return [TensorType(tuple(x.shape[i] for i in _permutation(a, len(x.shape))), x.dtype)]


def _transpose_lower(low: Any, node: Node) -> None:
    x = low.type(node.inputs[0])
    axes = _permutation(low.attributes(node), len(x.shape))
    strides = [math.prod(x.shape[i + 1 :]) for i in range(len(x.shape))]
    strided_copy(low, node, node.inputs[0], [x.shape[i] for i in axes], [strides[i] for i in axes])


def strided_copy(
    low: Any,
    node: Node,
    source: str,
    dims: list[int],
    strides: list[int],
    offset: int = 0,
    out_offset: int = 0,
    out_strides: list[int] | None = None,
    output: str = "",
) -> None:
    """Emit `y[out_offset + i.out_strides] = x[offset + i.strides]` over `dims`, in elements; at most six axes."""
    output = output or node.outputs[0]
    if out_strides is None:
        out_strides = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    if len(dims) > 6:
        raise ShapeError(f"node {node}: more than six axes")
    pad = 6 - len(dims)
    dims, strides, out_strides = [1] * pad + dims, [0] * pad + strides, [0] * pad + out_strides
    ints = {"element_bytes": ITEM_SIZE[low.type(source).dtype], "input_offset": offset, "output_offset": out_offset}
    for i in range(6):
        ints |= {f"d{i}": dims[i], f"s{i}": strides[i], f"o{i}": out_strides[i]}
    low.emit("strided_copy", {"input": source, "output": output}, ints)


def _transpose_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    axes = _permutation(node.attributes, len(build.type(dy).shape))
    back = tuple(axes.index(i) for i in range(len(axes)))
    return [build.add("transpose", [dy], node.inputs[0], axes=back)]


def _transpose_to_onnx(write: Any, node: Node) -> None:
    x, y, axes = node.inputs[0], node.outputs[0], tuple(write.attributes(node)["axes"])
    if axes == (0, 3, 1, 2):
        write.give(y, write("Identity", write.first(x)))
    elif axes == (0, 2, 3, 1):
        write.give(y, write("Identity", write.ours(x)), True)
    else:
        write.give(y, write("Transpose", write.ours(x), perm=list(axes)))


def _transpose_channels(channels: Channels, node: Node) -> None:
    axes = cast(tuple[int, ...], node.attributes["axes"])
    rule = each_channel if axes[-1] == len(axes) - 1 else stay
    rule(channels, node)


TRANSPOSE = Operator(
    "transpose",
    ("x",),
    _transpose_shape,
    {"axes": REQUIRED},
    cost=free,
    lower=_transpose_lower,
    gradient=_transpose_gradient,
    onnx="Transpose",
    to_onnx=_transpose_to_onnx,
    channels=_transpose_channels,
)


OPERATORS = (RESHAPE, FLATTEN, IDENTITY, DROPOUT, TRANSPOSE)
