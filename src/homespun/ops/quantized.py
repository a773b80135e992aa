"""8-bit layers: what the compiler puts in place of `conv2d`, `linear` and pooling for a predictor with 8-bit weights.

Weights are int8 codes with a scale for each output channel. An input or output is float32, or uint8 codes of a range
that is known beforehand: values = codes * step, and the steps of both sides are multiplied into `scale` and `bias`.
Float32 inputs are quantised by the kernel, each row (the pixels under one window) on its own range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Operator, ShapeRule
from homespun.ops.convolution import CONV2D, geometry
from homespun.ops.linear import LINEAR

CODED = "uint8"
#: What says how a layer's values are stored. `non_negative` float32 inputs get all 8 bits for the one side of zero.
_STORAGE: dict[str, Any] = {"output": "float32", "non_negative": False}
_NO_GRADIENT = "8-bit layers are for inference; train the float32 model and compile it again"
_WINDOWS, _STRIDES = (3, 5), (1, 2)


def _layer_shape(plain: ShapeRule, a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, w, scale, bias, residual = (*ins, None)[:5]
    assert x is not None and w is not None and scale is not None and bias is not None
    if x.dtype not in ("float32", CODED) or w.dtype != "int8" or a["output"] not in ("float32", CODED):
        raise ShapeError("expected float32 or uint8 inputs and outputs, and int8 weights")
    if a["output"] == CODED and (residual is not None or a["activation"] != "none"):
        raise ShapeError("codes are limited to 0...255, which is the activation; they take no other, and no residual")
    y = plain(a, [replace(x, dtype="float32"), replace(w, dtype="float32"), bias, residual])[0]
    if scale.shape != y.shape[-1:]:
        raise ShapeError(f"scale has shape {list(scale.shape)}, expected [{y.shape[-1]}]")
    return [replace(y, dtype=a["output"])]


def has_depthwise_kernel(window: tuple[int, ...], a: Attributes) -> bool:
    """Whether the 8-bit depthwise kernel knows this window: 3x3 or 5x5, stride 1 or 2, no dilation."""
    square = window[0] == window[1] and a["stride"][0] == a["stride"][1] and a["dilation"] == (1, 1)
    return square and window[0] in _WINDOWS and a["stride"][0] in _STRIDES


def _emit(low: Any, node: Node, ints: dict[str, int]) -> None:
    a = low.attributes(node)
    x, w, scale, bias, residual = (*node.inputs, "")[:5]
    code, floats = low.activation(node)
    ints = {
        **ints,
        "activation": code,
        "residual_after": 0,
        "input_codes": int(low.type(x).dtype == CODED),
        "input_non_negative": int(a["non_negative"]),
        "output_codes": int(a["output"] == CODED),
    }
    operands = {
        "input": x,
        "weights": low.packed("int8_conv2d", ints, w, scale, bias),
        "residual": residual,
        "output": node.outputs[0],
    }
    low.emit("int8_conv2d", operands, ints, floats)


def _conv2d_lower(low: Any, node: Node) -> None:
    ints = geometry(low, node)
    if ints["groups"] == ints["channels"] == ints["out_channels"] > 1 and low.type(node.inputs[0]).dtype == CODED:
        _depthwise(low, node, ints)
    else:
        _emit(low, node, ints)


def _depthwise(low: Any, node: Node, ints: dict[str, int]) -> None:
    x, w, scale, bias = node.inputs[:4]
    a = low.attributes(node)
    if a["output"] != CODED or not has_depthwise_kernel((ints["kernel_h"], ints["kernel_w"]), a):
        raise ShapeError(f"node {node}: the 8-bit depthwise kernel writes codes, windows 3x3 and 5x5, stride 1 and 2")
    same = ("batch", "height", "width", "channels", "out_height", "out_width", "pad_top", "pad_left")
    ints = {name: ints[name] for name in same} | {"kernel": ints["kernel_h"], "stride": ints["stride_h"]}
    weights = low.packed("int8_depthwise", ints, w, scale, bias)
    low.emit("int8_depthwise", {"input": x, "weights": weights, "output": node.outputs[0]}, ints)


def _linear_lower(low: Any, node: Node) -> None:
    x, y = low.type(node.inputs[0]), low.type(node.outputs[0])
    channels, rows = x.shape[-1], x.size // x.shape[-1]
    ints = dict.fromkeys(("batch", "height", "out_height", "groups"), 1)
    ints |= dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    ints |= {"width": rows, "out_width": rows, "channels": channels, "out_channels": y.shape[-1]}
    _emit(low, node, {**ints, "pad_top": 0, "pad_left": 0})


QUANTIZED_CONV2D = Operator(
    name="quantized_conv2d",
    inputs=("x", "weight", "scale", "bias", "residual?"),
    attributes={**CONV2D.attributes, **_STORAGE},
    shape=lambda a, ins: _layer_shape(CONV2D.shape, a, ins),
    cost=CONV2D.cost,
    lower=_conv2d_lower,
    no_gradient=_NO_GRADIENT,
)
QUANTIZED_LINEAR = Operator(
    name="quantized_linear",
    inputs=("x", "weight", "scale", "bias", "residual?"),
    attributes={**LINEAR.attributes, **_STORAGE},
    shape=lambda a, ins: _layer_shape(LINEAR.shape, a, ins),
    cost=LINEAR.cost,
    lower=_linear_lower,
    no_gradient=_NO_GRADIENT,
)


def _pool_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, scale = ins
    assert x is not None and scale is not None
    if len(x.shape) != 4 or x.dtype != CODED or scale.shape != x.shape[3:]:
        raise ShapeError("expected an image (N, H, W, C) of uint8 codes and a scale for each channel")
    return [TensorType((x.shape[0], 1, 1, x.shape[3]))]


def _pool_lower(low: Any, node: Node) -> None:
    n, h, w, c = low.type(node.inputs[0]).shape
    operands = {"input": node.inputs[0], "scale": node.inputs[1], "output": node.outputs[0]}
    low.emit("int8_global_average_pool", operands, {"batch": n, "pixels": h * w, "channels": c})


QUANTIZED_GLOBAL_AVERAGE_POOL = Operator(
    name="quantized_global_average_pool",
    inputs=("x", "scale"),
    shape=_pool_shape,
    lower=_pool_lower,
    no_gradient=_NO_GRADIENT,
)

OPERATORS = (QUANTIZED_CONV2D, QUANTIZED_LINEAR, QUANTIZED_GLOBAL_AVERAGE_POOL)
