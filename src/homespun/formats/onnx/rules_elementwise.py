"""What ONNX's element-wise operators become: activations, arithmetic with broadcasting, casts, fake quantisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.compile.ranges import keep_limits, upper_bound
from homespun.formats.assembly import FREE, Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.layout import Value, identity
from homespun.formats.onnx.nodes import ForeignNode
from homespun.graph import Array

_UNARY = {
    "Relu": "relu",
    "HardSwish": "hard_swish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Neg": "neg",
    "Abs": "abs",
    "Softplus": "softplus",
    "Mish": "mish",
    "Reciprocal": "reciprocal",
    "Erf": "erf",
}
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "maximum", "Min": "minimum", "Sum": "add"}


def _apply(imp: Conversion, node: ForeignNode, op: str, **attributes: Any) -> None:
    """A function of each element, whatever the order of the axes."""
    value = imp.value(node.inputs[0])
    imp.values[node.outputs[0]] = Value(imp.emit(op, [value.name], **attributes), value.axes, value.image)


def unary(imp: Conversion, node: ForeignNode) -> None:
    """An activation without settings."""
    _apply(imp, node, _UNARY[node.op])


def same(imp: Conversion, node: ForeignNode) -> None:
    """What changes nothing here: the output is the input."""
    imp.values[node.outputs[0]] = imp.value(node.inputs[0])


def dropout(imp: Conversion, node: ForeignNode) -> None:
    """`Dropout`, with its rate, for training here."""
    rate = float(imp.constant(node, 1, "ratio").item()) if node.has(1) else node.get("ratio", 0.5)
    if not 0.0 <= rate < 1.0:
        raise Unsupported(f"its ratio is {rate}")
    _apply(imp, node, "dropout", rate=rate)


def clip(imp: Conversion, node: ForeignNode) -> None:
    """`Clip` with constant bounds; the usual ones have names of their own."""
    low = float(imp.constant(node, 1, "lower bound").item()) if node.has(1) else -math.inf
    high = float(imp.constant(node, 2, "upper bound").item()) if node.has(2) else math.inf
    if math.isnan(low) or math.isnan(high):
        raise Unsupported(f"its bounds are {low} and {high}")
    named = {(0.0, 6.0): "relu6", (0.0, math.inf): "relu"}.get((low, high))
    if named:
        _apply(imp, node, named)
    else:
        _apply(imp, node, "clip", low=low, high=high)


def with_alpha(imp: Conversion, node: ForeignNode) -> None:
    """`LeakyRelu` and `Elu`."""
    leaky = node.op == "LeakyRelu"
    _apply(imp, node, "leaky_relu" if leaky else "elu", alpha=node.get("alpha", 0.01 if leaky else 1.0))


def hard_sigmoid(imp: Conversion, node: ForeignNode) -> None:
    """`HardSigmoid`, of any slope."""
    _apply(imp, node, "hard_sigmoid", alpha=node.get("alpha", 0.2), beta=node.get("beta", 0.5))


def gelu(imp: Conversion, node: ForeignNode) -> None:
    """`Gelu`, exact or by tanh."""
    _apply(imp, node, "gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu")


def swish(imp: Conversion, node: ForeignNode) -> None:
    """`Swish`: x sigmoid(alpha x)."""
    if node.get("alpha", 1.0) != 1.0:
        raise Unsupported(f"its alpha is {node.get('alpha', 1.0)}; 1 can be read")
    _apply(imp, node, "silu")


def power(imp: Conversion, node: ForeignNode) -> None:
    """`Pow` with an exponent that has an operator of its own."""
    exponent = imp.constant(node, 1, "exponent")
    ops = {2.0: ["square"], 0.5: ["sqrt"], -1.0: ["reciprocal"], -0.5: ["sqrt", "reciprocal"]}
    number = float(exponent.item()) if exponent.size == 1 else math.nan
    if number == 1.0:
        same(imp, node)
    elif number == 3.0:
        value = imp.value(node.inputs[0])
        y = imp.emit("mul", [imp.emit("square", [value.name]), value.name])
        imp.values[node.outputs[0]] = Value(y, value.axes, value.image)
    elif number in ops:
        value = imp.value(node.inputs[0])
        y = value.name
        for op in ops[number]:
            y = imp.emit(op, [y])
        imp.values[node.outputs[0]] = Value(y, value.axes, value.image)
    else:
        raise Unsupported(f"its exponent is {number}; 1, 2, 3, 0.5, -0.5 and -1 can be read")


def binary(imp: Conversion, node: ForeignNode) -> None:
    """Arithmetic with broadcasting, of two operands or, for `Max`, `Min` and `Sum`, any number."""
    if not node.inputs or not all(node.inputs):
        raise Unsupported("an operand is missing")
    result = node.inputs[0]
    if len(node.inputs) == 1:
        same(imp, node)
    for i, other in enumerate(node.inputs[1:]):
        target = node.outputs[0] if i == len(node.inputs) - 2 else f"{node.outputs[0]}/part{i}"
        imp.values[target] = combine(imp, _BINARY[node.op], result, other)
        result = target


def combine(imp: Conversion, op: str, a: str, b: str) -> Value:
    """`a op b` of two foreign tensors."""
    first, second = aligned(imp, [a, b])
    y = imp.emit(op, [first.name, second.name])
    longer = first if len(first.axes) >= len(second.axes) else second
    return Value(y, longer.axes, longer.image)


def aligned(imp: Conversion, names: list[str]) -> list[Value]:
    """The operands in one order of axes, so that broadcasting from the right means the same as in the file.

    The order is that of a computed operand of the highest rank, if possible one that is not laid out plainly.
    """
    rank = max(len(imp.shape(n)) for n in names)
    computed = [imp.value(n) for n in names if not imp.is_constant(n) and len(imp.shape(n)) == rank]
    axes = next((v.axes for v in computed if not v.plain), identity(rank))
    if any(v.image is not None for v in computed):
        alike = all(imp.is_constant(n) and imp.constants[n].size == 1 for n in names if imp.value(n).image is None)
        if alike and len({imp.value(n).image for n in names if not imp.is_constant(n)}) == 1:
            return [imp.value(n) for n in names]
        axes = identity(rank)
    return [_in_order(imp, n, axes) for n in names]


def _in_order(imp: Conversion, name: str, axes: tuple[int, ...]) -> Value:
    if imp.is_constant(name):
        return imp.operand(name, axes)
    rank, shape = len(axes), imp.shape(name)
    value = imp.value(name)
    if len(shape) == rank:
        return imp.laid_out(value, axes)
    if axes == identity(rank):
        return imp.laid_out(value, identity(len(shape)))
    ours = imp.reshape(imp.plain(name), (1,) * (rank - len(shape)) + tuple(shape))
    return imp.laid_out(Value(ours, identity(rank)), axes)


def prelu(imp: Conversion, node: ForeignNode) -> None:
    """`PRelu`: max(x, 0) + slope * min(x, 0); slopes are trainable."""
    slope = imp.constant(node, 1, "slope")
    if slope.size == 1 and node.inputs[1] not in imp.learnable:
        _apply(imp, node, "leaky_relu", alpha=float(slope.item()))
        return
    x, factor = aligned(imp, node.inputs[:2])
    imp.values[node.outputs[0]] = Value(imp.prelu(x.name, factor.name), x.axes)


def quantize(imp: Conversion, node: ForeignNode) -> None:
    """`QuantizeLinear` of a computed tensor: values stay float32. A range that begins at zero was an activation, and
    its end is kept as that activation's limit, for 8-bit programs."""
    scale = imp.constant(node, 1, "scale").reshape(-1)
    zero = imp.constant(node, 2, "zero point").reshape(-1) if node.has(2) else np.zeros(1, np.uint8)
    value, rank = imp.value(node.inputs[0]), len(imp.shape(node.inputs[0]))
    if zero.dtype not in (np.uint8, np.int8, np.uint16, np.int16) or node.get("block_size", 0):
        raise Unsupported(f"numbers of the kind {zero.dtype}, or a scale for each block of them")
    if scale.size != 1 and scale.size != imp.shape(node.inputs[0])[node.get("axis", 1) % rank]:
        raise Unsupported(f"{scale.size} scales do not fit its axis")
    if not np.isfinite(scale).all() or (scale <= 0).any():
        raise Unsupported("its scale is not a positive number")
    kind = np.iinfo(zero.dtype)
    if (zero != kind.min).any():
        imp.values[node.outputs[0]] = value
        return
    producer = imp.producer(value.name)
    ends = scale.astype(np.float64) * (kind.max - kind.min)
    if producer is not None and upper_bound(producer) is not None:
        imp.values[node.outputs[0]] = value
        _keep_limit(imp, value, ends, 0 if scale.size == 1 else value.axes.index(node.get("axis", 1) % rank))
    elif producer is None or producer.op not in ("relu", "sigmoid"):
        _apply(imp, node, "relu6" if (abs(ends - 6.0) < 1e-3).all() else "relu")
    else:
        imp.values[node.outputs[0]] = value


def _keep_limit(imp: Conversion, value: Value, ends: Array, axis: int) -> None:
    """Note how far an activation reaches: as a whole, or at each index of our last axis."""
    shape = imp.types[value.name].shape
    if value.image is None and (ends.size == 1 or axis == len(shape) - 1) and shape[-1] % FREE:
        keep_limits(imp.graph, {value.name: np.broadcast_to(ends, shape[-1:])})


def dequantize(imp: Conversion, node: ForeignNode) -> None:
    """`DequantizeLinear` of what `QuantizeLinear` was passed over for."""
    value = imp.value(node.inputs[0])
    if imp.types[value.name].dtype != "float32":
        raise Unsupported("its input is quantised by the caller; float32 inputs can be read")
    imp.values[node.outputs[0]] = value


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    "Identity": same,
    "Dropout": dropout,
    "Clip": clip,
    "LeakyRelu": with_alpha,
    "Elu": with_alpha,
    "HardSigmoid": hard_sigmoid,
    "Gelu": gelu,
    "Swish": swish,
    "Pow": power,
    "PRelu": prelu,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
}
