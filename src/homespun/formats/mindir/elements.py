"""What MindSpore's element-wise operators and reductions are in ONNX's terms."""

from __future__ import annotations

import math

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.mindir.operation import Operation, Value
from homespun.formats.mindir.translation import Translation

_UNARY = {
    **{"ReLU": "Relu", "HSwish": "HardSwish", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "SiLU": "Swish", "Mish": "Mish"},
    **{"Softplus": "Softplus", "Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Abs": "Abs", "Neg": "Neg", "Erf": "Erf"},
    **{"Reciprocal": "Reciprocal", "Inv": "Reciprocal"},
}
_BINARY = {
    **{"Add": "Add", "TensorAdd": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div", "RealDiv": "Div"},
    **{"Maximum": "Max", "Minimum": "Min", "Pow": "Pow"},
    **{"Adds": "Add", "Subs": "Sub", "Muls": "Mul", "Divs": "Div", "PowTensorScalar": "Pow"},
    **{"AddExt": "Add", "SubExt": "Sub"},
}
#: Whole numbers that shapes are made of.
_SCALAR = {"ScalarAdd": "Add", "ScalarSub": "Sub", "ScalarMul": "Mul", "ScalarFloorDiv": "Div"}
_REDUCE = {
    **{"ReduceMean": "ReduceMean", "MeanExt": "ReduceMean", "ReduceSum": "ReduceSum", "SumExt": "ReduceSum"},
    **{"ReduceMax": "ReduceMax"},
}
_FLOATS = (1, 10, 11, 16, 17)


def unary(t: Translation, op: Operation) -> Value:
    """A function without settings."""
    return t.emit(_UNARY[op.kind], [op.ref().name])


def relu6(t: Translation, op: Operation) -> Value:
    """`ReLU6`."""
    return _clipped(t, op, 0.0, 6.0)


def clamp(t: Translation, op: Operation) -> Value:
    """`ClampScalar` and `ClampTensor`: (x, lowest, highest), either absent."""
    low = op.setting(1, "min") if op.has(1) else -math.inf
    high = op.setting(2, "max") if op.has(2) else math.inf
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise Unsupported("its bounds are not one number each")
    return _clipped(t, op, low, high)


def _clipped(t: Translation, op: Operation, low: float, high: float) -> Value:
    return t.emit("Clip", [op.ref().name, t.constant(low, np.float32), t.constant(high, np.float32)])


def hard_sigmoid(t: Translation, op: Operation) -> Value:
    """`HSigmoid`: relu6(x + 3) / 6."""
    return t.emit("HardSigmoid", [op.ref().name], alpha=1 / 6, beta=0.5)


def elu(t: Translation, op: Operation) -> Value:
    """`Elu` and `EluExt`."""
    return t.emit("Elu", [op.ref().name], alpha=op.setting(1, "alpha", 1.0))


def leaky_relu(t: Translation, op: Operation) -> Value:
    """`LeakyReLUExt`: (x, slope)."""
    return t.emit("LeakyRelu", [op.ref().name], alpha=op.setting(1, "negative_slope", 0.01))


def prelu(t: Translation, op: Operation) -> Value:
    """`PReLU` with a slope for each channel, axis 1."""
    x, slope = op.ref(0), op.ref(1)
    rank = len(t.shape(x))
    if rank > 2:
        slope = t.emit("Unsqueeze", [slope.name], axes=list(range(1, rank - 1)))
    return t.emit("PRelu", [x.name, slope.name])


def gelu(t: Translation, op: Operation) -> Value:
    """`GeLU`, by tanh."""
    return t.emit("Gelu", [op.ref().name], approximate="tanh")


def gelu_ext(t: Translation, op: Operation) -> Value:
    """`GeluExt`: exact (0), or by tanh (1)."""
    by_tanh = op.setting(1, "approximate") in ("tanh", 1)
    return t.emit("Gelu", [op.ref().name], approximate="tanh" if by_tanh else "none")


def rsqrt(t: Translation, op: Operation) -> Value:
    """`Rsqrt`."""
    return t.emit("Reciprocal", [t.emit("Sqrt", [op.ref().name]).name])


def square(t: Translation, op: Operation) -> Value:
    """`Square`."""
    return t.emit("Mul", [op.ref().name, op.ref().name])


def softmax(t: Translation, op: Operation) -> Value:
    """`Softmax` and `LogSoftmax` along one axis."""
    log = op.kind.startswith("Log")
    axes = op.numbers(1, "axis", (-1,))
    if len(axes) != 1:
        raise Unsupported(f"it is over the axes {list(axes)}; one can be read")
    return t.emit("LogSoftmax" if log else "Softmax", [op.ref().name], axis=axes[0])


def binary(t: Translation, op: Operation) -> Value:
    """Arithmetic with broadcasting; operands may be plain numbers."""
    if op.kind in ("AddExt", "SubExt") and op.setting(2, "alpha", None) not in (None, 1, 1.0):
        raise Unsupported("its alpha is not 1")
    floats = bool(op.results) and op.results[0].data_type in _FLOATS
    return t.emit(_BINARY[op.kind], [_operand(t, v, floats) for v in op.inputs[:2]])


def _operand(t: Translation, value: Value, floats: bool) -> str:
    """A tensor; whole numbers among floating-point ones become such, as MindSpore has it."""
    name = t.tensor(value)
    if floats and name in t.constants and t.constants[name].dtype.kind in "iu":
        return t.constant(t.constants[name], np.float32)
    return name


def scalar(t: Translation, op: Operation) -> Value:
    """Arithmetic of the lengths of axes."""
    a, b = op.inputs[:2]
    return t.emit(_SCALAR[op.kind], [t.tensor(v) if not isinstance(v, int) else t.constant(v) for v in (a, b)])


def cast(t: Translation, op: Operation) -> Value:
    """`Cast` to what the file says its result is."""
    if not op.results:
        raise Unsupported("the file does not say to what it converts")
    return t.emit("Cast", [op.ref().name], to=1 if op.results[0].data_type in _FLOATS else op.results[0].data_type)


def dropout(t: Translation, op: Operation) -> Value:
    """`Dropout`: (x, probability of keeping); `DropoutExt`: (x, of dropping). It drops while training here."""
    kept = 1.0 - op.setting(1, "p", 0.5) if op.kind == "DropoutExt" else op.setting(1, "keep_prob", 0.5)
    rate = round(1.0 - kept, 6)  # 0.2, rather than what is left of 0.8 in float32
    return (t.emit("Dropout", [op.ref().name, t.constant(rate, np.float32)]),)


def reduce(t: Translation, op: Operation) -> Value:
    """`ReduceMean`, `ReduceSum`, `ReduceMax` and their likes: (x, axes, keep axes)."""
    axes = op.numbers(1, "axis", ())
    keeps = op.setting(2, "keep_dims", False)
    return t.emit(_REDUCE[op.kind], [op.ref().name], axes=list(axes), keepdims=int(keeps))


def largest(t: Translation, op: Operation) -> Value:
    """`ArgMaxWithValue`: where, which can't be had, and how much."""
    keeps = op.setting(2, "keep_dims", False)
    value = t.emit("ReduceMax", [op.ref().name], axes=[op.setting(1, "axis", 0)], keepdims=int(keeps))
    return (t.lost(op, "where a maximum is can't be computed here; export the network without it"), value)


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_SCALAR, scalar),
    **dict.fromkeys(_REDUCE, reduce),
    **{"ReLU6": relu6, "ClampScalar": clamp, "ClampTensor": clamp, "ClipByValue": clamp, "HSigmoid": hard_sigmoid},
    **{"Elu": elu, "EluExt": elu, "LeakyReLUExt": leaky_relu, "PReLU": prelu, "GeLU": gelu, "GeluExt": gelu_ext},
    **{"Rsqrt": rsqrt, "Square": square, "Softmax": softmax, "LogSoftmax": softmax, "LogSoftmaxExt": softmax},
    **{"Cast": cast, "Dropout": dropout, "DropoutExt": dropout, "ArgMaxWithValue": largest},
}
