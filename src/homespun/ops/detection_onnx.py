"""`yolo_loss` and its gradient in ONNX's operators: which prediction is to see which object, and what is off.

Shapes: N images, P predictions of one scale (rows, columns and boxes), M objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from homespun.graph.graph import Node

#: Logarithms of sides beyond this are not raised to a power: as the kernel has it.
_LARGEST_SIDE = 20.0
_LAST = np.asarray([-1], np.int64)


@dataclass(frozen=True)
class _Parts:
    """Of one scale, by ONNX's names: what is predicted, before sigmoids, and what it should be."""

    centres: str  # (N, P, 2)
    sides: str  # (N, P, 2), logarithms of what anchors are multiplied by
    objectness: str  # (N, P, 1)
    classes: str  # (N, P, C)
    seen: str  # (N, P, 1) bool: whether there is an object that the prediction is responsible for
    told: str  # (N, P, 1) bool: whether it is told what to see; not where it overlaps an object by chance
    small: str  # (N, P, 1): weight of the box, larger for small ones
    wanted_centres: str  # (N, P, 2), within the cell
    wanted_sides: str  # (N, P, 2), as `sides`
    wanted_classes: str  # (N, P, C), 0 and 1


def loss_to_onnx(write: Any, node: Node) -> None:
    """Box, objectness and class, summed over predictions, mean over images."""
    p, off = _parts(write, node), _differences(write, node)
    both = write("Mul", write("Mul", off["sides"], off["sides"]), 0.5)
    box = write("Add", _cross_entropy(write, p.centres, p.wanted_centres), both)
    seen = write("Cast", p.seen, to=1)
    sums = [
        _total(write, p.seen, write("Mul", box, p.small)),
        _total(write, p.told, _cross_entropy(write, p.objectness, seen)),
        _total(write, p.seen, _cross_entropy(write, p.classes, p.wanted_classes)),
    ]
    total = write("Add", write("Add", sums[0], sums[1]), sums[2])
    write.give(node.outputs[0], write("Div", total, float(write.type(node.inputs[0]).shape[0])))


def gradient_to_onnx(write: Any, node: Node) -> None:
    """The derivatives of that, in the shape of the maps."""
    p, off = _parts(write, node), _differences(write, node)
    shape = write.type(node.inputs[0]).shape
    parts = [
        write("Where", p.seen, write("Mul", off["centres"], p.small), 0.0),
        write("Where", p.seen, write("Mul", off["sides"], p.small), 0.0),
        write("Where", p.told, off["objectness"], 0.0),
        write("Where", p.seen, off["classes"], 0.0),
    ]
    whole = write("Reshape", write("Concat", *parts, axis=-1), np.asarray(shape, np.int64))
    scale = write("Div", write.ours(node.inputs[2]), float(shape[0]))
    write.give(node.outputs[0], write("Mul", whole, scale))


def _cross_entropy(write: Any, x: str, wanted: str) -> Any:
    """-t log s(x) - (1 - t) log (1 - s(x)), without overflow."""
    return write("Sub", write("Softplus", x), write("Mul", x, wanted))


def _total(write: Any, where: str, values: str) -> Any:
    return write("ReduceSum", write("Where", where, values, 0.0), keepdims=0)


def _differences(write: Any, node: Node) -> dict[str, Any]:
    """What each part of the predictions is off by."""
    p = _parts(write, node)

    def off(x: str, wanted: str) -> Any:
        return write("Sub", write("Sigmoid", x), wanted)

    return {
        "centres": off(p.centres, p.wanted_centres),
        "sides": write("Sub", p.sides, p.wanted_sides),
        "objectness": off(p.objectness, write("Cast", p.seen, to=1)),
        "classes": off(p.classes, p.wanted_classes),
    }


def _parts(write: Any, node: Node) -> _Parts:
    """Written once for the loss and its gradient."""
    a = write.attributes(node)
    key = ("yolo", *node.inputs[:2], a["first"])
    if key not in write.shared:
        write.shared[key] = _written(write, node)
    parts: _Parts = write.shared[key]
    return parts


