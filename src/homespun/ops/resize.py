"""`resize`: images of another size, nearest or linear, with the coordinates that frameworks have for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Array, Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.coupling import each_channel
from homespun.ops.storage import is_half

#: As the kernel numbers them.
COORDINATES = ("half_pixel", "align_corners", "asymmetric")
ROUNDING = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
_ATTRIBUTES: dict[str, Any] = {
    "size": REQUIRED,
    "mode": "linear",
    "coordinates": "half_pixel",
    "rounding": "round_prefer_floor",
    "scale": (0.0, 0.0),
}


def _check(a: Attributes, x: TensorType) -> None:
    if len(x.shape) != 4 or len(a["size"]) != 2 or min(a["size"]) < 1:
        raise ShapeError(f"expected an image (N, H, W, C) and two sizes, not {list(x.shape)} and {a['size']}")
    for name, choices in (("mode", ("nearest", "linear")), ("coordinates", COORDINATES), ("rounding", ROUNDING)):
        if a[name] not in choices:
            raise ShapeError(f"{name} is {a[name]!r}; it can be {', '.join(choices)}")
    if len(a["scale"]) != 2 or not all(0 <= s < 2**16 for s in a["scale"]):
        raise ShapeError(f"scale is {a['scale']}; it can be two numbers, 0 where the sizes say it")


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x = ins[0]
    assert x is not None
    _check(a, x)
    return [TensorType((x.shape[0], *a["size"], x.shape[3]), x.dtype)]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost((6 if a["mode"] == "linear" else 0) * outs[0].size)


def _call(low: Any, node: Node, x: TensorType) -> tuple[dict[str, int], dict[str, float]]:
    a = low.attributes(node)
    ints = dict(zip(("batch", "height", "width", "channels"), x.shape, strict=True))
    ints |= {"out_height": a["size"][0], "out_width": a["size"][1], "linear": int(a["mode"] == "linear")}
    ints |= {"coordinates": COORDINATES.index(a["coordinates"]), "rounding": ROUNDING.index(a["rounding"])}
    return {**ints, "half": is_half(x)}, dict(zip(("scale_h", "scale_w"), map(float, a["scale"]), strict=True))


def _lower(low: Any, node: Node) -> None:
    low.emit("resize", {"x": node.inputs[0], "y": node.outputs[0]}, *_call(low, node, low.type(node.inputs[0])))


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    x = node.inputs[0]
    return [build.add("resize_gradient", [dy], x, **node.attributes, of=build.type(x).shape[1:3])]


def _to_onnx(write: Any, node: Node) -> None:
    a, x = write.attributes(node), node.inputs[0]
    given: dict[str, Any] = {"mode": a["mode"], "coordinate_transformation_mode": a["coordinates"]}
    if a["mode"] == "nearest":
        given["nearest_mode"] = a["rounding"]
    sizes = write.type(x).shape[1:3]
    scales = [s or m / n for s, m, n in zip(a["scale"], a["size"], sizes, strict=True)]
    if a["coordinates"] == "align_corners":  # the sizes count alone
        scales = [m / n for m, n in zip(a["size"], sizes, strict=True)]
    # Scales rather than sizes, which would fix the batch. They must lead to the size: a float32 that falls short of an
    # exact ratio is the next one.
    exact = [np.float32(s) for s in scales]
    exact = [
        s if int(np.float32(n) * s) == m else np.nextafter(s, np.float32(np.inf))
        for s, m, n in zip(exact, a["size"], sizes, strict=True)
    ]
    write.give(
        node.outputs[0],
        write("Resize", write.first(x), "", np.asarray([1, 1, *exact], np.float32), **given),
        True,
    )


#: y = x at the coordinates of its pixels in x, `size` being (height, width). `coordinates`: "half_pixel" (a pixel is
#: its middle), "align_corners", "asymmetric" (a pixel is its upper left corner). "nearest" rounds them by `rounding`,
#: "linear" weighs the four pixels around. `scale` is the factor that coordinates go by, where it is not the sizes'.
#: Source: ONNX operator Resize.
RESIZE = Operator(
    "resize",
    ("x",),
    _shape,
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    onnx="Resize",
    to_onnx=_to_onnx,
    channels=each_channel,
)


def matrix(a: Attributes, axis: int, size: int) -> Array:
    """What `resize` does along an axis (0 down, 1 across) of `size` pixels: a matrix (out, size), float32."""
    out, scale = a["size"][axis], np.float32(a["scale"][axis])
    middle = 0.5 if a["coordinates"] == "half_pixel" else 0.0
    if a["coordinates"] == "align_corners":
        scale, at = np.float32(0), np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    elif scale > 0:
        at = (np.arange(out, dtype=np.float32) + np.float32(middle)) / scale - np.float32(middle)
    else:
        at = (np.arange(out) + middle) * (size / out) - middle
    if a["mode"] == "nearest":
        slack = 0.0 if scale > 0 else 1e-6  # as in the kernel
        nearest = {
            "floor": np.floor(at + slack),
            "round_prefer_ceil": np.floor(at + 0.5 + slack),
            "round_prefer_floor": np.ceil(at - 0.5 - slack),
            "ceil": np.ceil(at - slack),
        }[a["rounding"]]
        return np.asarray(np.eye(size, dtype=np.float32)[np.clip(nearest, 0, size - 1).astype(int)])
    at = np.clip(at, 0, size - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))), np.float32)


def _gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    dy = ins[0]
    assert dy is not None
    _check(a, dy)
    return [TensorType((dy.shape[0], *a["of"], dy.shape[3]), dy.dtype)]


def _lower_gradient(low: Any, node: Node) -> None:
    dy, dx = node.inputs[0], node.outputs[0]
    low.emit("resize_gradient", {"dy": dy, "dx": dx}, *_call(low, node, low.type(dx)))


def _gradient_to_onnx(write: Any, node: Node) -> None:
    """Two products with matrices, along rows and along columns."""
    a = write.attributes(node)
    down, across = (matrix(a, axis, size) for axis, size in enumerate(a["of"]))
    y = write("MatMul", np.ascontiguousarray(down.T), write.first(node.inputs[0]))
    write.give(node.outputs[0], write("MatMul", y, across), True)


RESIZE_GRADIENT = Operator(
    "resize_gradient",
    ("dy",),
    _gradient_shape,
    {**_ATTRIBUTES, "of": REQUIRED},
    cost=_cost,
    lower=_lower_gradient,
    to_onnx=_gradient_to_onnx,
)

OPERATORS = (RESIZE, RESIZE_GRADIENT)
