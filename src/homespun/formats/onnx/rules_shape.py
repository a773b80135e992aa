"""What ONNX's operators that move values become: reshaping, transposing, joining, cutting, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from homespun.formats.assembly import FREE, Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.folding import resolved, slices, squeezed, unsqueezed
from homespun.formats.onnx.layout import Value, identity
from homespun.formats.onnx.nodes import ForeignNode
from homespun.formats.onnx.rules_elementwise import aligned


def reshape(imp: Conversion, node: ForeignNode) -> None:
    """`Reshape` to a constant shape; where the file fixes the batch, the batch stays free."""
    wanted = [int(d) for d in imp.constant(node, 1, "shape")]
    shape = imp.shape(node.inputs[0])
    value, allow_zero = imp.value(node.inputs[0]), bool(node.get("allowzero", 0))
    if imp.declared_batch is not None:
        wanted = _with_free_batch(shape, imp.before_batch(value), wanted, imp.declared_batch, allow_zero)
    target = resolved(shape, wanted, allow_zero)
    imp.values[node.outputs[0]] = _of_rows(imp, value, target) or imp.reshaped(value, target)


def _of_rows(imp: Conversion, value: Value, target: tuple[int, ...]) -> Value | None:
    """A layer between two reshapes, of which the second undoes the first: the same layer without them."""
    layer = imp.producer(value.name)
    joined = imp.producer(layer.inputs[0]) if layer is not None and layer.op in ("linear", "embedding") else None
    if not value.plain or layer is None or joined is None or joined.op not in ("reshape", "flatten"):
        return None
    rows, rest = imp.types[joined.inputs[0]].shape, imp.types[layer.inputs[0]].shape
    if layer.op == "linear":
        if rows[-1:] != rest[-1:]:
            return None
        rows = rows[:-1]
    if target != (*rows, imp.types[value.name].shape[-1]):
        return None
    return Value(imp.emit(layer.op, [joined.inputs[0], *layer.inputs[1:]]), identity(len(target)))


def _with_free_batch(shape: Sequence[int], before: int, wanted: list[int], fixed: int, allow_zero: bool) -> list[int]:
    """A target shape for the batch of the file, with the batch free in it; as it is where that can't be said.

    The batch stays at its place in the order of all values, `before` of which precede it.
    """
    if shape[0] == FREE and wanted and wanted[0] == fixed:
        return [FREE, *wanted[1:]]
    values = math.prod(shape)
    if values % FREE or any(d % FREE == 0 and d > 0 for d in wanted):
        return wanted
    there = [d // FREE * fixed if d % FREE == 0 else d for d in shape]
    target = list(resolved(there, wanted, allow_zero))
    behind = values // FREE // before
    found = []
    for i, length in enumerate(target):
        first, last = math.prod(target[:i]), math.prod(target[i + 1 :])
        if before % first == 0 and behind % last == 0 and length == before // first * fixed * (behind // last):
            found.append(i)
    if not found:
        return wanted
    # All of them keep samples apart; meant is an axis that is left open, holds nothing else, or stays as it is.
    at = next(i for i, d in enumerate(shape) if d % FREE == 0)
    stays = at in found and target[:at] == there[:at] and len(target) >= len(there)  # else rows are joined
    alone = [i for i in found if target[i] == fixed]
    opened = [i for i in found if -1 in wanted and wanted.index(-1) == i]
    place = (opened or alone or ([at] if stays else found))[0]
    target[place] = target[place] // fixed * FREE
    return target


def flatten(imp: Conversion, node: ForeignNode) -> None:
    """`Flatten` to two axes."""
    shape = imp.shape(node.inputs[0])
    axis = node.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    target = (math.prod(shape[:axis]), math.prod(shape[axis:]))
    imp.values[node.outputs[0]] = imp.reshaped(imp.value(node.inputs[0]), target)


def squeeze(imp: Conversion, node: ForeignNode) -> None:
    """`Squeeze` and `Unsqueeze`."""
    axes = imp.axes(node)
    shape = imp.shape(node.inputs[0])
    target = squeezed(shape, axes) if node.op == "Squeeze" else unsqueezed(shape, axes)
    imp.values[node.outputs[0]] = imp.reshaped(imp.value(node.inputs[0]), target)


def transpose(imp: Conversion, node: ForeignNode) -> None:
    """`Transpose`: nothing is computed, only remembered."""
    value = imp.value(node.inputs[0])
    rank = len(value.axes)
    permutation = node.get("perm", list(range(rank))[::-1])
    if sorted(permutation) != list(range(rank)):
        raise Unsupported(f"perm is {permutation}, which is no permutation of {rank} axes")
    if value.image is not None:
        value = imp.laid_out(value, identity(rank))
    imp.values[node.outputs[0]] = Value(value.name, tuple(permutation.index(a) for a in value.axes))


def shape(imp: Conversion, node: ForeignNode) -> None:
    """`Shape`: a constant, in which `FREE` stands for the batch."""
    found = imp.shape(node.inputs[0])
    imp.constants[node.outputs[0]] = np.asarray(found[node.get("start", 0) : node.attributes.get("end")], np.int64)


def concat(imp: Conversion, node: ForeignNode) -> None:
    """`Concat` along any axis but the batch; constants join for every sample, as the class tokens of encoders do."""
    rank = len(imp.shape(node.inputs[0]))
    axis = node.get("axis", 0) % rank
    if any(imp.shape(n)[axis] % FREE == 0 for n in node.inputs):
        raise Unsupported("it joins batches")
    values = aligned(imp, [n for n in node.inputs if not imp.is_constant(n)])
    like, found = values[0], iter(values)
    names = [_for_all(imp, n, like, axis) if imp.is_constant(n) else next(found).name for n in node.inputs]
    y = imp.emit("concat", names, axis=like.axes.index(axis))
    imp.values[node.outputs[0]] = Value(y, like.axes)


def _for_all(imp: Conversion, foreign: str, like: Value, axis: int) -> str:
    """A constant repeated for every sample: it is added to zeros that are as long as the batch."""
    place, ones = like.axes.index(axis), imp.add_array("zero", np.zeros((), np.float32))
    zeros = imp.emit("mul", [imp.cut(like.name, place, 0, 1), ones])
    if imp.constants[foreign].ndim != len(like.axes):
        raise Unsupported("it joins constants of other axes to computed values")
    return imp.emit("add", [imp.repeated(zeros, place, imp.shape(foreign)[axis]), imp.operand(foreign, like.axes).name])


def _cut(imp: Conversion, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    return Value(imp.cut(value.name, value.axes.index(axis), start, stop, step), value.axes)


def slice_(imp: Conversion, node: ForeignNode) -> None:
    """`Slice`, also with steps and from the end."""
    value = _ordered(imp, node.inputs[0])
    size = imp.shape(node.inputs[0])
    parts = [None, *(imp.constant(node, i, "range") if node.has(i) else None for i in range(1, 5))]
    for axis, start, end, step in slices(node, parts, len(size)):
        begin, stop, _ = slice(start, end if end > -(2**62) else None, step).indices(size[axis])
        value = _cut(imp, value, axis, begin, stop, step)
    imp.values[node.outputs[0]] = value


def split(imp: Conversion, node: ForeignNode) -> None:
    """`Split` into slices."""
    size = imp.shape(node.inputs[0])
    axis = node.get("axis", 0) % len(size)
    given = imp.constant(node, 1, "sizes").tolist() if node.has(1) else node.attributes.get("split")
    if not given:
        each = -(-size[axis] // len(node.outputs))
        given = [min(each, size[axis] - i * each) for i in range(len(node.outputs))]
    if sum(given) != size[axis] or len(given) != len(node.outputs) or min(given) < 1:
        raise Unsupported(f"parts of {given} do not fit an axis of {size[axis]}")
    value, start = _ordered(imp, node.inputs[0]), 0
    for out, part in zip(node.outputs, given, strict=True):
        if out and imp.is_read(out):
            imp.values[out] = _cut(imp, value, axis, start, start + part)
        start += part


def gather(imp: Conversion, node: ForeignNode) -> None:
    """`Gather` of known places out of a computed tensor, or of a table's rows."""
    if imp.is_constant(node.inputs[0]):
        embedding(imp, node)
        return
    indices = imp.constant(node, 1, "index")
    size = imp.shape(node.inputs[0])
    axis = node.get("axis", 0) % len(size)
    found = np.where(indices < 0, indices + size[axis], indices)
    flat = found.reshape(-1)
    value = _ordered(imp, node.inputs[0])
    value = Value(imp.picked(value.name, value.axes.index(axis), [int(i) for i in flat]), value.axes)
    if found.ndim != 1:
        value = imp.reshaped(value, [*size[:axis], *found.shape, *size[axis + 1 :]])
    imp.values[node.outputs[0]] = value


