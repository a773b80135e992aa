"""What ONNX's operators of truth and choice become, which exporters write masks of attention with.

True and false are the numbers 1 and 0 here. Comparisons are of whole numbers, where they can be written exactly with
what there is: x = c is max(1 - |x - c|, 0). Minus infinity becomes a large number, so that no result is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.layout import Value
from homespun.formats.onnx.nodes import ForeignNode
from homespun.formats.onnx.rules_elementwise import combine, same
from homespun.graph import Array

#: What stands for minus infinity. A score of this size is hidden from a softmax that has another to choose.
LOWEST = -1e9
_MOVES = ("reshape", "flatten", "identity", "transpose", "slice")


def _is_whole(imp: Conversion, foreign: str) -> bool:
    """Whether a computed tensor is an input of whole numbers, or of truths, or a comparison, that was moved at most."""
    name = imp.value(foreign).name
    while name not in imp.whole and (made := imp.producer(name)) is not None and made.op in _MOVES:
        name = made.inputs[0]
    return name in imp.whole


def _truth(imp: Conversion, node: ForeignNode, made: str) -> None:
    """Give a result of ones and zeros."""
    value = imp.values[node.outputs[0]] = imp.value(made)
    imp.whole.add(value.name)


def _step(imp: Conversion, node: ForeignNode, op: str, a: str, b: str | float | Array) -> str:
    """`a op b` on the way to a node's result; numbers and arrays are constants."""
    place = f"{node.outputs[0]}/{len(imp.values)}"
    if not isinstance(b, str):
        imp.constants[f"{place}/constant"] = np.asarray(b, np.float32)
        b = f"{place}/constant"
    imp.values[place] = combine(imp, op, a, b)
    return place


def _applied(imp: Conversion, node: ForeignNode, op: str, x: str, **attributes: Any) -> str:
    value, place = imp.value(x), f"{node.outputs[0]}/{len(imp.values)}"
    imp.values[place] = Value(imp.emit(op, [value.name], **attributes), value.axes, value.image)
    return place


def compare(imp: Conversion, node: ForeignNode) -> None:
    """`Equal`, `Greater`, `Less` and theirs with "or equal", of computed whole numbers and a constant."""
    first = not imp.is_constant(node.inputs[0])
    x, other = node.inputs if first else node.inputs[::-1]
    if not imp.is_constant(other) or not _is_whole(imp, x):
        raise Unsupported("it compares numbers that may be fractions, or two that are computed")
    c = imp.constants[other].astype(np.float64)
    if np.abs(c).max(initial=0) > 2**23 or (c != np.round(c)).any():
        raise Unsupported("it compares with a number that is not whole, or too large")
    difference = _step(imp, node, "sub", x, c)
    if node.op == "Equal":
        rest = _step(imp, node, "add", _applied(imp, node, "neg", _applied(imp, node, "abs", difference)), 1.0)
        _truth(imp, node, _applied(imp, node, "relu", rest))
        return
    if node.op.startswith("Greater") != first:  # the constant is to be the larger
        difference = _applied(imp, node, "neg", difference)
    if node.op.endswith("OrEqual"):
        difference = _step(imp, node, "add", difference, 1.0)
    _truth(imp, node, _applied(imp, node, "clip", difference, low=0.0, high=1.0))


def negate(imp: Conversion, node: ForeignNode) -> None:
    """`Not`."""
    _truth(imp, node, _step(imp, node, "add", _applied(imp, node, "neg", node.inputs[0]), 1.0))


def both_or_either(imp: Conversion, node: ForeignNode) -> None:
    """`And` and `Or`."""
    a, b = node.inputs if not imp.is_constant(node.inputs[0]) else node.inputs[::-1]
    other = imp.constants[b] if imp.is_constant(b) else b
    _truth(imp, node, _step(imp, node, "mul" if node.op == "And" else "maximum", a, other))


def cast(imp: Conversion, node: ForeignNode) -> None:
    """`Cast` among numbers that are float32 here already, and of whole numbers to truths."""
    value, to = imp.value(node.inputs[0]), node.get("to", 0)
    whole = _is_whole(imp, node.inputs[0])
    if to == 9 and whole and imp.types[value.name].dtype == "float32":  # true is what is not 0
        sizes = _applied(imp, node, "abs", node.inputs[0])
        _truth(imp, node, _applied(imp, node, "clip", sizes, low=0.0, high=1.0))
        return
    if imp.types[value.name].dtype != "float32" or not (to in (1, 10, 11, 16) or (whole and to in (6, 7))):
        raise Unsupported("it converts a computed tensor to or from whole numbers")
    same(imp, node)


def where(imp: Conversion, node: ForeignNode) -> None:
    """`Where`: mask * a + (1 - mask) * b."""
    mask, a, b = node.inputs
    if imp.is_constant(mask):
        chosen = imp.constants[mask].astype(bool)
        if chosen.all() or not chosen.any():
            name = a if chosen.all() else b
            if np.broadcast_shapes(chosen.shape, imp.shape(a), imp.shape(b)) == tuple(imp.shape(name)):
                imp.values[node.outputs[0]] = imp.value(name)
                return
        yes, no = (_share(imp, node, n, c.astype(np.float32)) for n, c in ((a, chosen), (b, ~chosen)))
    elif imp.is_constant(a) and imp.is_constant(b):
        low, high = finite(imp.constants[b]), finite(imp.constants[a])
        chosen_high = _step(imp, node, "mul", mask, high - low)
        imp.values[node.outputs[0]] = imp.value(_step(imp, node, "add", chosen_high, low))
        return
    else:
        rest = _step(imp, node, "add", _applied(imp, node, "neg", mask), 1.0)
        yes, no = (
            _step(imp, node, "mul", m, finite(imp.constants[n]) if imp.is_constant(n) else n)
            for n, m in ((a, mask), (b, rest))
        )
    imp.values[node.outputs[0]] = imp.value(_step(imp, node, "add", yes, no))


def _share(imp: Conversion, node: ForeignNode, name: str, factor: Array) -> str:
    """What a constant mask leaves of one of the two."""
    if not imp.is_constant(name):
        return _step(imp, node, "mul", name, factor)
    place = f"{node.outputs[0]}/{len(imp.values)}/share"
    imp.constants[place] = np.asarray(finite(imp.constants[name]) * factor, np.float32)
    return place


def finite(array: Array) -> Array:
    """A float32 array with large numbers for what is infinite. Raises `Unsupported` for what is no number."""
    if np.isnan(array.astype(np.float32)).any():
        raise Unsupported("it chooses what is not a number")
    return np.asarray(np.clip(array.astype(np.float32), LOWEST, -LOWEST), np.float32)


def is_nan(imp: Conversion, node: ForeignNode) -> None:
    """`IsNaN`: never, for minus infinity is a number here."""
    imp.constants[node.outputs[0]] = np.zeros((1,) * len(imp.shape(node.inputs[0])), np.bool_)


RULES = {
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), compare),
    **dict.fromkeys(("And", "Or"), both_or_either),
    **{"Not": negate, "Cast": cast, "Where": where, "IsNaN": is_nan},
}
