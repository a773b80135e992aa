"""What Caffe's layers that join, cut and move values become, and softmax and sums over axes."""

from __future__ import annotations

import math

from homespun.formats.assembly import Unsupported
from homespun.formats.caffe.network import Layer
from homespun.formats.caffe.rules_layers import axis_of
from homespun.formats.caffe.text import Message
from homespun.formats.caffe.translation import Shape, Translation


def _axis(settings: Message, older: str, rank: int) -> int:
    """`axis`, or its name in older versions."""
    if settings.has("axis") and settings.has(older):
        raise Unsupported(f"axis and {older} are both given")
    axis = axis_of(settings.integer("axis", settings.integer(older, 1)), rank)
    if axis == 0:
        raise Unsupported("it joins or cuts batches")
    return axis


def concat(net: Translation, layer: Layer) -> None:
    """`Concat` along any axis but the batch."""
    operands = [net.read(layer, i) for i in range(len(layer.bottoms))]
    shape = operands[0][1]
    axis = _axis(layer.settings("concat_param"), "concat_dim", len(shape))
    if len({(*s[:axis], *s[axis + 1 :]) for _, s in operands}) != 1 or any(len(s) != len(shape) for _, s in operands):
        raise Unsupported(f"shapes {', '.join(str(list(s)) for _, s in operands[:8])} differ outside axis {axis}")
    total = sum(s[axis] for _, s in operands)
    y = net.emit(layer, "Concat", [n for n, _ in operands], (*shape[:axis], total, *shape[axis + 1 :]), axis=axis)
    net.give(layer, y)


def _cut(net: Translation, layer: Layer, x: str, shape: Shape, axis: int, start: int, stop: int) -> tuple[str, Shape]:
    """x from start to stop along an axis, and its shape."""
    if not 0 <= start < stop <= shape[axis]:
        raise Unsupported(f"{start} to {stop} is not inside axis {axis} of {list(shape)}")
    bounds = [net.whole_numbers(layer, n) for n in (start, stop, axis)]
    shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
    return net.emit(layer, "Slice", [x, *bounds], shape), shape


def slice_(net: Translation, layer: Layer) -> None:
    """`Slice`: at points, or into equal parts."""
    x, shape = net.read(layer)
    settings = layer.settings("slice_param")
    axis, points = _axis(settings, "slice_dim", len(shape)), settings.integers("slice_point")
    count = len(layer.tops)
    if not points and shape[axis] % max(1, count) == 0:
        points = [i * shape[axis] // count for i in range(1, count)]
    if len(points) != count - 1 or points != sorted(set(points)):
        raise Unsupported(f"points {points[:8]} do not cut an axis of {shape[axis]} into {count} parts")
    for i, (start, stop) in enumerate(zip([0, *points], [*points, shape[axis]], strict=True)):
        net.give(layer, _cut(net, layer, x, shape, axis, start, stop)[0], i)


def split(net: Translation, layer: Layer) -> None:
    """`Split`: every top is the bottom."""
    x, shape = net.read(layer)
    for i in range(len(layer.tops)):
        net.give(layer, net.emit(layer, "Identity", [x], shape), i)


def crop(net: Translation, layer: Layer) -> None:
    """`Crop` to the size of another blob, from an axis on."""
    (x, shape), (_, wanted) = net.read(layer, 0), net.read(layer, 1)
    settings = layer.settings("crop_param")
    first, offsets = axis_of(settings.integer("axis", 2), len(shape)), settings.integers("offset")
    axes = range(first, len(shape))
    if len(offsets) < 2:
        offsets = (offsets or [0]) * len(axes)
    if first == 0 or len(wanted) != len(shape) or len(offsets) != len(axes):
        raise Unsupported(f"offsets {offsets[:8]} do not fit axes {first} and on of {list(shape)} and {list(wanted)}")
    y = net.emit(layer, "Identity", [x], shape)
    for axis, offset in zip(axes, offsets, strict=True):
        if wanted[axis] != shape[axis] or offset:
            y, shape = _cut(net, layer, y, shape, axis, offset, offset + wanted[axis])
    net.give(layer, y)


def softmax(net: Translation, layer: Layer) -> None:
    """`Softmax` over an axis."""
    x, shape = net.read(layer)
    settings = layer.settings("softmax_param")
    settings.ignore("engine")
    net.give(layer, net.emit(layer, "Softmax", [x], shape, axis=axis_of(settings.integer("axis", 1), len(shape))))


def flatten(net: Translation, layer: Layer) -> None:
    """`Flatten` of neighbouring axes into one."""
    x, shape = net.read(layer)
    settings = layer.settings("flatten_param")
    first, last = (axis_of(settings.integer(n, d), len(shape)) for n, d in (("axis", 1), ("end_axis", -1)))
    if not 0 < first <= last:
        raise Unsupported(f"axes {first} to {last} can't be taken together")
    net.give(layer, _reshaped(net, layer, x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])))


def reshape(net: Translation, layer: Layer) -> None:
    """`Reshape` of some axes, or all; 0 is the length that was, -1 what is left."""
    x, shape = net.read(layer)
    settings = layer.settings("reshape_param")
    wanted = settings.message("shape").integers("dim")
    axis, count = settings.integer("axis", 0), settings.integer("num_axes", -1)
    first = axis if axis >= 0 else len(shape) + axis + 1
    last = len(shape) if count == -1 else first + count
    if not 0 <= first <= last <= len(shape) or len(wanted) > 8:
        raise Unsupported(f"axes {first} to {last} of {len(shape)} can't be reshaped")
    part = [shape[first + i] if d == 0 and first + i < len(shape) else d for i, d in enumerate(wanted)]
    target = [*shape[:first], *part, *shape[last:]]
    if target.count(-1) == 1:
        target[target.index(-1)] = math.prod(shape) // max(1, math.prod(d for d in target if d != -1))
    if min(target, default=0) < 1 or math.prod(target) != math.prod(shape):
        raise Unsupported(f"{list(shape)} can't be reshaped to {target}")
    net.give(layer, _reshaped(net, layer, x, target, keeps_batch=first > 0 or wanted[:1] == [0]))


