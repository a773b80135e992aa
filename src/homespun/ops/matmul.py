"""`matmul`: products of matrices, one for each entry of the axes before the last two; either may be transposed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator


def _sides(a: Attributes, x: TensorType, y: TensorType) -> tuple[int, int, int]:
    """(rows, inner, columns) of one product."""
    rows, inner = x.shape[-2:][::-1] if a["transpose_a"] else x.shape[-2:]
    other, columns = y.shape[-2:][::-1] if a["transpose_b"] else y.shape[-2:]
    if inner != other:
        raise ShapeError(f"inner dimensions differ: {inner} and {other}")
    return rows, inner, columns


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, y = ins
    assert x is not None and y is not None
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise ShapeError("expected two tensors of at least two axes")
    rows, _, columns = _sides(a, x, y)
    if y.shape[:-2] != x.shape[:-2] and (len(y.shape) > 2 or a["transpose_a"]):
        raise ShapeError("axes before the last two must agree, or b be one matrix and a not transposed")
    return [TensorType((*x.shape[:-2], rows, columns), x.dtype)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    x, y = ins
    assert x is not None and y is not None
    return Cost(2 * _sides(a, x, y)[1] * outs[0].size)


def _lower(low: Any, node: Node) -> None:
    a, (x, y) = low.attributes(node), (low.type(n) for n in node.inputs)
    rows, inner, columns = _sides(a, x, y)
    batch = math.prod(x.shape[:-2])
    if len(y.shape) == 2:  # one matrix for all: the rows of all products together
        batch, rows = 1, batch * rows
    ints = {"batch": batch, "rows": rows, "inner": inner, "columns": columns}
    ints |= {k: int(a[k]) for k in ("transpose_a", "transpose_b")}
    low.emit("matmul", {"a": node.inputs[0], "b": node.inputs[1], "y": node.outputs[0]}, ints)


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    a, b = node.inputs
    ta, tb = (bool(node.attributes.get(k, False)) for k in ("transpose_a", "transpose_b"))

    def product(x: str, y: str, transpose_x: bool, transpose_y: bool, like: str) -> str:
        return build.add("matmul", [x, y], like, transpose_a=transpose_x, transpose_b=transpose_y)

    da = db = None
    if build.wanted(a):
        da = product(b, dy, tb, True, a) if ta else product(dy, b, False, not tb, a)
    if build.wanted(b):
        x, g = a, dy
        if len(build.type(b).shape) == 2 and len(build.type(a).shape) > 2:
            x, g = (build.add("reshape", [n], n, shape=(-1, build.type(n).shape[-1])) for n in (a, dy))
        db = product(g, x, True, ta, b) if tb else product(x, g, not ta, False, b)
    return [da, db]


def _to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    sides = []
    for name, flag in zip(node.inputs, ("transpose_a", "transpose_b"), strict=True):
        rank = len(write.type(name).shape)
        side = write.ours(name)
        sides.append(write("Transpose", side, perm=[*range(rank - 2), rank - 1, rank - 2]) if a[flag] else side)
    write.give(node.outputs[0], write("MatMul", *sides))


#: y = a b over the last two axes; b may be one matrix (K, M) for all.
MATMUL = Operator(
    "matmul",
    ("a", "b"),
    _shape,
    {"transpose_a": False, "transpose_b": False},
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("a", "b"),
    onnx="MatMul",
    to_onnx=_to_onnx,
)

OPERATORS = (MATMUL,)
