"""What TFLite's operators that move values become: reshaping, transposing, joining, cutting, padding, repeating."""

from __future__ import annotations

import math

import numpy as np

from homespun.formats.assembly import FREE, Unsupported
from homespun.formats.tflite.folding import slices
from homespun.formats.tflite.importer import Interpreter, Operation


def shape(net: Interpreter, op: Operation) -> None:
    """`SHAPE`: a constant, in which `FREE` stands for the batch."""
    net.constants[op.outputs[0]] = np.asarray(net.shape(op), np.int64)


def reshape(net: Interpreter, op: Operation) -> None:
    """`RESHAPE`: a batch of one in the file is any batch here."""
    size = math.prod(net.shape(op))
    if net.has(op, 1):
        wanted = [int(d) for d in net.constant(op, 1, "shape").reshape(-1)]
    else:
        wanted = [int(d) for d in op.options("ReshapeOptions").NewShapeAsNumpy()]
    if wanted and wanted[0] == 1:
        wanted[0] = FREE
    if wanted.count(-1) == 1:
        wanted[wanted.index(-1)] = size // max(1, math.prod(d for d in wanted if d != -1))
    elif wanted and math.prod(wanted) * FREE == size:
        wanted[0] *= FREE  # rows of all samples, one after the other
    net.set(op, net.reshape(net.value(op.inputs[0]), wanted))


def squeeze(net: Interpreter, op: Operation) -> None:
    """`SQUEEZE` of named axes, or of all of length one."""
    before, o = net.shape(op), op.options("SqueezeOptions")
    places = {int(a) % len(before) for a in o.SqueezeDimsAsNumpy()} if o.SqueezeDimsLength() else set()
    places = places or {i for i, d in enumerate(before) if d == 1}
    net.set(op, net.reshape(net.value(op.inputs[0]), [d for i, d in enumerate(before) if i not in places]))


def expand_dims(net: Interpreter, op: Operation) -> None:
    """`EXPAND_DIMS`."""
    before = list(net.shape(op))
    axis = int(net.constant(op, 1, "axis").reshape(-1)[0]) % (len(before) + 1)
    net.set(op, net.reshape(net.value(op.inputs[0]), [*before[:axis], 1, *before[axis:]]))


def concat(net: Interpreter, op: Operation) -> None:
    """`CONCATENATION` along any axis but the batch."""
    o = op.options("ConcatenationOptions")
    axis = o.Axis() % len(net.shape(op))
    if any(net.is_constant(op, i) for i in range(len(op.inputs))):
        raise Unsupported("it joins constants to computed values")
    if any(net.shape(op, i)[axis] % FREE == 0 for i in range(len(op.inputs))):
        raise Unsupported("it joins batches")
    net.set(op, net.emit("concat", [net.value(i) for i in op.inputs], axis=axis), o.FusedActivationFunction())


def pack(net: Interpreter, op: Operation) -> None:
    """`PACK`: tensors side by side along an axis of their own."""
    before = net.shape(op)
    axis = op.options("PackOptions").Axis() % (len(before) + 1)
    if axis == 0 or any(net.is_constant(op, i) for i in range(len(op.inputs))):
        raise Unsupported("it packs along the batch, or constants")
    parts = [net.reshape(net.value(i), (*before[:axis], 1, *before[axis:])) for i in op.inputs]
    net.set(op, net.emit("concat", parts, axis=axis))


def unpack(net: Interpreter, op: Operation) -> None:
    """`UNPACK`: an axis taken apart."""
    before = net.shape(op)
    axis = op.options("UnpackOptions").Axis() % len(before)
    rest = [d for i, d in enumerate(before) if i != axis]
    x = net.value(op.inputs[0])
    for at in range(len(op.outputs)):
        net.set(op, net.reshape(net.cut(x, axis, at, at + 1), rest), at=at)


