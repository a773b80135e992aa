"""Which automatic topics are probably wrong: signals about each photo, and one number that ranks them.

Pure functions on arrays, for the album's queue of questions and for `evaluate`. None of them needs labels of the photos
that they rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]

NEIGHBOURS = 8
"""Photos of the same library that are asked what they think of a photo's topic."""
_BLOCK = 2048


@dataclass(frozen=True)
class Signals:
    """What speaks against each photo's automatic topic, (N,) each, 0 for nothing to 1 for much.

    `unsure`: one less its calibrated confidence; `strange`: unlike anything known; `alone`: photos like it are in other
    topics; `rejected`: near to photos that a human said are not in the topic.
    """

    unsure: Floats
    strange: Floats
    alone: Floats
    rejected: Floats

    def reason(self) -> npt.NDArray[np.str_]:
        """Name of the signal that speaks loudest for each photo."""
        names = ("unsure", "strange", "alone", "rejected")
        stacked = np.stack([getattr(self, name) * weight for name, weight in zip(names, WEIGHTS, strict=True)])
        loudest: npt.NDArray[np.str_] = np.array(names)[stacked.argmax(axis=0)]
        return loudest


WEIGHTS = (1.0, 0.1, 0.5, 0.5)
"""Of unsure, strange, alone and rejected in `doubt`. Confidence says most of it; see docs/learning.md."""


def signals(
    matrix: Floats,
    confidences: Floats,
    topic: npt.NDArray[np.intp],
    rejected: Floats | None = None,
    rejected_topic: npt.NDArray[np.intp] | None = None,
) -> Signals:
    """Signals about photos with coordinates (N, d) of unit length (`TopicLearner.prepare`).

    `confidences` (N, T) are the learner's, `topic` (N,) is the column that the album put each photo in. `rejected`
    (M, d) are photos that a human took out of `rejected_topic` (M,). Work grows with N squared over blocks: for a large
    library pass the few thousand least sure photos.
    """
    rows = np.arange(len(matrix))
    mine = confidences[rows, topic]
    best = confidences.max(axis=1)
    strange = 1 - np.maximum(best, mine)
    return Signals(
        unsure=(1 - mine).astype(np.float32),
        strange=strange.astype(np.float32),
        alone=disagreement(matrix, confidences, topic),
        rejected=_near_rejections(matrix, topic, rejected, rejected_topic),
    )


def doubt(found: Signals) -> Floats:
    """How doubtful each photo's topic is, (N,) float32: higher means more probably wrong."""
    parts = (found.unsure, found.strange, found.alone, found.rejected)
    total = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
    return np.asarray(total, np.float32)


def rank(found: Signals) -> npt.NDArray[np.intp]:
    """Rows from the most doubtful to the least; equal ones in the order that they came in."""
    return np.argsort(-doubt(found), kind="stable")


def disagreement(matrix: Floats, confidences: Floats, topic: npt.NDArray[np.intp]) -> Floats:
    """How little the nearest other photos believe in each photo's topic, (N,) float32 in [0, 1].

    One less the confidence that the `NEIGHBOURS` nearest photos (cosine, the nearer the heavier) have in that topic.
    """
    count = len(matrix)
    near = min(NEIGHBOURS, count - 1)
    result = np.zeros(count, np.float32)
    if near < 1:
        return result
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        likeness = matrix[rows] @ matrix.T
        likeness[rows - start, rows] = -np.inf
        place = np.argpartition(-likeness, near - 1, axis=1)[:, :near]
        weight = np.maximum(np.take_along_axis(likeness, place, axis=1), 1e-3) ** 2
        belief = confidences[place, topic[rows][:, None]]
        result[rows] = 1 - (weight * belief).sum(axis=1) / weight.sum(axis=1)
    return result


def _near_rejections(
    matrix: Floats,
    topic: npt.NDArray[np.intp],
    rejected: Floats | None,
    rejected_topic: npt.NDArray[np.intp] | None,
) -> Floats:
    result = np.zeros(len(matrix), np.float32)
    if rejected is None or rejected_topic is None:
        return result
    for column in np.unique(rejected_topic):
        rows = np.flatnonzero(topic == column)
        if len(rows):
            nearest = (matrix[rows] @ rejected[rejected_topic == column].T).max(axis=1)
            result[rows] = np.clip(nearest, 0, 1) ** 2
    return result
