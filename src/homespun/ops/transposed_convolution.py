"""`conv2d_transpose`: the convolution that makes images larger, which is another's data gradient.

Everything is said of that other convolution, which goes from the result back to the input: its weights (kh, kw, output
channels / groups, input channels), stride, padding. So its gradients are that convolution, and its weights' gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.convolution import geometry, window
from homespun.ops.training_convolution import TALLEST_WINDOW

_GEOMETRY = ("stride", "dilation", "padding", "groups")


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    if len(x.shape) != 4 or len(w.shape) != 4 or len(a["padding"]) != 4 or isinstance(a["padding"], str):
        raise ShapeError("expected an image (N, H, W, C), weights (kh, kw, M / groups, C), and four numbers of padding")
    kh, kw, per_group, channels = w.shape
    groups = a["groups"]
    if x.shape[3] != channels or groups < 1 or channels % groups:
        raise ShapeError(f"{x.shape[3]} channels in {groups} groups do not fit weights {list(w.shape)}")
    if window(a["size"], (kh, kw), a["stride"], a["dilation"], a["padding"]) != x.shape[1:3]:
        raise ShapeError(f"size {list(a['size'])} does not follow from {list(x.shape)}, stride and padding")
    if groups == channels == per_group * groups > 1 and kh > TALLEST_WINDOW:
        raise ShapeError(f"depthwise windows are at most {TALLEST_WINDOW} high here")
    return [TensorType((x.shape[0], *a["size"], per_group * groups), x.dtype)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    return Cost(2 * w.size // w.shape[3] * x.size)


def _lower(low: Any, node: Node) -> None:
    x, w = node.inputs
    y = node.outputs[0]
    ints = geometry(low, Node(node.op, (y, w), (x,), node.attributes, node.name))
    kernel = "train_conv_backward"
    if ints["groups"] == ints["channels"] == ints["out_channels"] > 1:
        kernel = "train_depthwise_backward"
        ints = {k: v for k, v in ints.items() if k not in ("groups", "out_channels")}
    ints |= {"activation": 0, "end_activation": 0, "half": 0, "wants_x": 1, "wants_weights": 0}
    absent = ("z", "gradient_coefficients", "x", "coefficients", "extra", "end_z", "end_coefficients")
    operands = dict.fromkeys((*absent, "gx_sums", "weight_gradient", "bias_gradient"), "")
    floats = dict.fromkeys(("alpha", "beta", "end_alpha", "end_beta"), 0.0)
    low.emit(kernel, {**operands, "g": x, "weights": w, "gx": y}, ints, floats)


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    x, w = node.inputs
    kept = {k: v for k, v in node.attributes.items() if k in _GEOMETRY}
    dx = dw = None
    if build.wanted(x):
        dx = build.add_many("train_conv2d", [dy, w, "", ""], [x, ""], **kept)[0]
    if build.wanted(w):
        dw = build.add_many("conv2d_backward", [x, "", "", dy, "", w, "", "", ""], ["", "", w, ""], **kept)[2]
    return [dx, dw]


def _to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    x, w = node.inputs
    kh, kw = write.type(w).shape[:2]
    top, left, bottom, right = a["padding"]
    sides = zip(write.type(x).shape[1:3], a["stride"], (kh, kw), a["dilation"], strict=True)
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in sides]
    more = [size - r + p for size, r, p in zip(a["size"], reach, (top + bottom, left + right), strict=True)]
    y = write(
        "ConvTranspose",
        write.first(x),
        write.permuted(w, (3, 2, 0, 1)),
        strides=list(a["stride"]),
        dilations=list(a["dilation"]),
        pads=[top, left, bottom, right],
        output_padding=more,
        group=a["groups"],
    )
    write.give(node.outputs[0], y, True)


#: `size` is (height, width) of the result: with a stride, several become the same input.
#: Source: Dumoulin and Visin 2016, "A guide to convolution arithmetic", section 4.
CONV2D_TRANSPOSE = Operator(
    "conv2d_transpose",
    ("x", "weight"),
    _shape,
    {"size": REQUIRED, "stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1},
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("x", "weight"),
    onnx="ConvTranspose",
    to_onnx=_to_onnx,
)

OPERATORS = (CONV2D_TRANSPOSE,)
