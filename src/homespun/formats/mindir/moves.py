"""What MindSpore's operators that move values are in ONNX's terms: reshaping, joining, cutting, padding, shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.mindir.operation import Operation, Ref, Value
from homespun.formats.mindir.translation import Translation


def shape(t: Translation, op: Operation) -> Value:
    """`Shape`: lengths that the file knows, and what computes the others."""
    x = op.ref()
    found: Any = None
    lengths: list[Value] = []
    for axis, length in enumerate(t.shape(x)):
        if length < 0:
            found = found or t.emit("Shape", [x.name])
            lengths.append(t.emit("Gather", [found.name, t.constant(axis)], axis=0))
        else:
            lengths.append(length)
    return tuple(lengths)


def reshape(t: Translation, op: Operation) -> Value:
    """`Reshape` to a shape that is known, or made of lengths of other tensors."""
    wanted = op.inputs[1] if len(op.inputs) > 1 else op.setting(-1, "shape")
    if isinstance(wanted, tuple) and any(isinstance(w, Ref) for w in wanted):
        parts = [
            t.emit("Unsqueeze", [w.name], axes=[0]).name if isinstance(w, Ref) else t.constant([w]) for w in wanted
        ]
        return t.emit("Reshape", [op.ref().name, t.emit("Concat", parts, axis=0).name])
    return t.emit("Reshape", [op.ref().name, t.constant(op.numbers(1, "shape"))])


def flatten(t: Translation, op: Operation) -> Value:
    """`Flatten` to two axes; `FlattenExt` of the axes from a first to a last."""
    first, last = (op.setting(1, "start_dim", 0), op.setting(2, "end_dim", -1)) if op.kind == "FlattenExt" else (1, -1)
    if (first, last) == (1, -1):
        return t.emit("Flatten", [op.ref().name], axis=1)
    rank = len(t.shape(op.ref()))
    first, last = first % rank, last % rank
    sizes = t.shape(op.ref())
    middle = math.prod(sizes[first : last + 1])
    if first == 0 or min(sizes[first:]) < 0:
        raise Unsupported("it joins the batch with other axes")
    return t.emit("Reshape", [op.ref().name, t.constant([*[0] * first, middle, *sizes[last + 1 :]])], allowzero=0)


def transpose(t: Translation, op: Operation) -> Value:
    """`Transpose`."""
    rank = len(t.shape(op.ref()))
    return t.emit("Transpose", [op.ref().name], perm=[a % rank for a in op.numbers(1, "perm")])


def swap(t: Translation, op: Operation) -> Value:
    """`TransposeExt`: two axes change places."""
    order = list(range(len(t.shape(op.ref()))))
    a, b = op.setting(1, "dim0", 0), op.setting(2, "dim1", 1)
    order[a], order[b] = order[b], order[a]
    return t.emit("Transpose", [op.ref().name], perm=order)


def expand_dims(t: Translation, op: Operation) -> Value:
    """`ExpandDims`."""
    return t.emit("Unsqueeze", [op.ref().name], axes=[op.setting(1, "axis", 0)])


def squeeze(t: Translation, op: Operation) -> Value:
    """`Squeeze` of named axes, or of all but the batch that are one long."""
    sizes = t.shape(op.ref())
    axes = op.numbers(1, "axis", ()) or tuple(i for i, d in enumerate(sizes) if d == 1 and i)
    return t.emit("Squeeze", [op.ref().name], axes=list(axes)) if axes else op.ref()


def _parts(op: Operation) -> list[Ref]:
    parts = op.inputs[0] if op.inputs and isinstance(op.inputs[0], tuple) else op.inputs
    if not parts or len(parts) > 4096 or not all(isinstance(p, Ref) for p in parts):
        raise Unsupported("it joins something that is no tensor")
    return list(parts)


def concat(t: Translation, op: Operation) -> Value:
    """`Concat` of a tuple."""
    return t.emit("Concat", [p.name for p in _parts(op)], axis=op.setting(1, "axis", 0))


def stack(t: Translation, op: Operation) -> Value:
    """`Stack`: joined along a new axis."""
    axis = op.setting(1, "axis", 0)
    parts = [t.emit("Unsqueeze", [p.name], axes=[axis]).name for p in _parts(op)]
    return t.emit("Concat", parts, axis=axis)


def split(t: Translation, op: Operation) -> Value:
    """`Split` into equal parts, `SplitTensor` and `SplitWithSize` into parts of given lengths."""
    x = op.ref()
    axis = op.setting(1, "axis", 0) if op.kind == "Split" else op.setting(2, "axis", 0)
    axis %= len(t.shape(x))
    sizes = [d.shape[axis] for d in op.results]
    if not sizes or min(sizes) < 1:
        raise Unsupported("the file does not say how long its parts are")
    outputs = [t.fresh(f"{op.name}/{i}") for i in range(len(sizes))]
    t.emit_many("Split", [x.name], outputs, axis=axis, split=sizes)
    return tuple(Ref(o) for o in outputs)


def strided_slice(t: Translation, op: Operation) -> Value:
    """`StridedSlice` with steps of one: (x, begin, end, strides, five masks of bits)."""
    x = op.ref()
    sizes = t.shape(x)
    begin, end, steps = op.numbers(1, "begin"), op.numbers(2, "end"), op.numbers(3, "strides")
    masks = [
        op.setting(4 + i, f"{name}_mask", 0)
        for i, name in enumerate(("begin", "end", "ellipsis", "new_axis", "shrink_axis"))
    ]
    if masks[2] or masks[3]:
        raise Unsupported("it uses an ellipsis or a new axis")
    cuts, dropped = [], []
    for axis, (first, last, step) in enumerate(zip(begin, end, steps, strict=True)):
        size = sizes[axis]
        first = 0 if masks[0] >> axis & 1 else first
        shrinks = bool(masks[4] >> axis & 1)
        last = (first + 1 or size) if shrinks else size if masks[1] >> axis & 1 else last
        if shrinks:
            dropped.append(axis)
        if shrinks and axis == 0:
            raise Unsupported("it takes one sample out of the batch")
        if step != 1:
            raise Unsupported(f"its step is {step}; 1 can be read")
        if first != 0 or (last < size and size >= 0):
            cuts.append((axis, first, last))
    y = _sliced(t, x, cuts)
    return t.emit("Squeeze", [y.name], axes=dropped) if dropped else y


def _sliced(t: Translation, x: Ref, cuts: list[tuple[int, int, int]]) -> Ref:
    if not cuts:
        return x
    axes, starts, ends = zip(*cuts, strict=True)
    return t.emit("Slice", [x.name, t.constant(starts), t.constant(ends), t.constant(axes)])


def slice_(t: Translation, op: Operation) -> Value:
    """`Slice`: (x, begin, lengths)."""
    sizes = t.shape(op.ref())
    begin, lengths = op.numbers(1, "begin"), op.numbers(2, "size")
    cuts = [
        (axis, first, first + length)
        for axis, (size, first, length) in enumerate(zip(sizes, begin, lengths, strict=True))
        if first or length not in (-1, size)
    ]
    return _sliced(t, op.ref(), cuts)


def pad(t: Translation, op: Operation) -> Value:
    """`Pad` with (before, after) for each axis, and `PadV3`, which counts from the last axis."""
    rank = len(t.shape(op.ref()))
    value: Any = 0.0
    if op.kind == "Pad":
        given = op.attributes.get("paddings", op.inputs[1] if op.has(1) else None)
        pairs = [tuple(p) for p in given] if isinstance(given, tuple) else []
    else:
        found = op.numbers(1, "paddings")
        if op.setting(-1, "mode", "constant") != "constant" or not op.setting(-1, "paddings_contiguous", True):
            raise Unsupported("it pads with something else than a constant")
        pairs = list(zip(found[::2], found[1::2], strict=True))[::-1]
        pairs = [(0, 0)] * (rank - len(pairs)) + pairs
        value = op.setting(2, "value") if op.has(2) else 0.0
    if len(pairs) != rank or not all(len(p) == 2 and type(n) is int for p in pairs for n in p):
        raise Unsupported("its amounts do not fit its input")
    amounts = [p[0] for p in pairs] + [p[1] for p in pairs]
    return t.emit("Pad", [op.ref().name, t.constant(amounts), t.constant(value, np.float32)])


def broadcast(t: Translation, op: Operation) -> Value:
    """`BroadcastTo` where that changes nothing."""
    wanted = op.numbers(1, "shape")
    if wanted == t.shape(op.ref()):
        return op.ref()
    return t.emit("Expand", [op.ref().name, t.constant(wanted)])


def blocks(t: Translation, op: Operation) -> Value:
    """`DepthToSpace` and `SpaceToDepth`."""
    return t.emit(op.kind, [op.ref().name], blocksize=op.setting(1, "block_size", 1))


def shuffle(t: Translation, op: Operation) -> Value:
    """`ChannelShuffle`: channels in groups, read across the groups."""
    groups = op.setting(-1, "group", 1)
    _, channels, *rest = t.shape(op.ref())
    x = t.emit("Reshape", [op.ref().name, t.constant([0, groups, channels // groups, *rest])])
    x = t.emit("Transpose", [x.name], perm=[0, 2, 1, *range(3, 3 + len(rest))])
    return t.emit("Reshape", [x.name, t.constant([0, channels, *rest])])


RULES = {
    **dict.fromkeys(("Shape", "TensorShape", "DynamicShape"), shape),
    **{"Reshape": reshape, "View": reshape, "Flatten": flatten, "FlattenExt": flatten},
    **{"Transpose": transpose, "TransposeView": transpose, "TransposeExt": swap, "TransposeExtView": swap},
    **{"ExpandDims": expand_dims, "ExpandDimsView": expand_dims, "Squeeze": squeeze},
    **{"Concat": concat, "Stack": stack, "Pack": stack},
    **dict.fromkeys(("Split", "SplitTensor", "SplitTensorView", "SplitWithSize", "SplitWithSizeView"), split),
    **{"StridedSlice": strided_slice, "Slice": slice_, "Pad": pad, "PadV3": pad, "BroadcastTo": broadcast},
    **{"DepthToSpace": blocks, "SpaceToDepth": blocks, "ChannelShuffle": shuffle},
}
