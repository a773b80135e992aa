"""`linear`: y = x W + b over the last axis, weights (inputs, outputs). Runs as a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator


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


def as_convolution(rows: int, k: int, m: int) -> dict[str, int]:
    """The integers of a 1x1 convolution that is the product (rows, k) x (k, m)."""
    return {
        "n": 1,
        "h": 1,
        "w": rows,
        "c": k,
        "oh": 1,
        "ow": rows,
        "m": m,
        "kh": 1,
        "kw": 1,
        "stride_h": 1,
        "stride_w": 1,
        "dilation_h": 1,
        "dilation_w": 1,
        "pad_top": 0,
        "pad_left": 0,
        "groups": 1,
    }


def _lower(low: Any, node: Node) -> None:
    x, y = low.type(node.inputs[0]), low.type(node.outputs[0])
    k, m = x.shape[-1], y.shape[-1]
    ints = as_convolution(x.size // k, k, m)
    code, floats = low.activation(node)
    x_name, w, bias, residual = (*node.inputs, "", "")[:4]
    operands = {
        "x": x_name,
        "w": low.packed("conv2d", ints, w),
        "bias": bias,
        "residual": residual,
        "y": node.outputs[0],
    }
    low.emit("conv2d", operands, {**ints, "activation": code}, floats)


LINEAR = Operator(
    name="linear",
    inputs=("x", "weight", "bias?", "residual?"),
    attributes={"activation": "none", "alpha": 0.0},
    shape=_shape,
    cost=_cost,
    lower=_lower,
    saves=("x",),
    onnx="Gemm",
)

OPERATORS = (LINEAR,)