def _written(write: Any, node: Node) -> _Parts:
    a, (n, h, w, channels) = write.attributes(node), write.type(node.inputs[0]).shape
    boxes, count = a["boxes"], h * w * a["boxes"]
    classes = channels // boxes - 5
    anchors = np.asarray(a["anchors"], np.float32).reshape(-1, 2)
    own = np.tile(anchors[a["first"] : a["first"] + boxes], (h * w, 1))[None]  # (1, P, 2)
    cells = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2)  # of each place: column, row
    cells = np.repeat(cells, boxes, axis=0)[None].astype(np.float32)  # (1, P, 2)
    grid = np.asarray([w, h], np.float32)

    z = write("Reshape", write.ours(node.inputs[0]), np.asarray([n, count, 5 + classes], np.int64))
    centres, sides, objectness, scores = write("Split", z, np.asarray([2, 2, 1, classes], np.int64), outputs=4, axis=-1)
    objects = write.ours(node.inputs[1])
    kind, places, extents = write("Split", objects, np.asarray([1, 2, 2], np.int64), outputs=3, axis=-1)

    chosen = _responsible(write, kind, places, extents, (h, w, boxes, a["first"]), anchors)  # (N, M, 1)
    numbers = np.arange(count, dtype=np.int64).reshape(1, -1, 1)
    turned = write("Transpose", chosen, perm=[0, 2, 1])  # (N, 1, M)
    order = np.arange(1, write.type(node.inputs[1]).shape[1] + 1, dtype=np.float32)
    found = write("Mul", write("Cast", write("Equal", turned, numbers), to=1), order)  # (N, P, M)
    last = write("ReduceMax", found, axes=[-1], keepdims=1)  # of several objects the last; 0 is none
    seen = write("Greater", last, 0.0)
    one = write("Cast", write("And", write("Equal", last, order), seen), to=1)  # (N, P, M)
    seen_kind, seen_place, seen_extent = (write("MatMul", one, x) for x in (kind, places, extents))

    boxed = write("Div", write("Add", write("Sigmoid", centres), cells), grid)
    sized = write("Mul", write("Exp", write("Min", sides, _LARGEST_SIDE)), own)
    shares = _overlap(write, boxed, sized, places, extents)  # (N, P, M)
    real = write("Transpose", write("GreaterOrEqual", kind, 0.0), perm=[0, 2, 1])
    met = write("And", write("Greater", shares, float(a["ignore"])), real)
    chance = write("ReduceMax", write("Cast", met, to=1), axes=[-1], keepdims=1)

    sides_wanted = write("Log", write("Where", seen, write("Div", seen_extent, own), 1.0))
    return _Parts(
        centres,
        sides,
        objectness,
        scores,
        seen,
        write("Or", seen, write("Equal", chance, 0.0)),
        write("Sub", 2.0, _product(write, seen_extent)),
        write("Sub", write("Mul", seen_place, grid), cells),
        sides_wanted,
        write("Cast", write("Equal", seen_kind, np.arange(classes, dtype=np.float32)), to=1),
    )


def _responsible(
    write: Any, kind: str, places: str, extents: str, scale: tuple[int, int, int, int], anchors: np.ndarray[Any, Any]
) -> Any:
    """The number of the prediction that is to see each object, (N, M, 1) int64: in the cell of its centre, with the
    anchor closest in shape among those of all scales; -1 where that is one of another scale."""
    h, w, boxes, first = scale
    wide, high = write("Split", extents, np.asarray([1, 1], np.int64), outputs=2, axis=-1)
    widths, heights = np.ascontiguousarray(anchors[:, 0]), np.ascontiguousarray(anchors[:, 1])
    both = write("Mul", write("Min", wide, widths), write("Min", high, heights))  # (N, M, anchors)
    either = write("Sub", write("Add", write("Mul", wide, high), widths * heights), both)
    best = write("ArgMax", write("Div", both, either), axis=-1, keepdims=1)  # the first of the closest
    largest = np.asarray([w - 1, h - 1], np.float32)
    cell = write(
        "Min", write("Floor", write("Mul", write("Max", places, 0.0), np.asarray([w, h], np.float32))), largest
    )
    column, row = write("Split", write("Cast", cell, to=7), np.asarray([1, 1], np.int64), outputs=2, axis=-1)
    at = write("Add", write("Mul", row, np.asarray(w, np.int64)), column)
    own = write("Sub", best, np.asarray(first, np.int64))
    number = write("Add", write("Mul", at, np.asarray(boxes, np.int64)), own)
    within = write("And", write("GreaterOrEqual", own, np.asarray(0, np.int64)), write("Less", own, np.asarray(boxes)))
    sized = write("And", write("Greater", wide, 0.0), write("Greater", high, 0.0))
    real = write("And", write("GreaterOrEqual", kind, 0.0), sized)
    return write("Where", write("And", within, real), number, np.asarray(-1, np.int64))


def _product(write: Any, pairs: str) -> Any:
    return write("ReduceProd", pairs, axes=[-1], keepdims=1)


def _overlap(write: Any, places: str, extents: str, others: str, other_extents: str) -> Any:
    """Intersection over union of predictions (N, P, 2) with objects (N, M, 2): (N, P, M)."""
    middle = np.asarray([2], np.int64)  # predictions as (N, P, 1, 2)
    first = np.asarray([1], np.int64)  # objects as (N, 1, M, 2)
    places, extents = (write("Unsqueeze", x, middle) for x in (places, extents))
    others, other_extents = (write("Unsqueeze", x, first) for x in (others, other_extents))
    half, other_half = (write("Mul", x, 0.5) for x in (extents, other_extents))
    ends = write("Min", write("Add", places, half), write("Add", others, other_half))
    starts = write("Max", write("Sub", places, half), write("Sub", others, other_half))
    both = _product(write, write("Max", write("Sub", ends, starts), 0.0))
    either = write("Sub", write("Add", _product(write, extents), _product(write, other_extents)), both)
    shares = write("Div", both, write("Where", write("Greater", either, 0.0), either, 1.0))
    return write("Squeeze", shares, _LAST)
