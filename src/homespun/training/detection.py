"""From YOLOv3's maps to boxes: decoding, non-maximum suppression, and mean average precision over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homespun.errors import OptionError, ShapeError
from homespun.graph import Array, Graph


@dataclass(frozen=True)
class Detections:
    """What is seen in one image, surest first: `boxes` (K, 4) x and y of the centre, width and height as shares of the
    image; `scores` (K,); `classes` (K,) int64."""

    boxes: Array
    scores: Array
    classes: Array


def _sigmoid(x: Array) -> Array:
    y: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
    return y


def decode(maps: Sequence[Array], anchors: Sequence[float], boxes: int = 3) -> tuple[Array, Array]:
    """(boxes (N, P, 4) as `Detections` has them, scores (N, P, classes): objectness times class) of all predictions.

    `maps` are a model's outputs, coarsest first; `anchors` (w, h, ...) shares of the image, smallest first.
    Source: Redmon & Farhadi 2018, section 2.1.
    """
    pairs = np.asarray(anchors, np.float64).reshape(-1, 2)
    if len(pairs) != boxes * len(maps):
        raise ShapeError(f"{len(maps)} maps of {boxes} boxes need {boxes * len(maps)} anchors, not {len(pairs)}")
    found, scores = [], []
    for scale, given in enumerate(maps):
        n, h, w, channels = given.shape
        z = given.reshape(n, h, w, boxes, channels // boxes).astype(np.float64)
        first = boxes * (len(maps) - 1 - scale)
        cells = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1)[:, :, None, :]
        centres = (_sigmoid(z[..., :2]) + cells) / (w, h)
        sides = np.exp(np.minimum(z[..., 2:4], 20.0)) * pairs[first : first + boxes]
        found.append(np.concatenate([centres, sides], axis=-1).reshape(n, -1, 4))
        scores.append((_sigmoid(z[..., 4:5]) * _sigmoid(z[..., 5:])).reshape(n, h * w * boxes, -1))
    return np.concatenate(found, 1).astype(np.float32), np.concatenate(scores, 1).astype(np.float32)


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of each box of a (K, 4) with each of b (L, 4): (K, L)."""
    low = np.maximum(a[:, None, :2] - a[:, None, 2:] / 2, b[None, :, :2] - b[None, :, 2:] / 2)
    high = np.minimum(a[:, None, :2] + a[:, None, 2:] / 2, b[None, :, :2] + b[None, :, 2:] / 2)
    both = np.maximum(high - low, 0.0).prod(axis=-1)
    either = a[:, 2:].prod(axis=-1)[:, None] + b[:, 2:].prod(axis=-1)[None] - both
    shares: Array = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return shares


def non_maximum_suppression(
    boxes: Array, scores: Array, *, least_score: float = 0.5, overlap: float = 0.45, most: int = 100
) -> Detections:
    """The detections of one image: of boxes (P, 4) and scores (P, classes) those of at least `least_score`, and of each
    class none that overlaps a surer one by more than `overlap`; at most `most`."""
    if not 0.0 <= overlap <= 1.0 or most < 1:
        raise OptionError(f"overlap must be from 0 to 1 and most at least 1, not {overlap} and {most}")
    kept: list[tuple[float, int, int]] = []
    for c in range(scores.shape[1]):
        candidates = np.flatnonzero(scores[:, c] >= least_score)
        candidates = candidates[np.argsort(-scores[candidates, c], kind="stable")]
        while candidates.size:
            best, rest = candidates[0], candidates[1:]
            kept.append((-float(scores[best, c]), int(best), c))
            candidates = rest[overlaps(boxes[best : best + 1], boxes[rest])[0] <= overlap]
    kept = sorted(kept)[:most]
    places = [p for _, p, _ in kept]
    sure, classes = np.asarray([-s for s, _, _ in kept], np.float32), np.asarray([c for _, _, c in kept], np.int64)
    return Detections(boxes[places], sure, classes)


def detect(
    model: Graph, maps: Sequence[Array], *, least_score: float = 0.5, overlap: float = 0.45, most: int = 100
) -> list[Detections]:
    """The detections of each image, from what a predictor of `model` (which notes its anchors) gave."""
    if "anchors" not in model.metadata:
        raise OptionError(f"{model.name}: no anchors in its metadata; use `decode` and `non_maximum_suppression`")
    anchors = [float(a) for a in model.metadata["anchors"].split(",")]
    boxes, scores = decode(maps, anchors, int(model.metadata["boxes"]))
    options = {"least_score": least_score, "overlap": overlap}
    return [non_maximum_suppression(b, s, **options, most=most) for b, s in zip(boxes, scores, strict=True)]


class MeanAveragePrecision:
    """Area under the curve of precision over recall, mean over classes that occur, for one or more least overlaps.

    A detection is right if it overlaps an object of its class by at least as much that no surer one has taken.
    Precision at a recall is the best at that or any higher recall, as PASCAL VOC from 2010 on and COCO have it (COCO
    reads it off at 101 places). Source: Everingham et al. 2010, section 4.2.
    """

    def __init__(self, overlap: float | Sequence[float] = 0.5) -> None:
        self.overlap = [overlap] if isinstance(overlap, float | int) else list(overlap)
        if not self.overlap or not all(0.0 < o <= 1.0 for o in self.overlap):
            raise OptionError(f"overlap is {overlap}; it must be above 0 and at most 1")
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._scores: dict[int, list[float]] = {}
        self._right: dict[int, list[list[bool]]] = {}
        self._objects: dict[int, int] = {}

    def update(self, detections: Sequence[Detections], objects: Array) -> None:
        """Take in images: their detections, and their objects (N, M, 5) as `losses.Yolo` has them."""
        if len(detections) != len(objects):
            raise ShapeError(f"{len(detections)} images of detections, but {len(objects)} of objects")
        for found, truths in zip(detections, objects, strict=True):
            for c in sorted({*found.classes.tolist(), *truths[truths[:, 0] >= 0, 0].astype(int).tolist()}):
                self._image(c, found, truths[truths[:, 0] == c, 1:])

    def _image(self, c: int, found: Detections, truths: Array) -> None:
        mine = np.flatnonzero(found.classes == c)
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        shares = overlaps(found.boxes[mine].astype(np.float64), truths.astype(np.float64))
        self._objects[c] = self._objects.get(c, 0) + len(truths)
        taken = [np.zeros(len(truths), bool) for _ in self.overlap]
        for row, place in zip(shares, mine, strict=True):
            right = []
            for least, used in zip(self.overlap, taken, strict=True):
                best = int(np.argmax(np.where(used, -1.0, row))) if len(truths) else -1
                hit = best >= 0 and not used[best] and bool(row[best] >= least)
                if hit:
                    used[best] = True
                right.append(hit)
            self._scores.setdefault(c, []).append(float(found.scores[place]))
            self._right.setdefault(c, []).append(right)

    def result(self) -> dict[str, float]:
        """`mean_average_precision`, over classes that have objects and over the overlaps."""
        values = [self._average(c, i) for c, count in self._objects.items() if count for i in range(len(self.overlap))]
        return {"mean_average_precision": float(np.mean(values)) if values else 0.0}

    def _average(self, c: int, which: int) -> float:
        if c not in self._scores:
            return 0.0
        order = np.argsort(-np.asarray(self._scores[c]), kind="stable")
        right = np.asarray(self._right[c])[order, which]
        hits = np.cumsum(right)
        precision = hits / np.arange(1, len(right) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        return float((best * right).sum() / self._objects[c])
