"""Element-wise functions of one tensor: activations and the plain unary operators.

All of them share a kernel that is told which function by a number; the epilogues of convolution, linear and addition
use the same numbers, where the compiler fuses an activation into the operator before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from homespun.errors import ModelError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator
from homespun.ops.coupling import each_channel
from homespun.ops.storage import is_half

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
    "erf": "Erf",
    "softplus": "Softplus",
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
    y = low.type(node.outputs[0])
    ints = {"count": y.size, "activation": low.function(node.op), "half": is_half(y)}
    low.emit("unary", {"input": node.inputs[0], "output": node.outputs[0]}, ints, floats)


#: Functions whose slope follows from their result as well as from their argument; the gradient keeps the result, which
#: the next layer keeps anyway.
FROM_OUTPUT = ("relu", "relu6", "clip")


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    saved = node.outputs[0] if node.op in FROM_OUTPUT else node.inputs[0]
    return [build.add("unary_gradient", [saved, dy], node.inputs[0], **function_of(node))]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(outs[0].size)


_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "leaky_relu": {"alpha": 0.01},
    "elu": {"alpha": 1.0},
    "hard_sigmoid": {"alpha": 1 / 6, "beta": 0.5},
    "clip": {"low": 0.0, "high": 6.0},
}


def onnx_function(write: Any, function: str, x: str, alpha: float, beta: float) -> str:
    """Write a function of each element with its parameters as the kernels name them; the result's name in ONNX."""
    if function == "none":
        return x
    if function in ("relu6", "clip"):
        low, high = (0.0, 6.0) if function == "relu6" else (alpha, beta)
        bounds = [low if low > -math.inf else "", high if high < math.inf else ""]
        return str(write("Clip", x, *bounds))
    if function in ("leaky_relu", "elu"):
        return str(write(_ONNX[function], x, alpha=alpha))
    if function == "hard_sigmoid":
        return str(write("HardSigmoid", x, alpha=alpha, beta=beta))
    if function in _COMPOSED:
        return str(_COMPOSED[function](write, x))
    return str(write(_ONNX[function], x))


#: Those that ONNX has no operator for, or has it only since later than 17.
_COMPOSED: dict[str, Any] = {
    "silu": lambda write, x: write("Mul", x, write("Sigmoid", x)),
    "gelu": lambda write, x: write("Mul", write("Mul", x, _gaussian(write, x)), 0.5),
    "gelu_tanh": lambda write, x: write(
        "Mul", write("Mul", x, write("Add", write("Tanh", _inner(write, x)), 1.0)), 0.5
    ),
    "mish": lambda write, x: write("Mul", x, write("Tanh", write("Softplus", x))),
    "square": lambda write, x: write("Mul", x, x),
}


def _gaussian(write: Any, x: str) -> Any:
    """1 + erf(x / sqrt 2)."""
    return write("Add", write("Erf", write("Div", x, math.sqrt(2.0))), 1.0)


def _inner(write: Any, x: str) -> Any:
    """sqrt(2 / pi) (x + 0.044715 x^3)."""
    cube = write("Mul", write("Mul", x, write("Mul", x, x)), 0.044715)
    return write("Mul", write("Add", x, cube), math.sqrt(2.0 / math.pi))


def onnx_slope(write: Any, function: str, x: str, alpha: float, beta: float) -> Any:
    """Write the slope of a function at x, as the kernels define it where it has corners."""

    def between(y: str, low: float, high: float) -> Any:
        inside = []
        if low > -math.inf:
            inside.append(write("Greater", y, low))
        if high < math.inf:
            inside.append(write("Less", y, high))
        if not inside:
            return write("Add", write("Mul", y, 0.0), 1.0)
        return write("Cast", inside[0] if len(inside) == 1 else write("And", *inside), to=1)

    if function in ("relu", "relu6", "clip"):
        bounds = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
        return between(x, *bounds.get(function, (alpha, beta)))
    if function == "leaky_relu":
        return write("Where", write("Greater", x, 0.0), 1.0, alpha)
    if function == "elu":
        return write("Where", write("Greater", x, 0.0), 1.0, write("Mul", write("Exp", x), alpha))
    if function == "hard_sigmoid":
        return write("Mul", between(write("Add", write("Mul", x, alpha), beta), 0.0, 1.0), alpha)
    if function == "hard_swish":
        middle = write("Add", write("Div", x, 3.0), 0.5)
        above = write("Where", write("GreaterOrEqual", x, 3.0), 1.0, middle)
        return write("Where", write("LessOrEqual", x, -3.0), 0.0, above)
    return _SLOPES[function](write, x)


