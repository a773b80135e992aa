"""From scores to probabilities, and how far those can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


Weights = tuple[float, float, float]
"""Of the fit, of the lead (the fit above the best other topic's), and a constant."""


@dataclass(frozen=True)
class Calibration:
    """log-odds = weight * fit + weight * lead + constant, one line for a photo's best topic and one for all others.

    Two logistic regressions on held-out photos (Platt 1999), with one setting for all topics, so that it holds for
    those that are yet to be learnt. They are apart since being the best of thirty is news of its own: one line for
    both is right on average and wrong for each. The fit itself speaks for "none of the topics" where it is low.
    """

    best: Weights = (6.0, 10.0, -1.5)
    other: Weights = (6.0, 10.0, -2.0)

    def log_odds(self, fits: Floats) -> Floats:
        """Log-odds (N, topics) float32 of fits (N, topics). No topic is more likely than the one that fits best."""
        if fits.shape[1] == 0 or len(fits) == 0:
            return fits
        columns = fits.T
        top, photos = columns.argmax(axis=0), np.arange(len(fits))
        first = columns[top, photos]
        rest = columns.copy()
        rest[top, photos] = 0
        lead = np.where(first > 0, first - rest.max(axis=0), 0)  # others count from 0: a lead over nothing is the fit
        a, b, c = (np.float32(weight) for weight in self.best)
        best = a * first + b * np.maximum(lead, 0) + c
        a, b, c = (np.float32(weight) for weight in self.other)
        odds: Floats = np.multiply(columns, a + b, out=rest)
        odds += c - b * first
        np.minimum(odds, best, out=odds)
        odds[top, photos] = best
        return odds.T


def fit_calibration(fits: Floats, label: npt.NDArray[np.intp], weight: npt.NDArray[np.float64]) -> Calibration:
    """The calibration that makes held-out `fits` (N, topics) most likely; deterministic.

    `label` (N) is each photo's topic, or -1 for one that is in none; `weight` (N) is what each counts.
    """
    count, topics = fits.shape
    order = np.argsort(fits, axis=1)
    rows = np.arange(count)
    top = order[:, -1]
    first = fits[rows, top].astype(np.float64)
    second = fits[rows, order[:, -2]].astype(np.float64)
    lead = np.where(first > 0, first - np.maximum(second, 0), 0)
    best = _logistic(np.stack([first, lead, np.ones(count)], axis=1), top == label, weight)
    cells = np.ones(fits.shape, np.bool_)
    cells[rows, top] = False
    rest = fits[cells].astype(np.float64)
    behind = rest - np.repeat(first, topics - 1)
    true = (label[:, None] == np.arange(topics))[cells]
    other = _logistic(np.stack([rest, behind, np.ones(len(rest))], axis=1), true, np.repeat(weight, topics - 1))
    return Calibration(best, other)


def _logistic(x: npt.NDArray[np.float64], true: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64]) -> Weights:
    """Weights of a logistic regression of `true` (N) on x (N, 3), by Newton's method with a bound on each move."""
    theta = np.zeros(3)
    w = weight / weight.sum()
    penalty = 1e-6 * np.eye(3)
    for _ in range(200):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -30, 30)))
        gradient = x.T @ (w * (p - true)) + penalty @ theta
        hessian = (x * (w * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ x + penalty
        move = np.linalg.solve(hessian, gradient)
        theta -= move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    first, second, third = (float(value) for value in theta)
    return first, second, third


def expected_calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Mean gap between confidence (N) in [0, 1] and how often it was right, over `bins` of equal width.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    return float(sum(share * abs(mean - right) for mean, right, share in reliability(confidence, correct, bins)))


def reliability(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> list[tuple[float, float, float]]:
    """(mean confidence, share correct, share of all) of each bin of confidence that isn't empty."""
    place = np.minimum((np.asarray(confidence) * bins).astype(np.intp), bins - 1)
    return [
        (float(confidence[place == b].mean()), float(correct[place == b].mean()), float((place == b).mean()))
        for b in range(bins)
        if (place == b).any()
    ]
