"""Metrics over a whole data set, fed batch by batch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from homespun.errors import OptionError, ShapeError
from homespun.graph import Array


@runtime_checkable
class Metric(Protocol):
    """Collects batches and sums them up."""

    def update(self, outputs: Array, targets: Array) -> None:
        """Take in one batch: outputs (N, C) and targets, labels (N,) or probabilities (N, C)."""

    def result(self) -> dict[str, float]:
        """Values by name over all that was taken in."""

    def reset(self) -> None:
        """Forget everything."""


def labels_of(targets: Array) -> Array:
    """Labels (N,): targets themselves, or the most probable class of each row."""
    targets = np.asarray(targets)
    return targets if np.issubdtype(targets.dtype, np.integer) else targets.argmax(axis=-1)


class TopK:
    """Share of samples whose label is among the k largest outputs."""

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise OptionError(f"k is {k}; it must be at least 1")
        self.k = k
        self.reset()

    def reset(self) -> None:
        self.right = self.count = 0

    def update(self, outputs: Array, targets: Array) -> None:
        labels = labels_of(targets)
        if outputs.shape[:-1] != labels.shape:
            raise ShapeError(f"outputs {outputs.shape} do not fit labels {labels.shape}")
        k = min(self.k, outputs.shape[-1])
        best = np.argpartition(-outputs, k - 1, axis=-1)[..., :k]
        self.right += int((best == labels[..., None]).any(axis=-1).sum())
        self.count += labels.size

    def result(self) -> dict[str, float]:
        name = "accuracy" if self.k == 1 else f"top_{self.k}"
        return {name: self.right / self.count if self.count else 0.0}


class Accuracy(TopK):
    """Share of samples whose largest output is their label's."""

    def __init__(self) -> None:
        super().__init__(1)


class ConfusionMatrix:
    """`matrix[i, j]`: samples of class i that were taken for class j."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self.matrix = np.zeros((self.classes, self.classes), np.int64)

    def update(self, outputs: Array, targets: Array) -> None:
        np.add.at(self.matrix, (labels_of(targets).ravel(), outputs.argmax(axis=-1).ravel()), 1)

    def result(self) -> dict[str, float]:
        return {}


class PrecisionRecallF1(ConfusionMatrix):
    """Precision, recall and F1, each the mean over classes that occur."""

    def result(self) -> dict[str, float]:
        right = np.diag(self.matrix).astype(np.float64)
        taken, there = self.matrix.sum(axis=0), self.matrix.sum(axis=1)
        precision = right / np.maximum(taken, 1)
        recall = right / np.maximum(there, 1)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        present = there > 0
        if not present.any():
            return {"precision": 0.0, "recall": 0.0, "f1": 0.0}
        return {
            "precision": float(precision[present].mean()),
            "recall": float(recall[present].mean()),
            "f1": float(f1[present].mean()),
        }
