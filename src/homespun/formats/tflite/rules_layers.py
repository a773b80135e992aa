"""What TFLite's layers become: convolutions, matrix products, pooling, resizing, look-ups, norms of channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.tflite.importer import Interpreter, Operation
from homespun.ops.convolution import padding_of

_PADDING = {0: "same_upper", 1: "valid"}


def convolution(net: Interpreter, op: Operation) -> None:
    """`CONV_2D` (O, kh, kw, I) and `DEPTHWISE_CONV_2D` (1, kh, kw, O); between blocks of pixels, a dilated one."""
    depthwise = op.name == "DEPTHWISE_CONV_2D"
    o = op.options("DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    weight = net.constant(op, 1, "weight")
    weight = weight.transpose(1, 2, 0, 3) if depthwise else weight.transpose(1, 2, 3, 0)
    stride, dilation = (o.StrideH(), o.StrideW()), (o.DilationHFactor(), o.DilationWFactor())
    padding: Any = _PADDING[o.Padding()]
    blocks = net.begun.get(op.inputs[0], ("",))
    if blocks[0] == "blocks":
        _, x, dilation, padding = blocks
        if stride != (1, 1) or _PADDING[o.Padding()] != "valid":
            raise Unsupported("it stands between blocks of pixels, with a stride or padding")
    else:
        x = net.value(op.inputs[0])
        if padding == "valid":
            x, padding = net.padded_before(x, (0, 0, 0, 0))
    channels = net.types[x].shape[3]
    inputs = [x, net.weight(op.inputs[1], "weight", weight)]
    if net.has(op, 2):
        inputs.append(net.weight(op.inputs[2], "bias", net.constant(op, 2, "bias")))
    groups = channels if depthwise else channels // weight.shape[2]
    y = net.emit("conv2d", inputs, stride=stride, dilation=dilation, padding=padding, groups=groups)
    net.set(op, y, o.FusedActivationFunction())
    if blocks[0] == "blocks":
        net.begun[op.outputs[0]] = ("convolved", net.values.pop(op.outputs[0]), dilation)


def space_to_batch(net: Interpreter, op: Operation) -> None:
    """`SPACE_TO_BATCH_ND`, with which exporters begin a dilated convolution: what it pads, and the dilation."""
    block = tuple(int(b) for b in net.constant(op, 1, "block").reshape(-1))
    pads = net.constant(op, 2, "padding").reshape(-1, 2).tolist()
    if len(block) != 2 or len(net.shape(op)) != 4:
        raise Unsupported("it makes blocks of something that is no image")
    padding = (pads[0][0], pads[1][0], pads[0][1], pads[1][1])
    net.begun[op.outputs[0]] = ("blocks", net.value(op.inputs[0]), block, padding)


def batch_to_space(net: Interpreter, op: Operation) -> None:
    """`BATCH_TO_SPACE_ND`, the end of a dilated convolution: it cuts off what was padded to whole blocks."""
    begun = net.begun.get(op.inputs[0], ("",))
    block = tuple(int(b) for b in net.constant(op, 1, "block").reshape(-1))
    if begun[0] != "convolved" or begun[2] != block:
        raise Unsupported("it ends no dilated convolution")
    y = begun[1]
    for axis, (first, last) in enumerate(net.constant(op, 2, "crop").reshape(-1, 2).tolist(), start=1):
        y = net.cut(y, axis, first, net.types[y].shape[axis] - last)
    net.set(op, y)


def transposed_convolution(net: Interpreter, op: Operation) -> None:
    """`TRANSPOSE_CONV`, weights (O, kh, kw, I), of which the size of the result is said."""
    o = op.options("TransposeConvOptions")
    weight = net.constant(op, 1, "weight").transpose(1, 2, 0, 3)
    size = tuple(int(n) for n in net.constant(op, 0, "size").reshape(-1)[1:3])
    stride = (o.StrideH(), o.StrideW())
    how: dict[str, Any] = {"stride": stride, "dilation": (1, 1), "padding": _PADDING[o.Padding()]}
    padding = padding_of(how, (size[0], size[1]), weight.shape[:2])
    inputs = [net.value(op.inputs[2]), net.weight(op.inputs[1], "weight", weight)]
    y = net.emit("conv2d_transpose", inputs, size=size, stride=stride, padding=padding)
    if net.has(op, 3):
        y = net.emit("add", [y, net.weight(op.inputs[3], "bias", net.constant(op, 3, "bias"))])
    net.set(op, y, o.FusedActivationFunction())


def linear(net: Interpreter, op: Operation) -> None:
    """`FULLY_CONNECTED`, weights (O, I)."""
    o = op.options("FullyConnectedOptions")
    shape = net.shape(op, 1)
    if o.WeightsFormat() != 0 or len(shape) != 2:
        raise Unsupported("its weights are shuffled")
    x, inner = net.value(op.inputs[0]), shape[1]
    before = net.types[x].shape
    if not o.KeepNumDims() or before[-1] != inner:
        x = net.reshape(x, (math.prod(before) // inner, inner))
    bias = [net.weight(op.inputs[2], "bias", net.constant(op, 2, "bias"))] if net.has(op, 2) else []
    if net.is_constant(op, 1):
        y = net.emit("linear", [x, net.weight(op.inputs[1], "weight", net.constant(op, 1, "weight").T), *bias])
    else:
        y = net.emit("matmul", [x, net.value(op.inputs[1])], transpose_b=True)
        y = net.emit("add", [y, *bias]) if bias else y
    net.set(op, y, o.FusedActivationFunction())


def products(net: Interpreter, op: Operation) -> None:
    """`BATCH_MATMUL`, of two computed tensors or with one constant matrix."""
    o = op.options("BatchMatMulOptions")
    if net.is_constant(op, 1):
        weight = net.constant(op, 1, "second operand")
        weight = weight.reshape(weight.shape[weight.ndim - 2 :]) if math.prod(weight.shape[:-2]) == 1 else weight
        if weight.ndim != 2 or o.AdjX():
            raise Unsupported(f"its constant operand has {weight.ndim} axes; one matrix for all can be read")
        weight = weight.T if o.AdjY() else weight
        net.set(op, net.emit("linear", [net.value(op.inputs[0]), net.weight(op.inputs[1], "weight", weight)]))
        return
    sides = [net.value(i) for i in op.inputs[:2]]
    net.set(op, net.emit("matmul", sides, transpose_a=bool(o.AdjX()), transpose_b=bool(o.AdjY())))


def pool(net: Interpreter, op: Operation) -> None:
    """`MAX_POOL_2D` and `AVERAGE_POOL_2D`, which does not count padding."""
    o = op.options("Pool2DOptions")
    y = net.emit(
        "max_pool" if op.name == "MAX_POOL_2D" else "average_pool",
        [net.value(op.inputs[0])],
        kernel=(o.FilterHeight(), o.FilterWidth()),
        stride=(o.StrideH(), o.StrideW()),
        padding=_PADDING[o.Padding()],
    )
    net.set(op, y, o.FusedActivationFunction())


def resize(net: Interpreter, op: Operation) -> None:
    """`RESIZE_BILINEAR` and `RESIZE_NEAREST_NEIGHBOR`."""
    linear = op.name == "RESIZE_BILINEAR"
    o = op.options("ResizeBilinearOptions" if linear else "ResizeNearestNeighborOptions")
    size = tuple(int(n) for n in net.constant(op, 1, "size").reshape(-1))
    x = net.value(op.inputs[0])
    before = net.shape(op)[1:3]
    aligned, centred = bool(o.AlignCorners()), bool(o.HalfPixelCenters())
    if not linear and not aligned and not centred and all(m % n == 0 for n, m in zip(before, size, strict=False)):
        net.set(op, net.emit("upsample", [x], factor=tuple(m // n for n, m in zip(before, size, strict=True))))
        return
    coordinates = "align_corners" if aligned else "half_pixel" if centred else "asymmetric"
    # Nearest rounds half a pixel up, except where a pixel is its corner.
    rounding = "floor" if coordinates == "asymmetric" else "round_prefer_ceil"
    how = {"mode": "linear" if linear else "nearest", "coordinates": coordinates, "rounding": rounding}
    net.set(op, net.emit("resize", [x], "", size=size, **how))


def gather(net: Interpreter, op: Operation) -> None:
    """`GATHER`: rows of a constant table by numbers that the caller gives, or known places of a computed tensor."""
    o = op.options("GatherOptions")
    axis = o.Axis() % len(net.shape(op))
    if o.BatchDims():
        raise Unsupported("it gathers from each of several tensors")
    if not net.is_constant(op, 0):
        indices = net.constant(op, 1, "index")
        x, shape = net.value(op.inputs[0]), net.shape(op)
        y = net.picked(x, axis, [int(i) for i in indices.reshape(-1)])
        net.set(op, net.reshape(y, (*shape[:axis], *indices.shape, *shape[axis + 1 :])))
        return
    table, ids = net.constant(op, 0, "table"), net.value(op.inputs[1])
    if table.ndim != 2 or table.dtype != np.float32 or axis != 0 or net.types[ids].dtype != "int32":
        raise Unsupported("it looks something up that is no row of a table of numbers")
    net.set(op, net.emit("embedding", [ids, net.weight(op.inputs[0], "table", table)]))


def response_norm(net: Interpreter, op: Operation) -> None:
    """`LOCAL_RESPONSE_NORMALIZATION`: alpha is of each neighbour here, of all of them together in ours."""
    o = op.options("LocalResponseNormalizationOptions")
    size = 2 * o.Radius() + 1
    settings: dict[str, Any] = {"alpha": float(o.Alpha()) * size, "beta": float(o.Beta()), "bias": float(o.Bias())}
    net.set(op, net.emit("local_response_norm", [net.value(op.inputs[0])], size=size, **settings))


def unit_length(net: Interpreter, op: Operation) -> None:
    """`L2_NORMALIZATION` over the last axis: x / max(|x|, 1e-6)."""
    x = net.value(op.inputs[0])
    total = net.emit("reduce_sum", [net.emit("square", [x])], axes=(-1,), keep_axes=True)
    length = net.emit("sqrt", [net.emit("clip", [total], low=1e-12, high=math.inf)])
    net.set(op, net.emit("div", [x, length]), op.options("L2NormOptions").FusedActivationFunction())


RULES = {
    **{"CONV_2D": convolution, "DEPTHWISE_CONV_2D": convolution, "TRANSPOSE_CONV": transposed_convolution},
    **{"SPACE_TO_BATCH_ND": space_to_batch, "BATCH_TO_SPACE_ND": batch_to_space},
    **{"FULLY_CONNECTED": linear, "BATCH_MATMUL": products, "GATHER": gather},
    **{"MAX_POOL_2D": pool, "AVERAGE_POOL_2D": pool},
    **{"RESIZE_BILINEAR": resize, "RESIZE_NEAREST_NEIGHBOR": resize},
    **{"LOCAL_RESPONSE_NORMALIZATION": response_norm, "L2_NORMALIZATION": unit_length},
}
