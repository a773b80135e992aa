"""Convolution: `conv2d` over channels-last images, grouped and depthwise included.

Weights are (kh, kw, input channels / groups, output channels), so that a 1x1 convolution is the matrix product that
it is. The compiler fuses bias, activation and a residual addition into the node; zoo and importers leave them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator
from homespun.ops.coupling import weighted


def padding_of(attributes: Attributes, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    """Padding as (top, left, bottom, right); TensorFlow's "same_upper" and "valid" are worked out for the size."""
    padding = attributes["padding"]
    if not isinstance(padding, str):
        top, left, bottom, right = padding
        return (top, left, bottom, right)
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding != "same_upper":
        raise ShapeError(f"padding is {padding!r}; it can be 'same_upper', 'valid' or (top, left, bottom, right)")
    before, after = [], []
    for n, k, s, d in zip(size, kernel, attributes["stride"], attributes["dilation"], strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        before.append(total // 2)
        after.append(total - total // 2)
    return (before[0], before[1], after[0], after[1])


def window(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    ceil: bool = False,
) -> tuple[int, int]:
    """Output height and width of a sliding window. Raises `ShapeError` if the window does not fit."""
    out = []
    for i in range(2):
        span = size[i] + padding[i] + padding[i + 2] - (kernel[i] - 1) * dilation[i] - 1
        if span < 0:
            raise ShapeError(f"a window of {kernel} (dilation {dilation}) is larger than the padded image {size}")
        n = (-(-span // stride[i]) if ceil else span // stride[i]) + 1
        if ceil and (n - 1) * stride[i] >= size[i] + padding[i]:
            n -= 1  # the last window would start in the padding at the end
        out.append(n)
    return out[0], out[1]


def conv2d_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    if len(x.shape) != 4 or len(w.shape) != 4:
        raise ShapeError("expected an image (N, H, W, C) and weights (kh, kw, C / groups, M)")
    kh, kw, per_group, m = w.shape
    groups = a["groups"]
    if x.shape[3] != per_group * groups or m % groups:
        raise ShapeError(f"{x.shape[3]} channels in {groups} groups do not fit weights {list(w.shape)}")
    pads = padding_of(a, (x.shape[1], x.shape[2]), (kh, kw))
    h, wd = window((x.shape[1], x.shape[2]), (kh, kw), a["stride"], a["dilation"], pads)
    out = TensorType((x.shape[0], h, wd, m), x.dtype)
    bias = ins[2] if len(ins) > 2 else None
    if bias is not None and bias.shape != (m,):
        raise ShapeError(f"bias has shape {list(bias.shape)}, expected [{m}]")
    residual = ins[3] if len(ins) > 3 else None
    if residual is not None and residual.shape != out.shape:
        raise ShapeError(f"residual has shape {list(residual.shape)}, expected {list(out.shape)}")
    return [out]


def conv2d_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    assert ins[1] is not None
    kh, kw, per_group, _ = ins[1].shape
    return Cost(2 * kh * kw * per_group * outs[0].size)


def window_geometry(a: Attributes, x: TensorType, y: TensorType, kernel: tuple[int, int]) -> dict[str, int]:
    """The integers that describe a sliding window over x, with results y, to a kernel."""
    top, left, _, _ = padding_of(a, (x.shape[1], x.shape[2]), kernel)
    return {
        "batch": x.shape[0],
        "height": x.shape[1],
        "width": x.shape[2],
        "channels": x.shape[3],
        "out_height": y.shape[1],
        "out_width": y.shape[2],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": a["stride"][0],
        "stride_w": a["stride"][1],
        "dilation_h": a["dilation"][0],
        "dilation_w": a["dilation"][1],
        "pad_top": top,
        "pad_left": left,
    }


def geometry(low: Any, node: Node) -> dict[str, int]:
    """The integers that describe a convolution to a kernel."""
    a = low.attributes(node)
    x, w, y = low.type(node.inputs[0]), low.type(node.inputs[1]), low.type(node.outputs[0])
    shape = window_geometry(a, x, y, (w.shape[0], w.shape[1]))
    return {**shape, "out_channels": y.shape[3], "groups": a["groups"]}


def conv2d_lower(low: Any, node: Node) -> None:
    code, floats = low.activation(node)
    ints = {**geometry(low, node), "activation": code, "residual_after": 0}
    depthwise = ints["groups"] == ints["channels"] == ints["out_channels"] > 1
    kernel = "depthwise" if depthwise else "conv2d"
    x, w, bias, residual = (*node.inputs, "", "")[:4]
    operands = {
        "input": x,
        "weights": low.packed(kernel, ints, w),
        "bias": bias,
        "residual": residual,
        "output": node.outputs[0],
    }
    low.emit(kernel, operands, ints, floats)


def onnx_window(a: Attributes) -> dict[str, Any]:
    """What ONNX says of a sliding window: strides, dilations, padding."""
    padding = a["padding"]
    rules = {"same_upper": {"auto_pad": "SAME_UPPER"}, "valid": {"auto_pad": "VALID"}}
    where = rules[padding] if isinstance(padding, str) else {"pads": list(padding)}
    return {"strides": list(a["stride"]), "dilations": list(a["dilation"]), **where}


def conv2d_to_onnx(write: Any, node: Node) -> None:
    """Write a convolution: (N, C, H, W) and (M, C / groups, kh, kw) there."""
    a = write.attributes(node)
    x, weight, bias, residual = (*node.inputs, "", "")[:4]
    operands = [write.first(x), write.permuted(weight, (3, 2, 0, 1)), *([write.ours(bias)] if bias else [])]
    y = write("Conv", *operands, group=a["groups"], **onnx_window(a))
    if residual:
        y = write("Add", y, write.first(residual))
    write.give(node.outputs[0], write.activated(node, y), True)


CONV2D = Operator(
    name="conv2d",
    inputs=("x", "weight", "bias?", "residual?"),
    attributes={
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": (0, 0, 0, 0),
        "groups": 1,
        "activation": "none",
        "alpha": 0.0,
        "beta": 0.0,
    },
    shape=conv2d_shape,
    cost=conv2d_cost,
    lower=conv2d_lower,
    onnx="Conv",
    to_onnx=conv2d_to_onnx,
    channels=weighted,
)

OPERATORS = (CONV2D,)
