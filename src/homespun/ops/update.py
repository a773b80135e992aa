"""The end of a training step: the guard that decides whether parameters may change, and the updates.

Updates write to parameters and optimizer states. All read `hyper` (float32 (8,): learning rate, two numbers that the
optimizer works out for the step, one over the loss scale, what a micro-batch counts) and `control` (float32 (5,): go,
factor, gradient norm, parameters updated so far, whether a gradient was not finite: then the rest stays as it is).
With `ids` the gradient of a table is given as the rows that `embedding_gradient` would add up; with `x` that of a
linear layer's weights as the layer's input and its output's gradient, whose product it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator
from homespun.ops.storage import is_half
from homespun.ops.training_norm import rows_of

HYPER, CONTROLS = 8, 5


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(4 * ins[0].size)


def _update_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    x = ins[7] if len(ins) > 7 else None
    return Cost((4 + (2 * rows_of(x) if x is not None else 0)) * outs[0].size)


def _lower_guard(low: Any, node: Node) -> None:
    loss, square_sum, hyper = node.inputs
    operands = {"loss": loss, "square_sum": square_sum, "hyper": hyper, "control": node.outputs[0]}
    low.emit("guard", operands, {}, {"largest_norm": float(low.attributes(node)["largest_norm"])})


def _guard_to_onnx(write: Any, node: Node) -> None:
    """Kept as its parts: whether to update, and what gradients are multiplied by (None: nothing)."""
    loss, square_sum, _ = node.inputs
    go, factor = None, None
    for number in (write.ours(loss) if loss else "", write.shared[square_sum] if square_sum else ""):
        if number:
            number = write("Cast", number, to=1)
            bad = write("Or", write("IsNaN", number), write("IsInf", number))
            good = write("Not", bad)
            go = good if go is None else write("And", go, good)
    largest = float(write.attributes(node)["largest_norm"])
    if square_sum and largest > 0:
        norm = write("Sqrt", write.shared[square_sum])
        limit = write("Div", np.float64(largest), write("Add", norm, np.float64(1e-6)))
        factor = write("Cast", write("Where", write("Greater", norm, np.float64(largest)), limit, np.float64(1)), to=1)
    write.shared[node.outputs[0]] = (go, factor)


GUARD = Operator(
    "guard",
    ("loss?", "square_sum?", "hyper"),
    lambda a, ins: [TensorType((CONTROLS,))],
    {"largest_norm": 0.0},
    lower=_lower_guard,
    to_onnx=_guard_to_onnx,
)


def _lower_square_sum(low: Any, node: Node) -> None:
    before, g = node.inputs
    operands = {"before": before, "g": g, "total": node.outputs[0]}
    low.emit("add_square_sum", operands, {"count": low.type(g).size})


def _square_sum_to_onnx(write: Any, node: Node) -> None:
    before, g = node.inputs
    wide = write("Cast", write.ours(g), to=11)
    total = write("ReduceSum", write("Mul", wide, wide), keepdims=0)
    write.shared[node.outputs[0]] = write("Add", write.shared[before], total) if before else total


ADD_SQUARE_SUM = Operator(
    "add_square_sum",
    ("before?", "g"),
    lambda a, ins: [TensorType((), "float64")],
    lower=_lower_square_sum,
    to_onnx=_square_sum_to_onnx,
)


def _written(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    return [t for t in ins[3:6] if t is not None]


def _lower_update(low: Any, node: Node) -> None:
    a = low.attributes(node)
    gradient, hyper, control, parameter, first, second, ids, x = (*node.inputs, "", "")[:8]
    operands = {
        "gradient": "" if x else gradient,
        "hyper": hyper,
        "control": control,
        "parameter": parameter,
        "first": first,
        "second": second,
        "ids": ids,
        "x": x,
        "dz": gradient if x else "",
    }
    ints = {
        "count": low.type(parameter).size,
        "rows": low.type(ids).size if ids else rows_of(low.type(x)) if x else 0,
        "channels": low.type(parameter).shape[-1] if ids or x else 1,
        "product": int(bool(x)),
        "half": is_half(low.type(x)) if x else 0,
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


#: Where rules for ONNX find the step's numbers: learning rate, and the two that the optimizer works out.
ONNX_HYPER = "hyper"


def _update_to_onnx(write: Any, node: Node) -> None:
    """The kernels' arithmetic, line by line; from a gradient that is not finite on, all keeps the old values."""
    a = write.attributes(node)
    gradient, _, control, parameter, first, second = node.inputs[:6]
    learning_rate, one, two = write.shared[ONNX_HYPER]
    go, factor = write.shared[control]
    w, g, decay = write.ours(parameter), write.ours(gradient), float(a["decay"])
    m = write.ours(first) if first else ""
    v = write.ours(second) if second else ""
    g = write("Mul", g, factor) if factor else g
    nought = write("ReduceSum", write("Mul", g, 0.0), keepdims=0)  # NaN if a value is not finite
    good = write("Equal", nought, 0.0)
    write.shared[control] = (write("And", go, good) if go else good, factor)
    if a["clip"] < math.inf:
        g = write("Clip", g, -float(a["clip"]), float(a["clip"]))
    rate = learning_rate if a["rate"] == 1.0 else write("Mul", learning_rate, float(a["rate"]))

    def mix(old: str, new: str, share: float) -> str:
        return str(write("Add", write("Mul", old, share), write("Mul", new, 1.0 - share)))

    def decayed() -> str:
        return str(write("Sub", w, write("Mul", write("Mul", rate, decay), w))) if decay else w

    if node.op == "lion" or a["decoupled"]:
        w = decayed()
    elif decay:
        g = write("Add", g, write("Mul", w, decay))
    if node.op == "sgd":
        if first:
            m = write("Add", write("Mul", m, float(a["a"])), g)
            g = write("Add", g, write("Mul", m, float(a["a"]))) if a["nesterov"] else m
        w = write("Sub", w, write("Mul", rate, g))
    elif node.op == "adam":
        m, v = mix(m, g, float(a["a"])), mix(v, write("Mul", g, g), float(a["b"]))
        below = write("Add", write("Mul", write("Sqrt", v), two), float(a["epsilon"]))
        w = write("Sub", w, write("Div", write("Mul", write("Mul", rate, one), m), below))
    elif node.op == "rmsprop":
        v = mix(v, write("Mul", g, g), float(a["a"]))
        g = write("Div", g, write("Add", write("Sqrt", v), float(a["epsilon"])))
        if first:
            m = g = write("Add", write("Mul", m, float(a["b"])), g)
        w = write("Sub", w, write("Mul", rate, g))
    elif node.op == "adagrad":
        v = write("Add", v, write("Mul", g, g))
        below = write("Add", write("Sqrt", v), float(a["epsilon"]))
        w = write("Sub", w, write("Div", write("Mul", write("Mul", rate, one), g), below))
    else:
        w = write("Sub", w, write("Mul", rate, write("Sign", mix(m, g, float(a["a"])))))
        m = mix(m, g, float(a["b"]))
    for name, value in ((parameter, w), (first, m), (second, v)):
        if name:
            write.update(name, value, control)


