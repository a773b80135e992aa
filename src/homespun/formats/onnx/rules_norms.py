"""What ONNX's norms become: those over batches, channels, groups of them, and the root of the mean square."""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.layout import CHANNELS_LAST, Value, channel_last, identity
from homespun.formats.onnx.nodes import ForeignNode
from homespun.graph import Array


def layer_norm(imp: Conversion, node: ForeignNode) -> None:
    """`LayerNormalization` over the last axis."""
    value = _last_axis_last(imp, node)
    weight = imp.constant(node, 1, "weight")
    bias = imp.constant(node, 2, "bias") if node.has(2) else np.zeros_like(weight)
    arrays = [imp.layer_weight(node.inputs[1], "weight", weight)]
    arrays.append(imp.layer_weight(node.inputs[2] if node.has(2) else "", "bias", bias))
    y = imp.emit("layer_norm", [value.name, *arrays], eps=node.get("epsilon", 1e-5))
    imp.set(node.outputs[0], y, value.axes)


def batch_norm(imp: Conversion, node: ForeignNode) -> None:
    """`BatchNormalization` with fixed statistics; it goes on following batches when it is trained here."""
    value = imp.value(node.inputs[0])
    rank = len(value.axes)
    if value.axes[-1] != 1 or value.image is not None:
        value = imp.laid_out(value, channel_last(rank) if rank != 1 else identity(1))
    arrays = [
        imp.layer_weight(node.inputs[i], kind, imp.constant(node, i, kind), role)
        for i, kind, role in (
            *((1, "weight", "parameter"), (2, "bias", "parameter")),
            *((3, "running_mean", "state"), (4, "running_var", "state")),
        )
    ]
    y = imp.emit(
        "batch_norm", [value.name, *arrays], eps=node.get("epsilon", 1e-5), momentum=1.0 - node.get("momentum", 0.9)
    )
    imp.set(node.outputs[0], y, value.axes)


def rms_norm(imp: Conversion, node: ForeignNode) -> None:
    """`RMSNormalization` over the last axis: x / sqrt(mean(x^2) + epsilon) * scale."""
    value = _last_axis_last(imp, node)
    mean = imp.emit("reduce_mean", [imp.emit("square", [value.name])], axes=(-1,), keep_axes=True)
    y = _by_root(imp, value.name, mean, node)
    weight = imp.layer_weight(node.inputs[1], "weight", imp.constant(node, 1, "scale"))
    imp.set(node.outputs[0], imp.emit("mul", [y, weight]), value.axes)


def _last_axis_last(imp: Conversion, node: ForeignNode) -> Value:
    """What a norm over the last axis reads, with that axis in its place."""
    value, rank, axis = imp.value(node.inputs[0]), len(imp.shape(node.inputs[0])), node.get("axis", -1)
    if axis not in (-1, rank - 1):
        raise Unsupported(f"it normalises over the axes from {axis} on; over the last, it can be read")
    if value.image is not None or value.axes[-1] != rank - 1:
        value = imp.laid_out(value, identity(rank))
    return value


def group_norm(imp: Conversion, node: ForeignNode) -> None:
    """`GroupNormalization`: scale and bias for each channel, or before operator set 21 for each group."""
    channels, groups = imp.shape(node.inputs[0])[1], node.get("num_groups", 1)
    scale, bias = (imp.constant(node, i, what) for i, what in ((1, "scale"), (2, "bias")))
    if groups < 1 or channels % groups or scale.size not in (groups, channels):
        raise Unsupported(f"{groups} groups of {channels} channels, with {scale.size} scales, do not fit")
    value = imp.laid_out(imp.value(node.inputs[0]), channel_last(len(imp.shape(node.inputs[0]))))
    imp.values[node.outputs[0]] = _normalised(imp, node, value, groups, scale, bias)


def instance_norm(imp: Conversion, node: ForeignNode) -> None:
    """`InstanceNormalization`: each channel of each sample by itself.

    PyTorch's exporter writes a norm of groups as one of what groups were reshaped to: done before the reshape here.
    """
    shape = imp.shape(node.inputs[0])
    scale, bias = (imp.constant(node, i, what) for i, what in ((1, "scale"), (2, "bias")))
    if len(shape) < 3 or scale.size != shape[1]:
        raise Unsupported(f"{scale.size} scales do not fit {len(shape)} axes")
    value = imp.value(node.inputs[0])
    before = imp.before_reshape(value)
    if before is not None and len(before.axes) == 4 and before.axes == CHANNELS_LAST:
        n, _, _, channels = imp.types[before.name].shape
        if shape[0] == n and channels % shape[1] == 0:
            y = _normalised(imp, node, before, shape[1], scale, bias)
            imp.values[node.outputs[0]] = imp.reshaped(y, shape)
            return
    value = imp.laid_out(value, channel_last(len(shape)))
    imp.values[node.outputs[0]] = _normalised(imp, node, value, shape[1], scale, bias)


def _normalised(imp: Conversion, node: ForeignNode, x: Value, groups: int, scale: Array, bias: Array) -> Value:
    """A tensor with its channels last, each group of them with its mean and deviation, then scaled and shifted."""
    n, *inner, channels = shape = imp.types[x.name].shape
    pixels = int(np.prod(inner))
    parts = imp.reshape(x.name, (n, pixels, groups, channels // groups))
    axes = [1, 3] if channels > groups else [1]
    less = imp.emit("sub", [parts, imp.reduce("reduce_mean", parts, axes, True)])
    variance = imp.reduce("reduce_mean", imp.emit("square", [less]), axes, True)
    y = imp.reshape(_by_root(imp, less, variance, node), shape)
    for i, op, array, nothing in ((1, "mul", scale, 1.0), (2, "add", bias, 0.0)):
        if array.size != channels:
            array = np.repeat(array, channels // array.size)
            if (array == nothing).all():
                continue
        y = imp.emit(op, [y, imp.layer_weight(node.inputs[i], ("weight", "bias")[i - 1], array)])
    return Value(y, x.axes)


def _by_root(imp: Conversion, x: str, variance: str, node: ForeignNode) -> str:
    """x / sqrt(variance + epsilon)."""
    eps = imp.add_array("eps", np.asarray(node.get("epsilon", 1e-5), np.float32))
    return imp.emit("div", [x, imp.emit("sqrt", [imp.emit("add", [variance, eps])])])


def response_norm(imp: Conversion, node: ForeignNode) -> None:
    """`LRN`, over an odd number of channels."""
    settings: dict[str, Any] = {k: float(node.get(k, v)) for k, v in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))}
    size = node.get("size", 0)
    y = imp.emit("local_response_norm", [imp.channels_last(node.inputs[0])], size=int(size), **settings)
    imp.set(node.outputs[0], y, CHANNELS_LAST)


RULES = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": response_norm,
}
