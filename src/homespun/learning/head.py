"""What a TopicLearner scores with: a pure function of its statistics, fitted in closed form.

Each topic is a Gaussian around an unknown mean in a space where the spread within a topic is one on every axis and the
spread between topics is known (probabilistic LDA; Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006).
With k examples the mean is known to some extent, which gives the predictive mean and variance in closed form,
so that one photo and a thousand are weighed rightly by the same formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.learning.space import Floats

_NEVER = np.float32(-30.0)
"""Log-odds of a topic that has no example yet."""


@dataclass(frozen=True)
class TopicStatistics:
    """What is kept of a topic's examples: how many, and the sum (d,) of their coordinates."""

    count: int
    total: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """log-odds = scale * (fit against no topic) + rivalry * (fit against the best other topic) + bias."""

    scale: float = 0.05
    rivalry: float = 0.05
    bias: float = 0.0


@dataclass(frozen=True)
class Head:
    """Log-likelihood ratios of K components as a quadratic form; each component belongs to one topic's column."""

    weights: Floats
    inverse: Floats
    bias: Floats
    column: npt.NDArray[np.intp]
    topics: int
    calibration: Calibration

    def ratios(self, matrix: Floats) -> Floats:
        """Log-likelihood of each topic against that of "no topic", (N, topics) float32, for coordinates (N, d)."""
        parts = matrix @ self.weights
        parts += np.square(matrix) @ self.inverse
        parts += self.bias
        out = np.full((len(matrix), self.topics), -np.inf, np.float32)
        for index, column in enumerate(self.column):
            np.maximum(out[:, column], parts[:, index], out=out[:, column])
        return out

    def log_odds(self, matrix: Floats) -> Floats:
        """Calibrated log-odds (N, topics) float32 of coordinates (N, d)."""
        ratios = self.ratios(matrix)
        if not self.topics:
            return ratios
        best = ratios.argmax(axis=1)
        rows = np.arange(len(ratios))
        first = ratios[rows, best].copy()
        ratios[rows, best] = -np.inf
        second = ratios.max(axis=1)
        ratios[rows, best] = first
        rival = np.broadcast_to(np.maximum(first, 0)[:, None], ratios.shape).copy()
        rival[rows, best] = np.maximum(second, 0)
        c = self.calibration
        odds = c.scale * ratios + c.rivalry * (ratios - rival) + np.float32(c.bias)
        floored: Floats = np.maximum(odds, _NEVER).astype(np.float32)
        return floored


def fit_head(
    spread: Floats,
    topics: Sequence[str],
    builtin: Mapping[str, TopicStatistics],
    own: Mapping[str, TopicStatistics],
    calibration: Calibration,
) -> Head:
    """The head for `topics`: one component for a topic's built-in statistics, one for the family's own examples."""
    psi = spread.astype(np.float64)
    columns, means, variances = [], [], []
    for column, name in enumerate(topics):
        for statistics in (builtin.get(name), own.get(name)):
            if statistics is None or not statistics.count:
                continue
            gain = statistics.count * psi / (statistics.count * psi + 1)
            columns.append(column)
            means.append(gain * statistics.total / statistics.count)
            variances.append(1 + psi - gain * psi)
    mean = np.array(means).reshape(len(columns), len(psi))
    variance = np.array(variances).reshape(len(columns), len(psi))
    none = 1 + psi
    bias = 0.5 * (np.log(none).sum() - np.log(variance).sum(axis=1) - (mean**2 / variance).sum(axis=1))
    return Head(
        weights=np.ascontiguousarray((mean / variance).T, np.float32),
        inverse=np.ascontiguousarray(0.5 * (1 / none - 1 / variance).T, np.float32),
        bias=bias.astype(np.float32),
        column=np.array(columns, np.intp),
        topics=len(topics),
        calibration=calibration,
    )