def _update(name: str) -> Operator:
    inputs = ("gradient", "hyper", "control", "parameter", "first?", "second?", "ids?", "x?")
    return Operator(name, inputs, _written, _UPDATE, lower=_lower_update, cost=_update_cost, to_onnx=_update_to_onnx)


def _lower_average(low: Any, node: Node) -> None:
    parameter, control, average = node.inputs
    operands = {"parameter": parameter, "control": control, "average": average}
    ints = {"count": low.type(average).size}
    low.emit("average_parameters", operands, ints, {"decay": float(low.attributes(node)["decay"])})


def _average_to_onnx(write: Any, node: Node) -> None:
    parameter, control, average = node.inputs
    decay = float(write.attributes(node)["decay"])
    new = write("Mul", write.next[parameter], 1.0 - decay)
    write.update(average, write("Add", write("Mul", write.ours(average), decay), new), control)


#: average = decay * average + (1 - decay) * parameter
AVERAGE_PARAMETERS = Operator(
    "average_parameters",
    ("parameter", "control", "average"),
    lambda a, ins: [t for t in ins[2:] if t is not None],
    {"decay": 0.999},
    lower=_lower_average,
    to_onnx=_average_to_onnx,
    cost=_cost,
)


def _lower_accumulate(low: Any, node: Node) -> None:
    gradient, hyper, total = node.inputs
    operands = {"gradient": gradient, "hyper": hyper, "total": total}
    low.emit("accumulate_gradient", operands, {"count": low.type(total).size})


#: total += gradient * what its micro-batch counts
ACCUMULATE_GRADIENT = Operator(
    "accumulate_gradient",
    ("gradient", "hyper", "total"),
    lambda a, ins: [t for t in ins[2:] if t is not None],
    lower=_lower_accumulate,
    cost=_cost,
)

OPERATORS = (GUARD, ADD_SQUARE_SUM, *map(_update, UPDATES), AVERAGE_PARAMETERS, ACCUMULATE_GRADIENT)
