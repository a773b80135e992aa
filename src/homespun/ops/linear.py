"""`linear`: y = x W + b over the last axis; weights (inputs, outputs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator
from homespun.ops.coupling import weighted


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    if len(w.shape) != 2 or not x.shape or x.shape[-1] != w.shape[0]:
        raise ShapeError("expected x (..., K), weights (K, M)")
    bias = ins[2] if len(ins) > 2 else None
    if bias is not None and bias.shape != (w.shape[1],):
        raise ShapeError(f"bias has shape {list(bias.shape)}, expected [{w.shape[1]}]")
    return [TensorType((*x.shape[:-1], w.shape[1]), x.dtype)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[1] is not None
    return Cost(2 * ins[1].shape[0] * outs[0].size)


def _lower(low: Any, node: Node) -> None:
    x, y = low.type(node.inputs[0]), low.type(node.outputs[0])
    inner, columns = x.shape[-1], y.shape[-1]
    code, floats = low.activation(node)
    ints = {"rows": x.size // inner, "inner": inner, "columns": columns, "activation": code, "residual_after": 0}
    x_name, w, bias, residual = (*node.inputs, "", "")[:4]
    operands = {
        "input": x_name,
        "weights": low.packed("linear", ints, w),
        "bias": bias,
        "residual": residual,
        "output": node.outputs[0],
    }
    low.emit("linear", operands, ints, floats)


def linear_to_onnx(write: Any, node: Node) -> None:
    """Write a product with (K, M), one matrix or many."""
    x, weight, bias, residual = (*node.inputs, "", "")[:4]
    if len(write.type(x).shape) == 2:
        # As (M, K): of (K, M) with 8-bit weights, onnxruntime makes a product of its own that rounds activations too.
        given = [write.permuted(weight, (1, 0)), *([write.ours(bias)] if bias else [])]
        y = write("Gemm", write.ours(x), *given, transB=1)
    else:
        y = write("MatMul", write.ours(x), write.ours(weight))
        y = write("Add", y, write.ours(bias)) if bias else y
    y = write("Add", y, write.ours(residual)) if residual else y
    write.give(node.outputs[0], write.activated(node, y))


LINEAR = Operator(
    name="linear",
    inputs=("x", "weight", "bias?", "residual?"),
    attributes={"activation": "none", "alpha": 0.0, "beta": 0.0},
    shape=_shape,
    cost=_cost,
    lower=_lower,
    rows=("x", "residual"),
    onnx="Gemm",
    to_onnx=linear_to_onnx,
    channels=weighted,
)

OPERATORS = (LINEAR,)
