"""Cross entropy of logits, fused so that neither probabilities nor one-hot targets are ever stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
    a, t = low.attributes(node), low.type(node.inputs[0])
    ints = {"rows": t.size // t.shape[-1], "channels": t.shape[-1]}
    ints |= {"ignores": int(a["ignores"]), "ignored": a["ignored"]}
    return ints, {"smoothing": float(a["smoothing"])}


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
    dx = build.add("softmax_cross_entropy_gradient", [logits, target, dloss], logits, **node.attributes)
    return [dx, None]


def _wanted_in_onnx(write: Any, node: Node) -> Any:
    """The target as probabilities, smoothed: (..., C)."""
    logits, target = node.inputs[:2]
    smoothing, classes = float(write.attributes(node)["smoothing"]), write.type(logits).shape[-1]
    wanted = write.ours(target)
    if write.type(target).dtype == "int32":
        rows = write("Unsqueeze", wanted, np.asarray([-1], np.int64))
        wanted = write("Cast", write("Equal", rows, np.arange(classes, dtype=np.int32)), to=1)
    wanted = write("Add", write("Mul", wanted, 1.0 - smoothing), smoothing / classes) if smoothing else wanted
    counted = _counted(write, node)
    return write("Mul", wanted, write("Unsqueeze", counted, np.asarray([-1], np.int64))) if counted else wanted


def _counted(write: Any, node: Node) -> Any:
    """1 for each row that counts, 0 where its label is to be ignored; None where all count."""
    a, target = write.attributes(node), node.inputs[1]
    if not a["ignores"] or write.type(target).dtype != "int32":
        return None
    return write("Cast", write("Not", write("Equal", write.ours(target), np.asarray(a["ignored"], np.int32))), to=1)


def _rows(write: Any, node: Node) -> Any:
    t, counted = write.type(node.inputs[0]), _counted(write, node)
    return write("Max", write("ReduceSum", counted, keepdims=0), 1.0) if counted else float(t.size // t.shape[-1])


def _to_onnx(write: Any, node: Node) -> None:
    each = write("Mul", _wanted_in_onnx(write, node), write("LogSoftmax", write.ours(node.inputs[0]), axis=-1))
    total = write("Neg", write("ReduceSum", each, keepdims=0))
    write.give(node.outputs[0], write("Div", total, _rows(write, node)))


def _gradient_to_onnx(write: Any, node: Node) -> None:
    wanted = _wanted_in_onnx(write, node)
    weight = write("ReduceSum", wanted, np.asarray([-1], np.int64))
    softmax = write("Softmax", write.ours(node.inputs[0]), axis=-1)
    off = write("Sub", write("Mul", softmax, weight), wanted)
    scale = write("Div", write.ours(node.inputs[2]), _rows(write, node))
    write.give(node.outputs[0], write("Mul", off, scale))


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[0] is not None
    return Cost(5 * ins[0].size)


_ATTRIBUTES: dict[str, Any] = {"smoothing": 0.0, "ignores": False, "ignored": 0}
#: Mean over all rows of the cross entropy between target and softmax(logits); with `ignores`, over those whose label is
#: not `ignored`.
SOFTMAX_CROSS_ENTROPY = Operator(
    "softmax_cross_entropy",
    ("logits", "target"),
    _shape,
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("logits", "target"),
    to_onnx=_to_onnx,
)
SOFTMAX_CROSS_ENTROPY_GRADIENT = Operator(
    "softmax_cross_entropy_gradient",
    ("logits", "target", "dloss"),
    lambda a, ins: [t for t in ins[:1] if t is not None],
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower_gradient,
    in_place=(0,),
    to_onnx=_gradient_to_onnx,
)

OPERATORS = (SOFTMAX_CROSS_ENTROPY, SOFTMAX_CROSS_ENTROPY_GRADIENT)
