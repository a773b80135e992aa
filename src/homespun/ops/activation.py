"""Element-wise functions of one tensor: activations and the plain unary operators.

All of them share a kernel that is told which function by a number; the epilogues of convolution, linear and addition
use the same numbers, where the compiler fuses an activation into the operator before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ModelError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator

#: Operators that compute a function of each element, by the names that the kernels know them by.
FUNCTIONS = (
    "relu",
    "relu6",
    "clip",
    "leaky_relu",
    "hard_sigmoid",
    "hard_swish",
    "sigmoid",
    "silu",
    "tanh",
    "gelu",
    "gelu_tanh",
    "elu",
    "exp",
    "log",
    "sqrt",
    "neg",
    "abs",
    "softplus",
    "mish",
    "reciprocal",
    "square",
    "erf",
)
#: Those that the compiler fuses into the epilogue of the operator before them.
FUSIBLE = ("relu", "relu6", "clip", "leaky_relu", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "tanh")

_ONNX = {
    "relu": "Relu",
    "relu6": "Clip",
    "hard_swish": "HardSwish",
    "hard_sigmoid": "HardSigmoid",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "leaky_relu": "LeakyRelu",
    "gelu": "Gelu",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "clip": "Clip",
    "reciprocal": "Reciprocal",
    "elu": "Elu",
}


def _same(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[0] is not None
    return [ins[0]]


def _floats(a: Attributes) -> dict[str, float]:
    """The two parameters of a function as the kernels name them; a clip's bounds are its alpha and beta."""
    return {"alpha": float(a.get("low", a.get("alpha", 0.0))), "beta": float(a.get("high", a.get("beta", 0.0)))}


def _lower(low: Any, node: Node) -> None:
    a = low.attributes(node)
    floats = _floats(a)
    ints = {"count": low.type(node.outputs[0]).size, "activation": low.function(node.op)}
    low.emit("unary", {"input": node.inputs[0], "output": node.outputs[0]}, ints, floats)


#: Functions whose slope follows from their result as well as from their argument; the gradient keeps the result, which
#: the next layer keeps anyway.
_FROM_OUTPUT = ("relu", "relu6", "clip")


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    saved = node.outputs[0] if node.op in _FROM_OUTPUT else node.inputs[0]
    floats = _floats({**_ATTRIBUTES.get(node.op, {}), **node.attributes})
    return [build.add("unary_gradient", [saved, dy], node.inputs[0], function=node.op, **floats)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(outs[0].size)


_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "leaky_relu": {"alpha": 0.01},
    "elu": {"alpha": 1.0},
    "hard_sigmoid": {"alpha": 1 / 6, "beta": 0.5},
    "clip": {"low": 0.0, "high": 6.0},
}


def _unary(name: str) -> Operator:
    return Operator(
        name=name,
        inputs=("x",),
        attributes=_ATTRIBUTES.get(name, {}),
        shape=_same,
        cost=_cost,
        lower=_lower,
        gradient=_gradient,
        saves=("output",) if name in _FROM_OUTPUT else ("x",),
        in_place=(0,),
        onnx=_ONNX.get(name, ""),
    )


OPERATORS = tuple(_unary(name) for name in FUNCTIONS)


def fused(op: str, a: Attributes) -> dict[str, Any]:
    """Attributes that a node takes on when the activation `op` is fused into it."""
    if op not in FUSIBLE:
        raise ModelError(f"activation {op!r} can't be fused")
    return {"activation": op, **_floats(a)}
