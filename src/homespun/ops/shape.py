"""Operators that move values and compute nothing: reshape, transpose, concatenation, slice, pad, identity, dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import ITEM_SIZE, Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Channels, Cost, Gradients, Operator, attributes
from homespun.ops.coupling import each_channel, stay


def _free(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
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
    cost=_free,
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
    cost=_free,
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
    cost=_free,
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
    cost=_free,
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
    cost=_free,
    lower=_transpose_lower,
    gradient=_transpose_gradient,
    onnx="Transpose",
    to_onnx=_transpose_to_onnx,
    channels=_transpose_channels,
)


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
    cost=_free,
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
    cost=_free,
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
    cost=_free,
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
    cost=_free,
    lower=_pad_lower,
    gradient=_pad_gradient,
    onnx="Pad",
    to_onnx=_pad_to_onnx,
    channels=_pad_channels,
)

OPERATORS = (RESHAPE, FLATTEN, IDENTITY, DROPOUT, TRANSPOSE, CONCAT, SLICE, SPLIT, PAD)
