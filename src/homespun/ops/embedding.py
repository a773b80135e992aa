"""`embedding`: rows of a table by number. Numbers outside the table give NaN; models check those they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.shape import free


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    ids, weight = ins
    assert ids is not None and weight is not None
    if ids.dtype != "int32" or len(weight.shape) != 2:
        raise ShapeError("expected ids (...) int32, weight (vocabulary, channels)")
    return [TensorType((*ids.shape, weight.shape[1]), weight.dtype)]


def _ints(ids: TensorType, vocabulary: int, channels: int) -> dict[str, int]:
    return {"rows": ids.size, "channels": channels, "vocabulary": vocabulary}


def _lower(low: Any, node: Node) -> None:
    ids, weight = node.inputs
    operands = {"ids": ids, "weight": weight, "y": node.outputs[0]}
    low.emit("embedding", operands, _ints(low.type(ids), *low.type(weight).shape))


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    ids, weight = node.inputs
    return [None, build.add("embedding_gradient", [ids, dy], weight, vocabulary=build.type(weight).shape[0])]


def _to_onnx(write: Any, node: Node) -> None:
    ids, weight = node.inputs
    write.give(node.outputs[0], write("Gather", write.ours(weight), write.ours(ids)))


def _gradient_to_onnx(write: Any, node: Node) -> None:
    ids, dy = (write.ours(n) for n in node.inputs)
    places = write("Unsqueeze", write("Cast", ids, to=7), np.asarray([-1], np.int64))
    table = write.filled(write.type(node.outputs[0]).shape, 0.0)
    write.give(node.outputs[0], write("ScatterND", table, places, dy, reduction="add"))


#: y = weight[ids]
EMBEDDING = Operator(
    "embedding",
    ("ids", "weight"),
    _shape,
    cost=free,
    lower=_lower,
    gradient=_gradient,
    saves=("ids",),
    onnx="Gather",
    to_onnx=_to_onnx,
)


def _gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    dy = ins[1]
    assert dy is not None
    return [TensorType((a["vocabulary"], dy.shape[-1]))]


def _lower_gradient(low: Any, node: Node) -> None:
    ids, dy = node.inputs
    operands = {"ids": ids, "dy": dy, "weight_gradient": node.outputs[0]}
    low.emit("embedding_gradient", operands, _ints(low.type(ids), *low.type(node.outputs[0]).shape))


#: The rows of dy, added up at their places in the table.
EMBEDDING_GRADIENT = Operator(
    "embedding_gradient",
    ("ids", "dy"),
    _gradient_shape,
    {"vocabulary": REQUIRED},
    cost=lambda a, ins, outs: Cost(outs[0].size),
    lower=_lower_gradient,
    to_onnx=_gradient_to_onnx,
)

OPERATORS = (EMBEDDING, EMBEDDING_GRADIENT)
