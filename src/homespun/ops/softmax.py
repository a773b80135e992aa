"""`softmax` and `log_softmax` over the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[0] is not None
    return [ins[0]]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(5 * outs[0].size)


def _lower(low: Any, node: Node) -> None:
    y = low.type(node.outputs[0])
    ints = {"rows": y.size // y.shape[-1], "channels": y.shape[-1], "log": int(node.op == "log_softmax")}
    low.emit("softmax", {"input": node.inputs[0], "output": node.outputs[0]}, ints)


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    log = node.op == "log_softmax"
    return [build.add("softmax_gradient", [node.outputs[0], dy], node.inputs[0], log=log)]


def _to_onnx(write: Any, node: Node) -> None:
    (x,), first = write.together(node.inputs[0])
    op = "Softmax" if node.op == "softmax" else "LogSoftmax"
    write.give(node.outputs[0], write(op, x, axis=1 if first else -1), first)


OPERATORS = (
    Operator(
        "softmax",
        ("x",),
        _shape,
        cost=_cost,
        lower=_lower,
        gradient=_gradient,
        saves=("output",),
        in_place=(0,),
        onnx="Softmax",
        to_onnx=_to_onnx,
    ),
    Operator(
        "log_softmax",
        ("x",),
        _shape,
        cost=_cost,
        lower=_lower,
        gradient=_gradient,
        saves=("output",),
        in_place=(0,),
        onnx="LogSoftmax",
        to_onnx=_to_onnx,
    ),
)