def _reshaped(net: Translation, layer: Layer, x: str, target: list[int] | Shape, keeps_batch: bool = True) -> str:
    numbers = net.whole_numbers(layer, *([0, *target[1:]] if keeps_batch else target))
    return net.emit(layer, "Reshape", [x, numbers], target)


def permute(net: Translation, layer: Layer) -> None:
    """`Permute`: axes in another order; those that are not named follow."""
    x, shape = net.read(layer)
    order = layer.settings("permute_param").integers("order")
    order += [i for i in range(len(shape)) if i not in order]
    if sorted(order) != list(range(len(shape))):
        raise Unsupported(f"{order[:8]} is no order of {len(shape)} axes")
    net.give(layer, net.emit(layer, "Transpose", [x], [shape[i] for i in order], perm=order))


def shuffle(net: Translation, layer: Layer) -> None:
    """`ShuffleChannel`: channels as a matrix (groups, channels / groups), transposed."""
    x, shape = net.read(layer)
    groups = layer.settings("shuffle_channel_param").integer("group", 1)
    if len(shape) != 4 or groups < 1 or shape[1] % groups:
        raise Unsupported(f"{list(shape)} can't be split into {groups} groups of channels")
    n, c, h, w = shape
    y = _reshaped(net, layer, x, (n, groups, c // groups, h, w))
    y = net.emit(layer, "Transpose", [y], (n, c // groups, groups, h, w), perm=[0, 2, 1, 3, 4])
    net.give(layer, _reshaped(net, layer, y, shape))


def upsample(net: Translation, layer: Layer) -> None:
    """`Upsample` of YOLO's networks: every pixel becomes a square of equal ones."""
    x, shape = net.read(layer)
    settings = layer.settings("upsample_param")
    factor = settings.integer("scale", 1)
    if len(shape) != 4 or len(layer.bottoms) != 1 or not 0 < factor < 2**10:
        raise Unsupported("it puts values back where a pooling found them, or is of no image")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    net.give(layer, _resized(net, layer, x, shape, (shape[2] * factor, shape[3] * factor), **how))


def interp(net: Translation, layer: Layer) -> None:
    """`Interp` of segmentation networks: linear, corners on corners; padding below nothing cuts pixels off before."""
    x, shape = net.read(layer)
    settings = layer.settings("interp_param")
    pads = [settings.integer(n, 0) for n in ("pad_beg", "pad_end")]
    shrink, zoom = settings.integer("shrink_factor", 1), settings.integer("zoom_factor", 1)
    if len(shape) != 4 or max(pads) > 0 or not (0 < shrink < 2**10 and 0 < zoom < 2**10):
        raise Unsupported(f"pads {pads}, factors {shrink} and {zoom} can't be")
    for axis in (2, 3):
        if any(pads):
            x, shape = _cut(net, layer, x, shape, axis, -pads[0], shape[axis] + pads[1])
    if settings.has("height") or settings.has("width"):
        size = (settings.integer("height", 0), settings.integer("width", 0))
    else:
        small = [(n - 1) // shrink + 1 for n in shape[2:]]
        size = (small[0] + (small[0] - 1) * (zoom - 1), small[1] + (small[1] - 1) * (zoom - 1))
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    net.give(layer, _resized(net, layer, x, shape, size, **how))


def _resized(net: Translation, layer: Layer, x: str, shape: Shape, size: tuple[int, int], **how: str) -> str:
    """x with another height and width."""
    numbers = net.whole_numbers(layer, *size)
    return net.emit(layer, "Resize", [x, "", "", numbers], (*shape[:2], *size), axes=[2, 3], **how)


def reduction(net: Translation, layer: Layer) -> None:
    """`Reduction` of all axes from one on: a sum, one of absolute values or squares, a mean; times a factor."""
    x, shape = net.read(layer)
    settings = layer.settings("reduction_param")
    operation = settings.word("operation", "SUM", "ASUM", "SUMSQ", "MEAN")
    axis, factor = axis_of(settings.integer("axis", 0), len(shape)), settings.number("coeff", 1.0)
    if axis == 0:
        raise Unsupported("it reduces over the batch")
    if operation == "ASUM":
        x = net.emit(layer, "Abs", [x], shape)
    elif operation == "SUMSQ":
        x = net.emit(layer, "Mul", [x, x], shape)
    axes = net.whole_numbers(layer, *range(axis, len(shape)))
    y = net.emit(layer, "ReduceMean" if operation == "MEAN" else "ReduceSum", [x, axes], shape[:axis], keepdims=0)
    net.give(layer, y if factor == 1.0 else net.emit(layer, "Mul", [y, net.number(layer, factor)], shape[:axis]))


RULES = {
    **{"Concat": concat, "Slice": slice_, "Split": split, "Crop": crop, "Softmax": softmax, "Flatten": flatten},
    **{
        "Reshape": reshape,
        "Permute": permute,
        "ShuffleChannel": shuffle,
        "Reduction": reduction,
        "Upsample": upsample,
        "Interp": interp,
    },
}
