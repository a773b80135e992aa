"""The end of a training step: the guard that decides whether parameters may change, and the updates.

Updates write to parameters and optimizer states. All read `hyper` (float32 (8,): learning rate, two numbers that the
optimizer works out for the step, one over the loss scale) and `control` (float32 (4,): go, factor, gradient norm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator

HYPER = 8


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(4 * ins[0].size)


def _lower_guard(low: Any, node: Node) -> None:
    loss, square_sum, hyper = node.inputs
    operands = {"loss": loss, "square_sum": square_sum, "hyper": hyper, "control": node.outputs[0]}
    low.emit("guard", operands, {}, {"largest_norm": float(low.attributes(node)["largest_norm"])})


GUARD = Operator(
    "guard",
    ("loss?", "square_sum?", "hyper"),
    lambda a, ins: [TensorType((4,))],
    {"largest_norm": 0.0},
    lower=_lower_guard,
)


def _lower_square_sum(low: Any, node: Node) -> None:
    before, g = node.inputs
    operands = {"before": before, "g": g, "total": node.outputs[0]}
    low.emit("add_square_sum", operands, {"count": low.type(g).size})


ADD_SQUARE_SUM = Operator(
    "add_square_sum",
    ("before?", "g"),
    lambda a, ins: [TensorType((), "float64")],
    lower=_lower_square_sum,
)


def _written(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    return [t for t in ins[3:] if t is not None]


def _lower_update(low: Any, node: Node) -> None:
    a = low.attributes(node)
    gradient, hyper, control, parameter, first, second = node.inputs
    operands = {
        "gradient": gradient,
        "hyper": hyper,
        "control": control,
        "parameter": parameter,
        "first": first,
        "second": second,
    }
    ints = {
        "count": low.type(parameter).size,
        "nesterov": int(a["nesterov"]),
        "decoupled": int(a["decoupled"]),
    }
    low.emit(node.op, operands, ints, {k: float(a[k]) for k in ("rate", "decay", "clip", "a", "b", "epsilon")})


_UPDATE: dict[str, Any] = {
    "rate": 1.0,
    "decay": 0.0,
    "clip": math.inf,
    "a": 0.0,
    "b": 0.0,
    "epsilon": 0.0,
    "nesterov": False,
    "decoupled": False,
}
UPDATES = ("sgd", "adam", "rmsprop", "adagrad", "lion")


def _update(name: str) -> Operator:
    inputs = ("gradient", "hyper", "control", "parameter", "first?", "second?")
    return Operator(name, inputs, _written, _UPDATE, lower=_lower_update, cost=_cost)


def _lower_average(low: Any, node: Node) -> None:
    parameter, control, average = node.inputs
    operands = {"parameter": parameter, "control": control, "average": average}
    ints = {"count": low.type(average).size}
    low.emit("average_parameters", operands, ints, {"decay": float(low.attributes(node)["decay"])})


#: average = decay * average + (1 - decay) * parameter
AVERAGE_PARAMETERS = Operator(
    "average_parameters",
    ("parameter", "control", "average"),
    lambda a, ins: [t for t in ins[2:] if t is not None],
    {"decay": 0.999},
    lower=_lower_average,
    cost=_cost,
)


def _lower_accumulate(low: Any, node: Node) -> None:
    gradient, total = node.inputs
    operands = {"gradient": gradient, "before": total, "total": total}
    ints = {"count": low.type(total).size}
    low.emit("accumulate_gradient", operands, ints, {"factor": float(low.attributes(node)["factor"])})


#: total += factor * gradient
ACCUMULATE_GRADIENT = Operator(
    "accumulate_gradient",
    ("gradient", "total"),
    lambda a, ins: [t for t in ins[1:] if t is not None],
    {"factor": 1.0},
    lower=_lower_accumulate,
    cost=_cost,
)

OPERATORS = (GUARD, ADD_SQUARE_SUM, *map(_update, UPDATES), AVERAGE_PARAMETERS, ACCUMULATE_GRADIENT)
