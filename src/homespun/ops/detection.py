"""`yolo_loss`: box, objectness and class of one scale of YOLOv3 against the objects of each image, as one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.detection_onnx import gradient_to_onnx, loss_to_onnx

_ATTRIBUTES: dict[str, Any] = {"anchors": REQUIRED, "first": REQUIRED, "boxes": 3, "ignore": 0.7}


def _check(a: Attributes, ins: Sequence[TensorType | None]) -> None:
    maps, truths = ins[0], ins[1]
    assert maps is not None and truths is not None
    per_box = maps.shape[-1] // a["boxes"] if len(maps.shape) == 4 else 0
    if per_box < 6 or maps.shape[-1] % a["boxes"]:
        raise ShapeError(f"expected maps (N, H, W, {a['boxes']} (5 + classes)), not {list(maps.shape)}")
    if len(truths.shape) != 3 or truths.shape[0] != maps.shape[0] or truths.shape[2] != 5:
        raise ShapeError(f"expected objects (N, M, 5): class, x, y, width, height, not {list(truths.shape)}")
    if len(a["anchors"]) % 2 or not 0 <= a["first"] <= len(a["anchors"]) // 2 - a["boxes"]:
        raise ShapeError(f"there are no {a['boxes']} anchors from {a['first']} on among {len(a['anchors']) // 2}")


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    _check(a, ins)
    return [TensorType(())]


def _gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    _check(a, ins)
    assert ins[0] is not None
    return [ins[0]]


def _lower(low: Any, node: Node) -> None:
    a, maps, truths = low.attributes(node), *(low.type(n) for n in node.inputs[:2])
    n, h, w, channels = maps.shape
    boxes, anchors = a["boxes"], np.asarray(a["anchors"], np.float32)
    ints = {"batch": n, "height": h, "width": w, "boxes": boxes, "classes": channels // boxes - 5}
    ints |= {"truth_count": truths.shape[1], "anchor_count": anchors.size // 2, "first": a["first"]}
    backward = node.op.endswith("gradient")
    operands = {"maps": node.inputs[0], "truths": node.inputs[1], "anchors": low.constant(anchors)}
    operands["dloss"] = node.inputs[2] if backward else ""
    operands["dmaps" if backward else "loss"] = node.outputs[0]
    low.emit("yolo_loss", operands, ints, {"ignore": float(a["ignore"])})


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    maps, truths = node.inputs
    if build.wanted(truths):
        raise ShapeError(f"node {node}: the loss has no gradient for its objects")
    (dloss,) = grads
    assert dloss is not None
    return [build.add("yolo_loss_gradient", [maps, truths, dloss], maps, **node.attributes), None]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    maps, truths = ins[0], ins[1]
    assert maps is not None and truths is not None
    return Cost(maps.shape[0] * maps.shape[1] * maps.shape[2] * a["boxes"] * 20 * truths.shape[1])


#: Mean over images of the loss at one scale; `anchors` (w, h, w, h, ...) as shares of the image, those of this scale
#: `boxes` from `first` on. A prediction whose box overlaps an object by more than `ignore` is not told to see nothing.
#: Source: Redmon & Farhadi 2018, "YOLOv3: An Incremental Improvement", section 2; details as in the authors' release.
YOLO_LOSS = Operator(
    "yolo_loss",
    ("maps", "truths"),
    _shape,
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower,
    gradient=_gradient,
    saves=("maps", "truths"),
    to_onnx=loss_to_onnx,
)
YOLO_LOSS_GRADIENT = Operator(
    "yolo_loss_gradient",
    ("maps", "truths", "dloss"),
    _gradient_shape,
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower,
    to_onnx=gradient_to_onnx,
)

OPERATORS = (YOLO_LOSS, YOLO_LOSS_GRADIENT)