def embedding(imp: Conversion, node: ForeignNode) -> None:
    """`Gather` of rows of a constant table by numbers that the caller gives."""
    table = imp.constants[node.inputs[0]]
    ids = imp.plain(node.inputs[1])
    if table.ndim != 2 or table.dtype != np.float32 or node.get("axis", 0) != 0 or imp.types[ids].dtype != "int32":
        raise Unsupported("it looks something up that is no row of a table of numbers")
    imp.set(node.outputs[0], imp.emit("embedding", [ids, imp.layer_weight(node.inputs[0], "table", table)]))


def pad(imp: Conversion, node: ForeignNode) -> None:
    """`Pad` with a constant, or with what stands at the rim; negative amounts cut."""
    mode = node.get("mode", "constant")
    value = _ordered(imp, node.inputs[0])
    rank = len(value.axes)
    pads = [int(p) for p in imp.constant(node, 1, "amount")]
    axes = [int(a) % rank for a in imp.constant(node, 3, "axes")] if node.has(3) else list(range(rank))
    number = float(imp.constant(node, 2, "value").item()) if node.has(2) else 0.0
    if mode not in ("constant", "reflect", "edge") or len(pads) != 2 * len(axes) or not math.isfinite(number):
        raise Unsupported(f"mode is {mode!r}, pads are {pads[:12]}; constant, reflect and edge can be read")
    first, last = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
    if first.get(0) or last.get(0):
        raise Unsupported("it pads the batch")
    sizes = imp.shape(node.inputs[0])
    for axis in axes:
        value = _cut(imp, value, axis, max(0, -first[axis]), sizes[axis] - max(0, -last[axis]))
    before, after = (tuple(max(0, side.get(a, 0)) for a in value.axes) for side in (first, last))
    if mode != "constant":
        y = imp.mirrored(value.name, before, after, mode)
    elif any((*before, *after)):
        y = imp.emit("pad", [value.name], before=before, after=after, value=number)
    else:
        y = value.name
    imp.values[node.outputs[0]] = Value(y, value.axes)


