"""Cross entropy of logits, fused so that neither probabilities nor one-hot targets are ever stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    logits, target = ins[0], ins[1]
    assert logits is not None and target is not None
    labels = target.shape == logits.shape[:-1] and target.dtype == "int32"
    soft = target.shape == logits.shape and target.dtype == "float32"
    if not labels and not soft:
        raise ShapeError("expected targets as int32 labels (...) or float32 probabilities (..., C) for logits (..., C)")
    return [TensorType(())]


def _operands(low: Any, node: Node) -> dict[str, str]:
    logits, target = node.inputs[:2]
    labels = low.type(target).dtype == "int32"
    return {"logits": logits, "labels": target if labels else "", "soft": "" if labels else target}


def _call(low: Any, node: Node) -> tuple[dict[str, int], dict[str, float]]:
    t = low.type(node.inputs[0])
    ints = {"rows": t.size // t.shape[-1], "channels": t.shape[-1]}
    return ints, {"smoothing": float(low.attributes(node)["smoothing"])}


def _lower(low: Any, node: Node) -> None:
    low.emit("softmax_cross_entropy", {**_operands(low, node), "loss": node.outputs[0]}, *_call(low, node))


def _lower_gradient(low: Any, node: Node) -> None:
    operands = {**_operands(low, node), "dloss": node.inputs[2], "dlogits": node.outputs[0]}
    low.emit("softmax_cross_entropy_gradient", operands, *_call(low, node))


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    logits, target = node.inputs
    if build.wanted(target):
        raise ShapeError(f"node {node}: cross entropy has no gradient for its target")
    (dloss,) = grads
    assert dloss is not None
    smoothing = node.attributes.get("smoothing", 0.0)
    dx = build.add("softmax_cross_entropy_gradient", [logits, target, dloss], logits, smoothing=smoothing)
    return [dx, None]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(5 * ins[0].size)


#: Mean over all rows of the cross entropy between target and softmax(logits).
SOFTMAX_CROSS_ENTROPY = Operator(
    "softmax_cross_entropy",
    ("logits", "target"),
    _shape,
    {"smoothing": 0.0},
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("logits", "target"),
)
SOFTMAX_CROSS_ENTROPY_GRADIENT = Operator(
    "softmax_cross_entropy_gradient",
    ("logits", "target", "dloss"),
    lambda a, ins: [t for t in ins[:1] if t is not None],
    {"smoothing": 0.0},
    cost=_cost,
    lower=_lower_gradient,
    in_place=(0,),
)

OPERATORS = (SOFTMAX_CROSS_ENTROPY, SOFTMAX_CROSS_ENTROPY_GRADIENT)
