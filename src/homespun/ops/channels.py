"""What networks do between channels beside convolving them, and nearest upsampling: `channel_shuffle`,
`local_response_norm`, `upsample`, and the gradient of a gate (squeeze-excite), which is an ordinary `mul` forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import ITEM_SIZE, Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Channels, Cost, Gradients, Operator
from homespun.ops.coupling import each_channel
from homespun.ops.shape import free
from homespun.ops.storage import is_half


def _first(ins: Sequence[TensorType | None]) -> TensorType:
    assert ins[0] is not None
    return ins[0]


def _shuffle_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = _first(ins)
    if a["groups"] < 1 or not x.shape or x.shape[-1] % a["groups"]:
        raise ShapeError(f"{list(x.shape)[-1:]} channels can't be split into {a['groups']} groups")
    return [x]


def _lower_shuffle(low: Any, node: Node) -> None:
    x, groups = low.type(node.inputs[0]), low.attributes(node)["groups"]
    ints = {"rows": x.size // x.shape[-1], "groups": groups, "per_group": x.shape[-1] // groups}
    ints["element_bytes"] = ITEM_SIZE[x.dtype]
    low.emit("channel_shuffle", {"x": node.inputs[0], "y": node.outputs[0]}, ints)


def _shuffle_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    groups = node.attributes["groups"]
    assert isinstance(groups, int)
    return [build.add("channel_shuffle", [dy], node.inputs[0], groups=build.type(dy).shape[-1] // groups)]


def _shuffle_to_onnx(write: Any, node: Node) -> None:
    shape, groups = write.type(node.inputs[0]).shape, write.attributes(node)["groups"]
    per_group = shape[-1] // groups
    if len(shape) == 4:
        y = write("Reshape", write.first(node.inputs[0]), np.asarray([0, groups, per_group, -1], np.int64))
        y = write("Transpose", y, perm=[0, 2, 1, 3])
        y = write("Reshape", y, np.asarray([0, shape[3], shape[1], shape[2]], np.int64))
        write.give(node.outputs[0], y, True)
        return
    y = write("Reshape", write.ours(node.inputs[0]), np.asarray([-1, groups, per_group], np.int64))
    y = write("Reshape", write("Transpose", y, perm=[0, 2, 1]), np.asarray([-1, *shape[1:]], np.int64))
    write.give(node.outputs[0], y)


def _shuffle_channels(channels: Channels, node: Node) -> None:
    """The same places of all groups go together, or what remains would be shuffled otherwise."""
    groups = node.attributes["groups"]
    assert isinstance(groups, int)
    matrix = channels.of(node.inputs[0]).reshape(groups, -1)
    channels.couple(*matrix)
    channels.give(node.outputs[0], matrix.T.reshape(-1))


#: Channels as a matrix (groups, channels / groups), transposed, so that the next grouped layer sees all groups.
#: Source: Zhang et al. 2018, "ShuffleNet", section 3.1.
CHANNEL_SHUFFLE = Operator(
    "channel_shuffle",
    ("x",),
    _shuffle_shape,
    {"groups": REQUIRED},
    cost=free,
    lower=_lower_shuffle,
    gradient=_shuffle_gradient,
    to_onnx=_shuffle_to_onnx,
    channels=_shuffle_channels,
)


def is_gate(x: TensorType, gate: TensorType) -> bool:
    """Whether `gate` has one number for each channel of each image of `x`: (N, 1, ..., 1, C) for (N, ..., C)."""
    rank = len(x.shape)
    return (
        rank == len(gate.shape) >= 3
        and gate.shape != x.shape
        and gate.shape == (x.shape[0], *(1,) * (rank - 2), x.shape[-1])
    )


def _lower_gate_gradient(low: Any, node: Node) -> None:
    t = low.type(node.inputs[2])
    rows = t.size // (t.shape[0] * t.shape[-1])
    ints = {"batch": t.shape[0], "rows": rows, "channels": t.shape[-1], "half": is_half(t)}
    operands = dict(zip(("x", "gate", "dy", "dx", "dgate"), (*node.inputs, *node.outputs), strict=True))
    low.emit("gate_gradient", operands, ints)


def _gate_gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, gate = ins[0], ins[1]
    assert x is not None and gate is not None
    return [x, gate]


def _gate_gradient_to_onnx(write: Any, node: Node) -> None:
    (x, gate, dy), first = write.together(*node.inputs)
    dx, dgate = node.outputs
    if dx:
        write.give(dx, write("Mul", dy, gate), first)
    if dgate:
        rank = len(write.type(node.inputs[0]).shape)
        pixels = np.asarray(range(2, rank) if first else range(1, rank - 1), np.int64)
        write.give(dgate, write("ReduceSum", write("Mul", dy, x), pixels, keepdims=1), first)


#: Gradients of x * gate in one pass over x and dy.
GATE_GRADIENT = Operator(
    "gate_gradient",
    ("x", "gate", "dy"),
    _gate_gradient_shape,
    lower=_lower_gate_gradient,
    to_onnx=_gate_gradient_to_onnx,
    in_place=(2, 0),
)

_RESPONSE: dict[str, Any] = {"size": REQUIRED, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}


def _response_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = _first(ins)
    if len(x.shape) != 4 or a["size"] < 1 or a["size"] % 2 == 0:
        raise ShapeError(f"expected an image (N, H, W, C) and an odd size, not {list(x.shape)} and {a['size']}")
    return [x]


def _lower_response(low: Any, node: Node) -> None:
    a, t = low.attributes(node), low.type(node.inputs[0])
    ints = {"rows": t.size // t.shape[-1], "channels": t.shape[-1], "size": a["size"], "half": is_half(t)}
    operands = {"x": node.inputs[0], "dy": (*node.inputs, "")[1], "y": node.outputs[0]}
    low.emit("local_response_norm", operands, ints, {k: float(a[k]) for k in ("alpha", "beta", "bias")})


def _response_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    x = node.inputs[0]
    return [build.add("local_response_norm_gradient", [x, dy], x, **node.attributes)]


def _response_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost((a["size"] + 5) * outs[0].size)


def _response_to_onnx(write: Any, node: Node) -> None:
    write.give(node.outputs[0], write("LRN", write.first(node.inputs[0]), **write.attributes(node)), True)


#: y = x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta.
#: Source: Krizhevsky et al. 2012, section 3.3, with alpha divided by the size as Caffe and ONNX have it.
LOCAL_RESPONSE_NORM = Operator(
    "local_response_norm",
    ("x",),
    _response_shape,
    _RESPONSE,
    cost=_response_cost,
    lower=_lower_response,
    gradient=_response_gradient,
    saves=("x",),
    in_place=(0,),
    onnx="LRN",
    to_onnx=_response_to_onnx,
)


def _response_gradient_to_onnx(write: Any, node: Node) -> None:
    """Means over neighbouring channels are those of a pooling window over (N, 1, C, H W)."""
    a = write.attributes(node)
    n, c, h, w = write.shape(node.inputs[0], True)
    x, dy = write.first(node.inputs[0]), write.first(node.inputs[1])
    rows, image = (np.asarray(shape, np.int64) for shape in ((n, 1, c, h * w), (n, c, h, w)))
    side = a["size"] // 2
    spans = {"kernel_shape": [a["size"], 1], "pads": [side, 0, side, 0], "count_include_pad": 1}

    def mean(values: str) -> Any:
        return write("Reshape", write("AveragePool", write("Reshape", values, rows), **spans), image)

    s = write("Add", write("Mul", mean(write("Mul", x, x)), float(a["alpha"])), float(a["bias"]))
    g = write("Mul", dy, write("Pow", s, -float(a["beta"])))
    of_others = mean(write("Div", write("Mul", g, x), s))
    through = write("Mul", write("Mul", x, of_others), 2.0 * a["alpha"] * a["beta"])
    write.give(node.outputs[0], write("Sub", g, through), True)


LOCAL_RESPONSE_NORM_GRADIENT = Operator(
    "local_response_norm_gradient",
    ("x", "dy"),
    _response_shape,
    _RESPONSE,
    cost=_response_cost,
    lower=_lower_response,
    to_onnx=_response_gradient_to_onnx,
)


def _upsample_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = _first(ins)
    high, wide = a["factor"]
    if len(x.shape) != 4 or high < 1 or wide < 1:
        raise ShapeError(f"expected an image (N, H, W, C) and whole factors, not {list(x.shape)} and {a['factor']}")
    n, h, w, c = x.shape
    return [TensorType((n, h * high, w * wide, c), x.dtype)]


def _upsample_ints(low: Any, node: Node, small: TensorType) -> dict[str, int]:
    n, h, w, c = small.shape
    high, wide = low.attributes(node)["factor"]
    shape = {"batch": n, "height": h, "width": w, "channels": c, "factor_h": high, "factor_w": wide}
    return {**shape, "half": is_half(small)}


def _lower_upsample(low: Any, node: Node) -> None:
    operands = {"x": node.inputs[0], "y": node.outputs[0]}
    low.emit("upsample_nearest", operands, _upsample_ints(low, node, low.type(node.inputs[0])))


def _upsample_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    return [build.add("upsample_gradient", [dy], node.inputs[0], factor=node.attributes["factor"])]


def _upsample_to_onnx(write: Any, node: Node) -> None:
    scales = np.asarray([1, 1, *write.attributes(node)["factor"]], np.float32)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    write.give(node.outputs[0], write("Resize", write.first(node.inputs[0]), "", scales, **how), True)


#: Each pixel becomes `factor` (down, across) equal ones.
UPSAMPLE = Operator(
    "upsample",
    ("x",),
    _upsample_shape,
    {"factor": REQUIRED},
    cost=free,
    lower=_lower_upsample,
    gradient=_upsample_gradient,
    onnx="Resize",
    to_onnx=_upsample_to_onnx,
    channels=each_channel,
)


def _upsample_gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    dy = _first(ins)
    (n, h, w, c), (high, wide) = dy.shape, a["factor"]
    return [TensorType((n, h // high, w // wide, c), dy.dtype)]


def _lower_upsample_gradient(low: Any, node: Node) -> None:
    operands = {"dy": node.inputs[0], "dx": node.outputs[0]}
    low.emit("upsample_nearest_gradient", operands, _upsample_ints(low, node, low.type(node.outputs[0])))


def _upsample_gradient_to_onnx(write: Any, node: Node) -> None:
    factor = list(write.attributes(node)["factor"])
    mean = write("AveragePool", write.first(node.inputs[0]), kernel_shape=factor, strides=factor)
    write.give(node.outputs[0], write("Mul", mean, float(factor[0] * factor[1])), True)


UPSAMPLE_GRADIENT = Operator(
    "upsample_gradient",
    ("dy",),
    _upsample_gradient_shape,
    {"factor": REQUIRED},
    lower=_lower_upsample_gradient,
    to_onnx=_upsample_gradient_to_onnx,
)

OPERATORS = (
    CHANNEL_SHUFFLE,
    GATE_GRADIENT,
    LOCAL_RESPONSE_NORM,
    LOCAL_RESPONSE_NORM_GRADIENT,
    UPSAMPLE,
    UPSAMPLE_GRADIENT,
)
