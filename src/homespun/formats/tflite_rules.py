"""What TFLite's operators become: one short function for each kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.formats.assembly import FREE, Unsupported, without_leading_ones
from homespun.formats.tflite import Interpreter, Operation

_PADDING = {0: "same_upper", 1: "valid"}
_UNARY = {
    **{"RELU": "relu", "RELU6": "relu6", "LOGISTIC": "sigmoid", "TANH": "tanh", "HARD_SWISH": "hard_swish"},
    **{"ELU": "elu", "EXP": "exp", "LOG": "log", "SQRT": "sqrt", "NEG": "neg", "ABS": "abs", "SQUARE": "square"},
}
_BINARY = {"ADD": "add", "SUB": "sub", "MUL": "mul", "DIV": "div", "MAXIMUM": "maximum", "MINIMUM": "minimum"}
_REDUCE = {"MEAN": "reduce_mean", "SUM": "reduce_sum", "REDUCE_MAX": "reduce_max"}


def convolution(net: Interpreter, op: Operation) -> None:
    """`CONV_2D` (O, kh, kw, I) and `DEPTHWISE_CONV_2D` (1, kh, kw, O)."""
    depthwise = op.name == "DEPTHWISE_CONV_2D"
    o = op.options("DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    weight = net.constant(op, 1, "weight")
    weight = weight.transpose(1, 2, 0, 3) if depthwise else weight.transpose(1, 2, 3, 0)
    channels = net.shape(op)[3]
    x = net.value(op.inputs[0])
    padding: Any = _PADDING[o.Padding()]
    if padding == "valid":
        x, padding = net.padded_before(x, (0, 0, 0, 0))
    inputs = [x, net.weight(op.inputs[1], "weight", weight)]
    if net.has(op, 2):
        inputs.append(net.weight(op.inputs[2], "bias", net.constant(op, 2, "bias")))
    y = net.emit(
        "conv2d",
        inputs,
        stride=(o.StrideH(), o.StrideW()),
        dilation=(o.DilationHFactor(), o.DilationWFactor()),
        padding=padding,
        groups=channels if depthwise else channels // weight.shape[2],
    )
    net.set(op, y, o.FusedActivationFunction())


def linear(net: Interpreter, op: Operation) -> None:
    """`FULLY_CONNECTED`, weights (O, I)."""
    o = op.options("FullyConnectedOptions")
    weight = net.constant(op, 1, "weight")
    if o.WeightsFormat() != 0 or weight.ndim != 2:
        raise Unsupported("its weights are shuffled")
    x, shape = net.value(op.inputs[0]), net.shape(op)
    if not o.KeepNumDims() or shape[-1] != weight.shape[1]:
        x = net.reshape(x, (math.prod(shape) // weight.shape[1], weight.shape[1]))
    inputs = [x, net.weight(op.inputs[1], "weight", weight.T)]
    if net.has(op, 2):
        inputs.append(net.weight(op.inputs[2], "bias", net.constant(op, 2, "bias")))
    net.set(op, net.emit("linear", inputs), o.FusedActivationFunction())


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


def unary(net: Interpreter, op: Operation) -> None:
    """A function of each element."""
    net.set(op, net.emit(_UNARY[op.name], [net.value(op.inputs[0])]))


def relu_one(net: Interpreter, op: Operation) -> None:
    """`RELU_N1_TO_1`."""
    net.set(op, net.emit("clip", [net.value(op.inputs[0])], low=-1.0, high=1.0))


def leaky_relu(net: Interpreter, op: Operation) -> None:
    """`LEAKY_RELU`."""
    net.set(op, net.emit("leaky_relu", [net.value(op.inputs[0])], alpha=float(op.options("LeakyReluOptions").Alpha())))


def gelu(net: Interpreter, op: Operation) -> None:
    """`GELU`, exact or by tanh."""
    kind = "gelu_tanh" if op.options("GeluOptions").Approximate() else "gelu"
    net.set(op, net.emit(kind, [net.value(op.inputs[0])]))


def rsqrt(net: Interpreter, op: Operation) -> None:
    """`RSQRT`."""
    net.set(op, net.emit("reciprocal", [net.emit("sqrt", [net.value(op.inputs[0])])]))


def prelu(net: Interpreter, op: Operation) -> None:
    """`PRELU`: max(x, 0) + slope * min(x, 0)."""
    x, slope = net.value(op.inputs[0]), without_leading_ones(net.constant(op, 1, "slope"))
    net.set(op, net.prelu(x, net.weight(op.inputs[1], "slope", slope)))


def binary(net: Interpreter, op: Operation) -> None:
    """Arithmetic with broadcasting."""
    kinds = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
    activation = op.options(kinds[op.name]).FusedActivationFunction() if op.name in kinds else 0
    net.set(op, net.emit(_BINARY[op.name], [net.value(i) for i in op.inputs[:2]]), activation)


def softmax(net: Interpreter, op: Operation) -> None:
    """`SOFTMAX` over the last axis."""
    if op.options("SoftmaxOptions").Beta() != 1.0:
        raise Unsupported("its beta is not 1")
    net.set(op, net.emit("softmax", [net.value(op.inputs[0])]))


def reduce(net: Interpreter, op: Operation) -> None:
    """`MEAN`, `SUM` and `REDUCE_MAX`."""
    rank, keeps = len(net.shape(op)), bool(op.options("ReducerOptions").KeepDims())
    places = sorted({int(a) % rank for a in net.constant(op, 1, "axes").reshape(-1)})
    if 0 in places or not places:
        raise Unsupported("it reduces over the batch")
    y = net.value(op.inputs[0])
    if op.name == "MEAN" and keeps and rank == 4 and places == [1, 2]:
        net.set(op, net.emit("global_average_pool", [y]))
        return
    net.set(op, net.reduce(_REDUCE[op.name], y, places, keeps))


def pad(net: Interpreter, op: Operation) -> None:
    """`PAD` and `PADV2`."""
    amounts = net.constant(op, 1, "amount").tolist()
    value = float(net.constant(op, 2, "value").item()) if op.name == "PADV2" else 0.0
    before, after = (tuple(int(a[side]) for a in amounts) for side in (0, 1))
    if before[0] or after[0]:
        raise Unsupported("it pads the batch")
    net.set(op, net.emit("pad", [net.value(op.inputs[0])], before=before, after=after, value=value))


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
    net.set(op, net.reshape(net.value(op.inputs[0]), wanted))


def squeeze(net: Interpreter, op: Operation) -> None:
    """`SQUEEZE` of named axes, or of all of length one."""
    shape, o = net.shape(op), op.options("SqueezeOptions")
    places = {int(a) % len(shape) for a in o.SqueezeDimsAsNumpy()} if o.SqueezeDimsLength() else set()
    places = places or {i for i, d in enumerate(shape) if d == 1}
    net.set(op, net.reshape(net.value(op.inputs[0]), [d for i, d in enumerate(shape) if i not in places]))


def concat(net: Interpreter, op: Operation) -> None:
    """`CONCATENATION` along any axis but the batch."""
    o = op.options("ConcatenationOptions")
    axis = o.Axis() % len(net.shape(op))
    if axis == 0:
        raise Unsupported("it joins batches")
    net.set(op, net.emit("concat", [net.value(i) for i in op.inputs], axis=axis), o.FusedActivationFunction())


def transpose(net: Interpreter, op: Operation) -> None:
    """`TRANSPOSE`."""
    axes = tuple(int(a) for a in net.constant(op, 1, "order"))
    net.set(op, net.emit("transpose", [net.value(op.inputs[0])], axes=axes))


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


def same(net: Interpreter, op: Operation) -> None:
    """`DEQUANTIZE` and `QUANTIZE`: all numbers are float32 here."""
    i = op.inputs[0]
    if i in net.constants:
        net.constants[op.outputs[0]] = np.asarray(net.constants[i], np.float32)
    else:
        net.set(op, net.value(i))


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_REDUCE, reduce),
    **{"CONV_2D": convolution, "DEPTHWISE_CONV_2D": convolution, "FULLY_CONNECTED": linear},
    **{"MAX_POOL_2D": pool, "AVERAGE_POOL_2D": pool, "SOFTMAX": softmax},
    **{"RELU_N1_TO_1": relu_one, "LEAKY_RELU": leaky_relu, "GELU": gelu, "RSQRT": rsqrt, "PRELU": prelu},
    **{"PAD": pad, "PADV2": pad, "RESHAPE": reshape, "SQUEEZE": squeeze, "CONCATENATION": concat},
    **{"TRANSPOSE": transpose, "DEPTH_TO_SPACE": blocks, "SPACE_TO_DEPTH": blocks},
    **{"DEQUANTIZE": same, "QUANTIZE": same},
}
