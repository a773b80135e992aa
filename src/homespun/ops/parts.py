"""Operators that join, cut and pad tensors along an axis: concatenation, slice, split, pad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import ITEM_SIZE, Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Channels, Gradients, Operator, attributes
from homespun.ops.coupling import each_channel, stay
from homespun.ops.shape import free, strided_copy


def axis_of(axis: int, rank: int) -> int:
    """A possibly negative axis as one counted from the front. Raises `ShapeError` outside the rank."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is outside a tensor of {rank} axes")
    return axis % rank


def _concat_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    types = [t for t in ins if t is not None]
    first = types[0]
    axis = axis_of(a["axis"], len(first.shape))
    total = 0
    for t in types:
        if len(t.shape) != len(first.shape) or any(
            m != n for i, (m, n) in enumerate(zip(t.shape, first.shape, strict=True)) if i != axis
        ):
            raise ShapeError(f"shapes differ outside axis {axis}")
        total += t.shape[axis]
    return [TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)]


def _concat_lower(low: Any, node: Node) -> None:
    y = low.type(node.outputs[0])
    axis = axis_of(low.attributes(node)["axis"], len(y.shape))
    outer, inner = math.prod(y.shape[:axis]), math.prod(y.shape[axis + 1 :])
    row, start = y.shape[axis] * inner, 0
    for name in node.inputs:
        width = low.type(name).shape[axis] * inner
        if axis == len(y.shape) - 1:
            low.copy_columns(name, node.outputs[0], start, into=True)
        else:
            strided_copy(low, node, name, [outer, width], [width, 1], out_offset=start, out_strides=[row, 1])
        start += width


def _concat_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    axis = axis_of(cast(int, node.attributes.get("axis", -1)), len(build.type(dy).shape))
    parts: list[str | None] = []
    start = 0
    for name in node.inputs:
        stop = start + build.type(name).shape[axis]
        part = build.add("slice", [dy], name, axis=axis, start=start, stop=stop) if build.wanted(name) else None
        parts.append(part)
        start = stop
    return parts


def _concat_to_onnx(write: Any, node: Node) -> None:
    axis = axis_of(write.attributes(node)["axis"], len(write.type(node.inputs[0]).shape))
    parts, first = write.together(*node.inputs)
    write.give(node.outputs[0], write("Concat", *parts, axis=write.axis(axis, first)), first)


def _is_last(channels: Channels, node: Node) -> bool:
    """Whether the node works along the last axis, that of channels."""
    rank = len(channels.type(node.inputs[0]).shape)
    return axis_of(cast(int, attributes(node)["axis"]), rank) == rank - 1


def _concat_channels(channels: Channels, node: Node) -> None:
    numbers = [channels.of(name) for name in node.inputs]
    if _is_last(channels, node):
        channels.give(node.outputs[0], np.concatenate(numbers))
    else:
        channels.couple(*numbers)
        channels.give(node.outputs[0], numbers[0])


CONCAT = Operator(
    "concat",
    ("*",),
    _concat_shape,
    {"axis": -1},
    cost=free,
    lower=_concat_lower,
    gradient=_concat_gradient,
    onnx="Concat",
    to_onnx=_concat_to_onnx,
    channels=_concat_channels,
)


def _slice_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    axis = axis_of(a["axis"], len(x.shape))
    n = x.shape[axis]
    start, stop = a["start"], min(a["stop"], n)
    if not 0 <= start < stop:
        raise ShapeError(f"slice {a['start']}:{a['stop']} of an axis of {n} is empty")
    return [TensorType((*x.shape[:axis], stop - start, *x.shape[axis + 1 :]), x.dtype)]


def _slice_lower(low: Any, node: Node) -> None:
    a, x, y = low.attributes(node), low.type(node.inputs[0]), low.type(node.outputs[0])
    axis = axis_of(a["axis"], len(x.shape))
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    width = y.shape[axis] * inner
    if axis == len(x.shape) - 1:
        low.copy_columns(node.inputs[0], node.outputs[0], a["start"], into=False)
        return
    strided_copy(low, node, node.inputs[0], [outer, width], [x.shape[axis] * inner, 1], offset=a["start"] * inner)


def _slice_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    shape = build.type(node.inputs[0]).shape
    axis = axis_of(cast(int, node.attributes["axis"]), len(shape))
    start = node.attributes.get("start", 0)
    assert isinstance(start, int)
    before, after = [0] * len(shape), [0] * len(shape)
    before[axis], after[axis] = start, shape[axis] - start - build.type(dy).shape[axis]
    return [build.add("pad", [dy], node.inputs[0], before=tuple(before), after=tuple(after))]


def _slice_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    (x,), first = write.together(node.inputs[0])
    axis = write.axis(axis_of(a["axis"], len(write.type(node.inputs[0]).shape)), first)
    bounds = (np.asarray([n], np.int64) for n in (a["start"], a["stop"], axis))
    write.give(node.outputs[0], write("Slice", x, *bounds), first)


def _slice_channels(channels: Channels, node: Node) -> None:
    a, numbers = attributes(node), channels.of(node.inputs[0])
    if not _is_last(channels, node):
        each_channel(channels, node)
        return
    start, stop, _ = slice(a["start"], a["stop"]).indices(numbers.size)
    channels.give(node.outputs[0], numbers[start:stop])
    channels.adjust("start", lambda left: left(numbers[:start]))
    channels.adjust("stop", lambda left: left(numbers[:stop]))