def _silu_slope(write: Any, x: str) -> Any:
    s = write("Sigmoid", x)
    return write("Mul", s, write("Add", write("Mul", x, write("Sub", 1.0, s)), 1.0))


def _gelu_slope(write: Any, x: str) -> Any:
    density = write("Exp", write("Mul", write("Mul", x, x), -0.5))
    return write(
        "Add",
        write("Mul", _gaussian(write, x), 0.5),
        write("Mul", write("Mul", x, density), 1 / math.sqrt(2 * math.pi)),
    )


def _gelu_tanh_slope(write: Any, x: str) -> Any:
    t = write("Tanh", _inner(write, x))
    steep = write("Add", write("Mul", write("Mul", x, x), 3 * 0.044715), 1.0)
    right = write("Mul", write("Mul", x, write("Sub", 1.0, write("Mul", t, t))), steep)
    return write("Add", write("Mul", write("Add", t, 1.0), 0.5), write("Mul", right, 0.5 * math.sqrt(2.0 / math.pi)))


def _mish_slope(write: Any, x: str) -> Any:
    t = write("Tanh", write("Softplus", x))
    return write("Add", t, write("Mul", write("Mul", x, write("Sub", 1.0, write("Mul", t, t))), write("Sigmoid", x)))


def _tanh_slope(write: Any, x: str) -> Any:
    t = write("Tanh", x)
    return write("Sub", 1.0, write("Mul", t, t))


def _sigmoid_slope(write: Any, x: str) -> Any:
    s = write("Sigmoid", x)
    return write("Mul", s, write("Sub", 1.0, s))


_SLOPES: dict[str, Any] = {
    "sigmoid": _sigmoid_slope,
    "silu": _silu_slope,
    "tanh": _tanh_slope,
    "gelu": _gelu_slope,
    "gelu_tanh": _gelu_tanh_slope,
    "mish": _mish_slope,
    "exp": lambda write, x: write("Exp", x),
    "log": lambda write, x: write("Reciprocal", x),
    "sqrt": lambda write, x: write("Div", 0.5, write("Sqrt", x)),
    "neg": lambda write, x: write("Sub", write("Mul", x, 0.0), 1.0),
    "abs": lambda write, x: write("Sign", x),
    "softplus": lambda write, x: write("Sigmoid", x),
    "reciprocal": lambda write, x: write("Neg", write("Reciprocal", write("Mul", x, x))),
    "square": lambda write, x: write("Add", x, x),
    "erf": lambda write, x: write("Mul", write("Exp", write("Neg", write("Mul", x, x))), 2.0 / math.sqrt(math.pi)),
}


def _to_onnx(write: Any, node: Node) -> None:
    (x,), first = write.together(node.inputs[0])
    floats = _floats(write.attributes(node))
    write.give(node.outputs[0], onnx_function(write, node.op, x, floats["alpha"], floats["beta"]), first)


def _unary(name: str) -> Operator:
    return Operator(
        name=name,
        inputs=("x",),
        attributes=_ATTRIBUTES.get(name, {}),
        shape=_same,
        cost=_cost,
        lower=_lower,
        gradient=_gradient,
        saves=("output",) if name in FROM_OUTPUT else ("x",),
        in_place=(0,),
        rows=("x",),
        onnx=_ONNX.get(name, ""),
        to_onnx=_to_onnx,
        channels=each_channel,
    )


OPERATORS = tuple(_unary(name) for name in FUNCTIONS)


def function_of(node: Node) -> dict[str, Any]:
    """A node's function as an attribute and the two parameters that kernels know: `function`, `alpha`, `beta`."""
    return {"function": node.op, **_floats({**_ATTRIBUTES.get(node.op, {}), **node.attributes})}


def fused(op: str, a: Attributes) -> dict[str, Any]:
    """Attributes that a node takes on when the activation `op` is fused into it."""
    if op not in FUSIBLE:
        raise ModelError(f"activation {op!r} can't be fused")
    return {"activation": op, **_floats(a)}
