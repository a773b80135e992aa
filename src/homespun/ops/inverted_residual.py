"""`inverted_residual`: [1x1 expansion] -> depthwise -> 1x1 projection (+ residual) as one node, for inference only.

The pass `fuse_inverted_residual` makes it out of three convolutions; its kernel keeps the hidden rows in the cache.
Where that does not pay, it is lowered to the three convolutions again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Cost, Operator
from homespun.ops.convolution import padding_of, window


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, expand, filters, project, residual = (*ins[:2], ins[3], ins[5], ins[7])
    assert x is not None and filters is not None and project is not None
    kh, kw, _, hidden = filters.shape
    wide = x.shape[3] if expand is None else expand.shape[3]
    if wide != hidden or project.shape[:3] != (1, 1, hidden):
        raise ShapeError(f"{wide} hidden channels do not fit {list(filters.shape)} and {list(project.shape)}")
    pads = padding_of(a, (x.shape[1], x.shape[2]), (kh, kw))
    h, w = window((x.shape[1], x.shape[2]), (kh, kw), a["stride"], (1, 1), pads)
    out = TensorType((x.shape[0], h, w, project.shape[3]), x.dtype)
    if residual is not None and residual.shape != out.shape:
        raise ShapeError(f"residual has shape {list(residual.shape)}, expected {list(out.shape)}")
    return [out]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    x, expand, filters, project = ins[0], ins[1], ins[3], ins[5]
    assert x is not None and filters is not None and project is not None
    pixels, positions = x.size // x.shape[3], outs[0].size // outs[0].shape[3]
    expansion = 0 if expand is None else 2 * pixels * expand.size
    return Cost(expansion + 2 * positions * (filters.size + project.size))


#: Hidden maps (bytes a sample) from which the fused kernel pays even where threads share an image, and so compute the
#: rows at their border twice; a map of 28 x 28 x 144 float32 is about this large. Measured by benchmarks/kernels.py.
SHARED_IMAGE_BYTES = 400_000


def _lower(low: Any, node: Node) -> None:
    a = low.attributes(node)
    x, expand, expand_bias, filters, filter_bias, project, project_bias, residual = (*node.inputs, *[""] * 8)[:8]
    (batch, height, width, channels), out = low.type(x).shape, low.type(node.outputs[0])
    kh, kw, _, hidden = low.type(filters).shape
    top, left, _, _ = padding_of(a, (height, width), (kh, kw))
    _, out_height, out_width, out_channels = out.shape
    small, full = (out_height, out_width), (height, width)
    pads, point = (top, left), (1, 1)
    expansion = _convolution(batch, full, full, channels, hidden, point, point, (0, 0), 1)
    middle = _convolution(batch, full, small, hidden, hidden, (kh, kw), a["stride"], pads, hidden)
    projection = _convolution(batch, small, small, hidden, out_channels, point, point, (0, 0), 1)
    expand_weights = low.packed("conv2d", expansion, expand) if expand else ""
    filter_weights = low.packed("depthwise", middle, filters)
    project_weights = low.packed("conv2d", projection, project)
    codes = {prefix: low.function(a[f"{prefix}activation"]) for prefix in ("expand_", "depthwise_", "")}
    floats = {f"{prefix}{n}": float(a[f"{prefix}{n}"]) for prefix in codes for n in ("alpha", "beta")}

    if batch % low.threads == 0 or 4 * height * width * hidden >= SHARED_IMAGE_BYTES:
        ints = {k: v for k, v in middle.items() if k not in ("groups", "dilation_h", "dilation_w")}
        ints |= {"channels": channels, "hidden": hidden, "out_channels": out_channels, "expands": int(bool(expand))}
        ints |= {f"{prefix}activation": code for prefix, code in codes.items()}
        weights = {
            "expand_weights": expand_weights,
            "expand_bias": expand_bias,
            "depthwise_weights": filter_weights,
            "depthwise_bias": filter_bias,
            "project_weights": project_weights,
            "project_bias": project_bias,
        }
        operands = {"input": x, **weights, "residual": residual, "output": node.outputs[0]}
        low.emit("inverted_residual", operands, ints, floats)
        return

    def convolve(kernel: str, prefix: str, ints: dict[str, int], source: str, target: str, *rest: str) -> None:
        operands = {"input": source, "output": target, **dict(zip(("weights", "bias", "residual"), rest, strict=False))}
        epilogue = {n: floats[prefix + n] for n in ("alpha", "beta")}
        low.emit(kernel, operands, {**ints, "activation": codes[prefix]}, epilogue)

    wide, filtered = f"{node.outputs[0]}/expanded", f"{node.outputs[0]}/filtered"
    low.types[filtered] = TensorType((batch, *small, hidden), out.dtype)
    if expand:
        low.types[wide] = TensorType((batch, *full, hidden), out.dtype)
        convolve("conv2d", "expand_", expansion, x, wide, expand_weights, expand_bias)
    convolve("depthwise", "depthwise_", middle, wide if expand else x, filtered, filter_weights, filter_bias)
    convolve("conv2d", "", projection, filtered, node.outputs[0], project_weights, project_bias, residual)


def _convolution(
    batch: int,
    size: tuple[int, int],
    out: tuple[int, int],
    channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int],
    groups: int,
) -> dict[str, int]:
    """The integers of one of the three convolutions, without an activation."""
    pairs = {"kernel": kernel, "stride": stride, "dilation": (1, 1)}
    return {
        **{"batch": batch, "height": size[0], "width": size[1], "channels": channels},
        **{"out_height": out[0], "out_width": out[1], "out_channels": out_channels},
        **{f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("hw")},
        **{"pad_top": pads[0], "pad_left": pads[1], "groups": groups, "activation": 0, "residual_after": 0},
    }


_EPILOGUES = {
    f"{prefix}{name}": default
    for prefix in ("expand_", "depthwise_", "")
    for name, default in (("activation", "none"), ("alpha", 0.0), ("beta", 0.0))
}

INVERTED_RESIDUAL = Operator(
    name="inverted_residual",
    inputs=(
        *("x", "expand_weight?", "expand_bias?", "depthwise_weight", "depthwise_bias?"),
        *("project_weight", "project_bias?", "residual?"),
    ),
    shape=_shape,
    attributes={"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), **_EPILOGUES},
    lower=_lower,
    no_gradient="it is made for inference only; the convolutions that it fuses have gradients",
    cost=_cost,
)

OPERATORS = (INVERTED_RESIDUAL,)