def split(net: Interpreter, op: Operation) -> None:
    """`SPLIT` into equal parts, and `SPLIT_V`."""
    source = 1 if op.name == "SPLIT" else 0
    before = net.shape(op, source)
    axis = int(net.constant(op, 0 if op.name == "SPLIT" else 2, "axis").reshape(-1)[0]) % len(before)
    parts = len(op.outputs)
    sizes = [before[axis] // parts] * parts
    if op.name == "SPLIT_V":
        sizes = [int(n) for n in net.constant(op, 1, "sizes").reshape(-1)]
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = before[axis] - sum(n for n in sizes if n != -1)
    if len(sizes) != parts or sum(sizes) != before[axis] or min(sizes) < 1:
        raise Unsupported(f"parts of {sizes[:12]} do not fit an axis of {before[axis]}")
    x, start = net.value(op.inputs[source]), 0
    for at, n in enumerate(sizes):
        net.set(op, net.cut(x, axis, start, start + n), at=at)
        start += n


def strided_slice(net: Interpreter, op: Operation) -> None:
    """`STRIDED_SLICE`, also from the end and with steps; the batch stays whole."""
    before = net.shape(op)
    cuts, axes = slices(op, [None, *(net.constant(op, i, "range") for i in (1, 2, 3))], before)
    y = net.value(op.inputs[0])
    for axis, (start, stop, step) in enumerate(cuts):
        if before[axis] % FREE:
            y = net.cut(y, axis, start, stop, step)
        elif start or axis not in axes or step != 1 or stop not in (1, before[axis]):
            raise Unsupported("it cuts the batch")  # 0:1 of a batch that the file fixes to one is all of it
    left = net.types[y].shape
    net.set(op, net.reshape(y, [1 if axis is None else left[axis] for axis in axes]))


def slice_(net: Interpreter, op: Operation) -> None:
    """`SLICE` by starts and sizes; the batch stays whole."""
    before, y = net.shape(op), net.value(op.inputs[0])
    starts, sizes = (net.constant(op, i, "range").reshape(-1).tolist() for i in (1, 2))
    for axis, (start, n) in enumerate(zip(starts, sizes, strict=True)):
        if before[axis] % FREE:
            y = net.cut(y, axis, start, before[axis] if n == -1 else start + n)
        elif start or n not in (-1, 1, before[axis]):
            raise Unsupported("it cuts the batch")
    net.set(op, y)


def transpose(net: Interpreter, op: Operation) -> None:
    """`TRANSPOSE`."""
    axes = tuple(int(a) for a in net.constant(op, 1, "order").reshape(-1))
    net.set(op, net.emit("transpose", [net.value(op.inputs[0])], axes=axes))


def pad(net: Interpreter, op: Operation) -> None:
    """`PAD`, `PADV2` and `MIRROR_PAD`."""
    amounts = net.constant(op, 1, "amount").tolist()
    before, after = (tuple(int(a[side]) for a in amounts) for side in (0, 1))
    if before[0] or after[0]:
        raise Unsupported("it pads the batch")
    x = net.value(op.inputs[0])
    if op.name == "MIRROR_PAD":
        mode = "symmetric" if op.options("MirrorPadOptions").Mode() else "reflect"
        net.set(op, net.mirrored(x, before, after, mode))
        return
    value = float(net.constant(op, 2, "value").item()) if op.name == "PADV2" else 0.0
    if not math.isfinite(value):
        raise Unsupported(f"it pads with {value}")
    net.set(op, net.emit("pad", [x], before=before, after=after, value=value))


def tile(net: Interpreter, op: Operation) -> None:
    """`TILE`, and `BROADCAST_TO`; the batch is not repeated."""
    y, before = net.value(op.inputs[0]), net.shape(op)
    wanted = [int(n) for n in net.constant(op, 1, "shape").reshape(-1)]
    if op.name == "BROADCAST_TO":
        before = (*(1,) * (len(wanted) - len(before)), *before)
        if before[0] == FREE and wanted[0] == 1:
            wanted[0] = FREE
        if any(m not in (1, n) for m, n in zip(before, wanted, strict=True)):
            raise Unsupported(f"it can't repeat {list(before)[1:]} to {wanted[1:]}")
        y = net.reshape(y, before)
        wanted = [n if m == 1 else 1 for m, n in zip(before, wanted, strict=True)]
    for axis, times in enumerate(wanted):
        y = net.repeated(y, axis, times)
    net.set(op, y)


def blocks(net: Interpreter, op: Operation) -> None:
    """`DEPTH_TO_SPACE` and `SPACE_TO_DEPTH`: a reshape, a transpose, a reshape."""
    n, h, w, c = net.shape(op)
    x = net.value(op.inputs[0])
    if op.name == "DEPTH_TO_SPACE":
        size = op.options("DepthToSpaceOptions").BlockSize()
        x = net.reshape(x, (n, h, w, size, size, c // size**2))
        target = (n, h * size, w * size, c // size**2)
    else:
        size = op.options("SpaceToDepthOptions").BlockSize()
        x = net.reshape(x, (n, h // size, size, w // size, size, c))
        target = (n, h // size, w // size, c * size**2)
    net.set(op, net.reshape(net.emit("transpose", [x], axes=(0, 1, 3, 2, 4, 5)), target))


RULES = {
    **{"SHAPE": shape, "RESHAPE": reshape, "SQUEEZE": squeeze, "EXPAND_DIMS": expand_dims, "TRANSPOSE": transpose},
    **{"CONCATENATION": concat, "PACK": pack, "UNPACK": unpack, "SPLIT": split, "SPLIT_V": split},
    **{"STRIDED_SLICE": strided_slice, "SLICE": slice_, "TILE": tile, "BROADCAST_TO": tile},
    **{"PAD": pad, "PADV2": pad, "MIRROR_PAD": pad, "DEPTH_TO_SPACE": blocks, "SPACE_TO_DEPTH": blocks},
}