SLICE = Operator(
    "slice",
    ("x",),
    _slice_shape,
    {"axis": REQUIRED, "start": 0, "stop": 1 << 62},
    cost=free,
    lower=_slice_lower,
    gradient=_slice_gradient,
    onnx="Slice",
    to_onnx=_slice_to_onnx,
    channels=_slice_channels,
)


def _split_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    axis = axis_of(a["axis"], len(x.shape))
    if min(a["sizes"]) < 1 or sum(a["sizes"]) != x.shape[axis]:
        raise ShapeError(f"sizes {list(a['sizes'])} do not fit an axis of {x.shape[axis]}")
    return [TensorType((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in a["sizes"]]


def _split_lower(low: Any, node: Node) -> None:
    a, x = low.attributes(node), low.type(node.inputs[0])
    axis = axis_of(a["axis"], len(x.shape))
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    row, start = x.shape[axis] * inner, 0
    for out, n in zip(node.outputs, a["sizes"], strict=True):
        if out and axis == len(x.shape) - 1:
            low.copy_columns(node.inputs[0], out, start, into=False)
        elif out:
            strided_copy(low, node, node.inputs[0], [outer, n * inner], [row, 1], offset=start, output=out)
        start += n * inner


def _split_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    axis = cast(int, node.attributes.get("axis", -1))
    parts = []
    for out, grad in zip(node.outputs, grads, strict=True):
        if grad is None:
            grad = build.add("constant_like", [out], node.inputs[0], value=0.0)
            if build.type(out).dtype != "float32":
                grad = build.add("cast", [grad], node.inputs[0], dtype=build.type(out).dtype)
        parts.append(grad)
    return [build.add("concat", parts, node.inputs[0], axis=axis)]


def _split_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    axis = axis_of(a["axis"], len(write.type(node.inputs[0]).shape))
    (x,), first = write.together(node.inputs[0])
    sizes = np.asarray(a["sizes"], np.int64)
    parts = write("Split", x, sizes, outputs=sizes.size, axis=write.axis(axis, first))
    for name, part in zip(node.outputs, parts if sizes.size > 1 else [parts], strict=True):
        write.give(name, part, first)


def _split_channels(channels: Channels, node: Node) -> None:
    numbers = channels.of(node.inputs[0])
    if not _is_last(channels, node):
        parts = [numbers] * len(node.outputs)
    else:
        sizes = cast(tuple[int, ...], node.attributes["sizes"])
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        channels.adjust("sizes", lambda left: tuple(left(part) for part in parts))
    for name, part in zip(node.outputs, parts, strict=True):
        if name:
            channels.give(name, part)


#: An axis cut into parts of the given sizes, one output each.
SPLIT = Operator(
    "split",
    ("x",),
    _split_shape,
    {"axis": -1, "sizes": REQUIRED},
    cost=free,
    lower=_split_lower,
    gradient=_split_gradient,
    onnx="Split",
    to_onnx=_split_to_onnx,
    channels=_split_channels,
)


def _pad_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    before, after = a["before"], a["after"]
    if len(before) != len(x.shape) or len(after) != len(x.shape) or min(*before, *after) < 0:
        raise ShapeError(f"padding {list(before)} and {list(after)} does not fit {len(x.shape)} axes")
    return [TensorType(tuple(n + b + e for n, b, e in zip(x.shape, before, after, strict=True)), x.dtype)]


def _pad_lower(low: Any, node: Node) -> None:
    a, x, y = low.attributes(node), low.type(node.inputs[0]), low.type(node.outputs[0])
    count, value = y.size, float(a["value"])
    if ITEM_SIZE[y.dtype] != 4:
        if value:
            raise ShapeError(f"node {node}: only zeros are filled into {y.dtype}")
        count = -(-y.nbytes // 4)  # zeros are the same in all types; tensors end at whole words
    low.emit("fill", {"output": node.outputs[0]}, {"count": count}, {"value": value})
    sx = [math.prod(x.shape[i + 1 :]) for i in range(len(x.shape))]
    sy = [math.prod(y.shape[i + 1 :]) for i in range(len(y.shape))]
    start = sum(b * s for b, s in zip(a["before"], sy, strict=True))
    strided_copy(low, node, node.inputs[0], list(x.shape), sx, out_offset=start, out_strides=sy)


def _pad_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dx,) = grads
    assert dx is not None
    shape = build.type(node.inputs[0]).shape
    before = node.attributes["before"]
    assert isinstance(before, tuple)
    for axis, (start, n) in enumerate(zip(before, shape, strict=True)):
        if build.type(dx).shape[axis] != n:
            dx = build.add("slice", [dx], node.inputs[0], axis=axis, start=int(start), stop=int(start) + n)
    return [dx]


def _pad_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    (x,), first = write.together(node.inputs[0])
    order = sorted(range(len(a["before"])), key=lambda i: write.axis(i, first))
    amounts = np.asarray([a[side][i] for side in ("before", "after") for i in order], np.int64)
    write.give(node.outputs[0], write("Pad", x, amounts, float(a["value"])), first)


def _pad_channels(channels: Channels, node: Node) -> None:
    before, after = (cast(tuple[int, ...], node.attributes[side]) for side in ("before", "after"))
    rule = each_channel if before[-1] == after[-1] == 0 else stay
    rule(channels, node)


PAD = Operator(
    "pad",
    ("x",),
    _pad_shape,
    {"before": REQUIRED, "after": REQUIRED, "value": 0.0},
    cost=free,
    lower=_pad_lower,
    gradient=_pad_gradient,
    onnx="Pad",
    to_onnx=_pad_to_onnx,
    channels=_pad_channels,
)


OPERATORS = (CONCAT, SLICE, SPLIT, PAD)
