"""Convolution and linear layers in training: `train_conv2d`, `train_linear` and their backward operators.

They read weights as the optimizer keeps them, can normalise and activate their input while loading it, and can give
the sums that the batch norm after them needs; the backward operators likewise. Autodiff writes them plain; the pass
`fuse_training_blocks` fills in what can be fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ModelError, ShapeError
from homespun.graph.graph import Attribute, Node, TensorType
from homespun.graph.operator import Attributes, Cost, Gradients, Operator
from homespun.ops.convolution import CONV2D, conv2d_shape, conv2d_to_onnx, geometry, padding_of
from homespun.ops.linear import LINEAR, linear_to_onnx
from homespun.ops.storage import is_half
from homespun.ops.training_norm import rows_of

#: Of the normalisation on load, and of the slope that a data gradient is multiplied with before it is stored.
_INPUT: dict[str, Any] = {"input_activation": "none", "input_alpha": 0.0, "input_beta": 0.0}
_END: dict[str, Any] = {"end_activation": "none", "end_alpha": 0.0, "end_beta": 0.0}
_GEOMETRY = {k: CONV2D.attributes[k] for k in ("stride", "dilation", "padding", "groups")}
_FORWARD_INPUTS = ("x", "weight", "bias?", "coefficients?")
_BACKWARD_INPUTS = (
    "g",
    "z?",
    "gradient_coefficients?",
    "x",
    "coefficients?",
    "weight",
    "extra?",
    "end_z?",
    "end_coefficients?",
)
#: Positions among the inputs of the backward operators.
G, Z, GRADIENT_COEFFICIENTS, X, COEFFICIENTS, WEIGHT, EXTRA, END_Z, END_COEFFICIENTS = range(9)
TALLEST_WINDOW = 16  # of a depthwise kernel


def _conv_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    (z,) = conv2d_shape(a, ins[:3])
    return [z, TensorType((2, z.shape[-1]), "float64")]


def _linear_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    (z,) = LINEAR.shape(a, ins[:3])
    return [z, TensorType((2, z.shape[-1]), "float64")]


def _linear_geometry(x: TensorType, z: TensorType) -> dict[str, int]:
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "groups")
    rows = rows_of(x)
    return {
        **dict.fromkeys(names, 1),
        "batch": 1,
        "height": 1,
        "width": rows,
        "channels": x.shape[-1],
        "out_height": 1,
        "out_width": rows,
        "out_channels": z.shape[-1],
        "pad_top": 0,
        "pad_left": 0,
    }


def _geometry(low: Any, node: Node, x: str, w: str, z: str) -> tuple[str, dict[str, int]]:
    """(kernel stem, integers)."""
    if "linear" in node.op:
        return "train_conv", _linear_geometry(low.type(x), low.type(z))
    ints = geometry(low, Node(node.op, (x, w), (z,), node.attributes, node.name))
    if ints["groups"] == ints["channels"] == ints["out_channels"] > 1:
        if ints["kernel_h"] > TALLEST_WINDOW:
            raise ShapeError(f"node {node}: depthwise windows are at most {TALLEST_WINDOW} high in training")
        return "train_depthwise", {k: v for k, v in ints.items() if k not in ("groups", "out_channels")}
    return "train_conv", ints


def _on_load(low: Any, node: Node) -> tuple[int, dict[str, float]]:
    a = low.attributes(node)
    code = low.function(a["input_activation"])
    return code, {"alpha": float(a["input_alpha"]), "beta": float(a["input_beta"])}


def _lower_forward(low: Any, node: Node) -> None:
    x, w, bias, coefficients = (*node.inputs, "", "")[:4]
    z, sums = (*node.outputs, "")[:2]
    kernel, ints = _geometry(low, node, x, w, z)
    code, floats = _on_load(low, node)
    operands = {"x": x, "coefficients": coefficients, "weights": w, "bias": bias, "z": z, "sums": sums}
    low.emit(kernel, operands, {**ints, "activation": code, "half": is_half(low.type(x))}, floats)


def _lower_backward(low: Any, node: Node) -> None:
    a = low.attributes(node)
    x, w, g = (node.inputs[i] for i in (X, WEIGHT, G))
    kernel, ints = _geometry(low, node, x, w, g)
    gx, gx_sums, dw, db = node.outputs
    code, floats = _on_load(low, node)
    names = ("g", "z", "gradient_coefficients", "x", "coefficients", "weights", "extra", "end_z", "end_coefficients")
    operands = dict(zip(names, node.inputs, strict=True))
    if not dw:  # the input counts for the weights' gradient alone, and need not be kept for frozen ones
        operands |= {"x": "", "coefficients": ""}
    operands |= {"gx": gx, "gx_sums": gx_sums, "weight_gradient": dw, "bias_gradient": db}
    ints |= {
        "activation": code,
        "end_activation": low.function(a["end_activation"]),
        "half": is_half(low.type(g)),
        "wants_x": int(bool(gx)),
        "wants_weights": int(bool(dw)),
    }
    floats |= {"end_alpha": float(a["end_alpha"]), "end_beta": float(a["end_beta"])}
    low.emit(f"{kernel}_backward", operands, ints, floats)


def _backward_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    g, x, w = ins[G], ins[X], ins[WEIGHT]
    assert g is not None and x is not None and w is not None
    channels = x.shape[-1]
    weight = TensorType(w.shape)
    return [x, TensorType((2, channels), "float64"), weight, TensorType(g.shape[-1:])]


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    x, w, bias, _ = (*node.inputs, "", "")[:4]
    dz = grads[0]
    assert dz is not None
    backward = node.op.replace("train_", "") + "_backward"
    kept: dict[str, Attribute] = {k: v for k, v in node.attributes.items() if k in _GEOMETRY}
    stems = [x if build.wanted(x) else "", "", w if build.wanted(w) else ""]
    stems.append(bias if bias and build.wanted(bias) else "")
    dx, _, dw, db = build.add_many(backward, [dz, "", "", x, "", w, "", "", ""], stems, **kept)
    return [dx or None, dw or None, db or None, None]


def _forward_to_onnx(write: Any, node: Node) -> None:
    x, w, bias, coefficients = (*node.inputs, "", "")[:4]
    if coefficients or any(node.outputs[1:]):
        raise ModelError(f"node {node}: a fused layer of training can't be written as ONNX; plan it without fusing")
    kept = {k: v for k, v in node.attributes.items() if k in _GEOMETRY}
    plain = Node(node.op.removeprefix("train_"), (x, w, bias), node.outputs[:1], kept, node.name)
    (linear_to_onnx if plain.op == "linear" else conv2d_to_onnx)(write, plain)


def _conv_backward_to_onnx(write: Any, node: Node) -> None:
    """The data gradient is a transposed convolution; the weights' is a convolution of the input with the output's
    gradient as its filter, batch and channels having changed places, and strides and dilations too."""
    a = write.attributes(node)
    g, x, w = node.inputs[G], node.inputs[X], node.inputs[WEIGHT]
    dx, _, dw, db = (*node.outputs, "", "", "", "")[:4]
    groups, (kh, kw) = a["groups"], write.type(w).shape[:2]
    n, c, height, width = write.shape(x, True)
    _, _, out_height, out_width = write.shape(g, True)
    pads = list(padding_of(a, (height, width), (kh, kw)))
    stride, dilation = list(a["stride"]), list(a["dilation"])
    if dx:
        reach = [
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip((out_height, out_width), stride, (kh, kw), dilation, strict=True)
        ]
        full = write(
            "ConvTranspose",
            write.first(g),
            write.permuted(w, (3, 2, 0, 1)),
            strides=stride,
            dilations=dilation,
            group=groups,
        )
        write.give(dx, write.cut(full, reach, pads, (height, width)), True)
    if dw:
        images, filters = write.first(x), write.first(g)
        if groups > 1:
            images = write("Reshape", images, np.asarray([n, groups, c // groups, height, width], np.int64))
            images = write("Transpose", images, perm=[2, 1, 0, 3, 4])
            images = write("Reshape", images, np.asarray([c // groups, groups * n, height, width], np.int64))
        else:
            images = write("Transpose", images, perm=[1, 0, 2, 3])
        filters = write("Transpose", filters, perm=[1, 0, 2, 3])
        y = write("Conv", images, filters, strides=dilation, dilations=stride, pads=pads, group=groups)
        bounds = (np.asarray(v, np.int64) for v in ([0, 0], [kh, kw], [2, 3]))  # what a stride left over is no weight
        write.give(dw, write("Transpose", write("Slice", y, *bounds), perm=[2, 3, 0, 1]))
    if db:
        write.give(db, write("ReduceSum", write.first(g), np.asarray([0, 2, 3], np.int64), keepdims=0))


def _linear_backward_to_onnx(write: Any, node: Node) -> None:
    g, x, w = node.inputs[G], node.inputs[X], node.inputs[WEIGHT]
    dx, _, dw, db = (*node.outputs, "", "", "", "")[:4]
    if dx:
        write.give(dx, write("MatMul", write.ours(g), write.permuted(w, (1, 0))))
    inner, columns = write.type(w).shape
    rows = write("Reshape", write.ours(g), np.asarray([-1, columns], np.int64))
    if dw:
        samples = write("Reshape", write.ours(x), np.asarray([-1, inner], np.int64))
        write.give(dw, write("Gemm", samples, rows, transA=1))
    if db:
        write.give(db, write("ReduceSum", rows, np.asarray([0], np.int64), keepdims=0))


def _conv_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return CONV2D.cost(a, ins, outs)


def _linear_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return LINEAR.cost(a, ins, outs)


def _backward_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    g, w = ins[G], ins[WEIGHT]
    assert g is not None and w is not None
    return Cost(4 * (w.size // w.shape[-1]) * g.size)  # a product for the data gradient, one for the weights'


OPERATORS = (
    Operator(
        "train_conv2d",
        _FORWARD_INPUTS,
        _conv_shape,
        {**_GEOMETRY, **_INPUT},
        cost=_conv_cost,
        lower=_lower_forward,
        to_onnx=_forward_to_onnx,
        gradient=_gradient,
        saves=("x", "weight"),
    ),
    Operator(
        "train_linear",
        _FORWARD_INPUTS,
        _linear_shape,
        _INPUT,
        cost=_linear_cost,
        lower=_lower_forward,
        to_onnx=_forward_to_onnx,
        gradient=_gradient,
        saves=("x", "weight"),
    ),
    Operator(
        "conv2d_backward",
        _BACKWARD_INPUTS,
        _backward_shape,
        {**_GEOMETRY, **_INPUT, **_END},
        cost=_backward_cost,
        lower=_lower_backward,
        to_onnx=_conv_backward_to_onnx,
        in_place=(EXTRA,),
    ),
    Operator(
        "linear_backward",
        _BACKWARD_INPUTS,
        _backward_shape,
        {**_INPUT, **_END},
        cost=_backward_cost,
        lower=_lower_backward,
        to_onnx=_linear_backward_to_onnx,
        in_place=(EXTRA,),
    ),
)