def tile(imp: Conversion, node: ForeignNode) -> None:
    """`Tile` along any axis but the batch."""
    value = _ordered(imp, node.inputs[0])
    times = imp.constant(node, 1, "number of times")
    for place, axis in enumerate(value.axes):
        value = Value(imp.repeated(value.name, place, int(times[axis])), value.axes)
    imp.values[node.outputs[0]] = value


def expand(imp: Conversion, node: ForeignNode) -> None:
    """`Expand`; left to operators that repeat their operands by themselves, where only such read it."""
    size = imp.shape(node.inputs[0])
    wanted = tuple(int(d) for d in imp.constant(node, 1, "shape"))
    target = np.broadcast_shapes(tuple(size), wanted)
    readers = imp.readers.get(node.outputs[0], [])
    spread_later = readers and node.outputs[0] not in imp.model.outputs and all(r.op in _BROADCASTS for r in readers)
    value = _ordered(imp, node.inputs[0])
    if len(target) > len(size):
        value = imp.reshaped(value, (*(1,) * (len(target) - len(size)), *size))
    if tuple(target) != tuple(size) and not spread_later:
        for axis, (m, n) in enumerate(zip(imp.types[value.name].shape, (target[a] for a in value.axes), strict=True)):
            value = Value(imp.repeated(value.name, axis, n // m), value.axes)
    imp.values[node.outputs[0]] = value


def depth_to_space(imp: Conversion, node: ForeignNode) -> None:
    """`DepthToSpace` and `SpaceToDepth`: a reshape, a transpose, a reshape."""
    block = node.get("blocksize", 1)
    n, c, h, w = imp.shape(node.inputs[0])
    value = imp.value(node.inputs[0])
    if node.op == "SpaceToDepth":
        value = imp.reshaped(value, (n, c, h // block, block, w // block, block))
        order, target = (0, 3, 5, 1, 2, 4), (n, c * block * block, h // block, w // block)
    elif node.get("mode", "DCR") == "DCR":
        value = imp.reshaped(value, (n, block, block, c // block**2, h, w))
        order, target = (0, 3, 4, 1, 5, 2), (n, c // block**2, h * block, w * block)
    else:
        value = imp.reshaped(value, (n, c // block**2, block, block, h, w))
        order, target = (0, 1, 4, 2, 5, 3), (n, c // block**2, h * block, w * block)
    value = Value(value.name, tuple(order.index(a) for a in value.axes))
    imp.values[node.outputs[0]] = imp.reshaped(value, target)


def _ordered(imp: Conversion, name: str) -> Value:
    """A value whose axes are those of the foreign tensor, in whatever order."""
    value = imp.value(name)
    return imp.laid_out(value, identity(len(value.axes))) if value.image is not None else value


#: What repeats its operands by itself.
_BROADCASTS = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Where", "And", "Or", "Not", "Cast"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)


RULES = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": squeeze,
    "Transpose": transpose,
    "Shape": shape,
    "Concat": concat,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": depth_to_space,
}
