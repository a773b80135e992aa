"""What TFLite's functions of each element become: activations, arithmetic, sums over axes, choices."""

from __future__ import annotations

import math

import numpy as np

from homespun.formats.assembly import Unsupported, without_leading_ones
from homespun.formats.tflite.importer import Interpreter, Operation
from homespun.graph import Array

_UNARY = {
    **{"RELU": "relu", "RELU6": "relu6", "LOGISTIC": "sigmoid", "TANH": "tanh", "HARD_SWISH": "hard_swish"},
    **{"ELU": "elu", "EXP": "exp", "LOG": "log", "SQRT": "sqrt", "NEG": "neg", "ABS": "abs", "SQUARE": "square"},
    "LOG_SOFTMAX": "log_softmax",
}
_BINARY = {"ADD": "add", "SUB": "sub", "MUL": "mul", "DIV": "div", "MAXIMUM": "maximum", "MINIMUM": "minimum"}
_OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
_REDUCE = {"MEAN": "reduce_mean", "SUM": "reduce_sum", "REDUCE_MAX": "reduce_max", "REDUCE_MIN": "reduce_max"}
_CLIPPED = {"RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
_POWERS = {2.0: ["square"], 0.5: ["sqrt"], -1.0: ["reciprocal"], -0.5: ["sqrt", "reciprocal"], 1.0: []}
#: What stands for minus infinity where scores are hidden before a softmax.
_LOWEST = -1e9


def unary(net: Interpreter, op: Operation) -> None:
    """A function of each element."""
    net.set(op, net.emit(_UNARY[op.name], [net.value(op.inputs[0])]))


def clipped(net: Interpreter, op: Operation) -> None:
    """`RELU_N1_TO_1` and `RELU_0_TO_1`."""
    low, high = _CLIPPED[op.name]
    net.set(op, net.emit("clip", [net.value(op.inputs[0])], low=low, high=high))


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


def power(net: Interpreter, op: Operation) -> None:
    """`POW` with an exponent that has an operator of its own."""
    exponent = net.constant(op, 1, "exponent")
    number = float(exponent.item()) if exponent.size == 1 else math.nan
    if number not in _POWERS:
        raise Unsupported(f"its exponent is {number}; {', '.join(map(str, _POWERS))} can be read")
    y = net.value(op.inputs[0])
    for function in _POWERS[number]:
        y = net.emit(function, [y])
    net.set(op, y)


def prelu(net: Interpreter, op: Operation) -> None:
    """`PRELU`: max(x, 0) + slope * min(x, 0)."""
    x, slope = net.value(op.inputs[0]), without_leading_ones(net.constant(op, 1, "slope"))
    net.set(op, net.prelu(x, net.weight(op.inputs[1], "slope", slope)))


def binary(net: Interpreter, op: Operation) -> None:
    """Arithmetic with broadcasting; ids to which the length of a table is added are a look-up that begins."""
    a, b = op.inputs[:2]
    if op.name == "ADD" and net.is_constant(op, 1) and net.types[net.value(a)].dtype == "int32":
        net.begun[op.outputs[0]] = ("moved", net.value(a), net.constant(op, 1, "number"))
        return
    activation = op.options(_OPTIONS[op.name]).FusedActivationFunction() if op.name in _OPTIONS else 0
    net.set(op, net.emit(_BINARY[op.name], [net.value(a), net.value(b)]), activation)


def less(net: Interpreter, op: Operation) -> None:
    """`LESS` of ids and zero: Keras asks so which ones count from the end of a table."""
    if net.is_constant(op, 0) or net.types[net.value(op.inputs[0])].dtype != "int32":
        raise Unsupported("it compares computed numbers")
    if net.constant(op, 1, "number").any():
        raise Unsupported("it compares ids with a number other than zero")
    net.begun[op.outputs[0]] = ("negative", net.value(op.inputs[0]))


def select(net: Interpreter, op: Operation) -> None:
    """`SELECT` by a constant mask; or between ids and ids that count from the end, which ours never do."""
    begun = net.begun.get(op.inputs[0], ("",))
    if begun[0] == "negative":
        moved, ids = net.begun.get(op.inputs[1], ("",)), net.value(op.inputs[2])
        if moved[0] != "moved" or not moved[1] == begun[1] == ids:
            raise Unsupported("it chooses by numbers that are computed")
        net.set(op, ids)
        return
    mask = net.constant(op, 0, "mask").astype(bool)
    parts = []
    for i, chosen in ((1, mask), (2, ~mask)):
        if net.is_constant(op, i):
            values = np.where(chosen, net.constant(op, i, "value"), 0.0)
            values = without_leading_ones(np.maximum(values, _LOWEST).astype(np.float32))
            if values.any():
                parts.append(_fixed(net, op, i, values))
        elif chosen.all():
            parts.append(net.value(op.inputs[i]))
        elif chosen.any():
            factor = without_leading_ones(chosen.astype(np.float32))
            parts.append(net.emit("mul", [net.value(op.inputs[i]), _fixed(net, op, i, factor)]))
    if not parts or all(net.producer(p) is None and net.graph.tensors[p].role == "constant" for p in parts):
        raise Unsupported("nothing that it chooses is computed")
    net.set(op, parts[0] if len(parts) == 1 else net.emit("add", parts))


def _fixed(net: Interpreter, op: Operation, i: int, array: Array) -> str:
    return net.weight(op.outputs[0], f"choice {i}", array, "constant")


def all_of_them(net: Interpreter, op: Operation) -> None:
    """`ADD_N`."""
    y = net.value(op.inputs[0])
    for i in op.inputs[1:]:
        y = net.emit("add", [y, net.value(i)])
    net.set(op, y)


def squared_difference(net: Interpreter, op: Operation) -> None:
    """`SQUARED_DIFFERENCE`."""
    net.set(op, net.emit("square", [net.emit("sub", [net.value(i) for i in op.inputs[:2]])]))


def softmax(net: Interpreter, op: Operation) -> None:
    """`SOFTMAX` over the last axis."""
    x, beta = net.value(op.inputs[0]), float(op.options("SoftmaxOptions").Beta())
    if beta != 1.0:
        x = net.emit("mul", [x, net.weight(op.outputs[0], "beta", np.asarray(beta, np.float32), "constant")])
    net.set(op, net.emit("softmax", [x]))


def reduce(net: Interpreter, op: Operation) -> None:
    """`MEAN`, `SUM`, `REDUCE_MAX` and `REDUCE_MIN`, which is -max(-x)."""
    rank, keeps = len(net.shape(op)), bool(op.options("ReducerOptions").KeepDims())
    places = sorted({int(a) % rank for a in net.constant(op, 1, "axes").reshape(-1)})
    if 0 in places or not places:
        raise Unsupported("it reduces over the batch")
    y = net.value(op.inputs[0])
    if op.name == "MEAN" and keeps and rank == 4 and places == [1, 2]:
        net.set(op, net.emit("global_average_pool", [y]))
        return
    least = op.name == "REDUCE_MIN"
    y = net.reduce(_REDUCE[op.name], net.emit("neg", [y]) if least else y, places, keeps)
    net.set(op, net.emit("neg", [y]) if least else y)


def same(net: Interpreter, op: Operation) -> None:
    """`DEQUANTIZE`, `QUANTIZE`: all numbers are float32 here."""
    net.set(op, net.value(op.inputs[0]))


def cast(net: Interpreter, op: Operation) -> None:
    """`CAST` to floating-point numbers of what is float32 here already."""
    x = net.value(op.inputs[0])
    if op.options("CastOptions").OutDataType() not in (0, 1) or net.types[x].dtype != "float32":
        raise Unsupported("it converts a computed tensor to or from whole numbers")
    net.set(op, x)


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_REDUCE, reduce),
    **dict.fromkeys(_CLIPPED, clipped),
    **{"LEAKY_RELU": leaky_relu, "GELU": gelu, "RSQRT": rsqrt, "POW": power, "PRELU": prelu, "SOFTMAX": softmax},
    **{"LESS": less, "SELECT": select, "SELECT_V2": select, "ADD_N": all_of_them},
    **{"SQUARED_DIFFERENCE": squared_difference, "DEQUANTIZE": same, "QUANTIZE": same, "CAST": cast},
}
