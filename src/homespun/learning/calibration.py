"""From scores to probabilities, and how far those can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

Weights = tuple[float, float, float]
"""Of the standing, of the lead (the standing above the best other topic's), and a constant."""
LOWEST = -2.0
"""Below any standing."""
BEHIND = np.float32(1e-3)
"""By how much all other topics are less likely than the one that fits best, at least: it stays the best."""


@dataclass(frozen=True)
class Calibration:
    """log-odds = weight * standing + weight * lead + constant: one line for a photo's best topic, one for all others.

    A standing is a photo's fit less what is usual for the topic (`Head.usual`); the lead is the best topic's over
    the best other standing. Two logistic regressions on held-out photos (Platt 1999), with one setting for all topics,
    so that it holds for those that are yet to be learnt. They are apart since being the best of thirty is news of its
    own: one line for both is right on average and wrong for each. A standing itself speaks for "none of the topics"
    where it is low.

    `typical` is the mean cosine between photos of a topic that isn't built in and its true direction. With 0, nothing
    is usual: standings are the fits. `vague` weighs topics that were shown by few photos, each of which may be the true
    one although it fits less: the odds against a photo's best topic grow by

        vague * sum over other topics j of vagueness_j * exp(weight of the lead * (standing_j - standing of the best))
    """

    best: Weights = (6.0, 10.0, -1.5)
    other: Weights = (6.0, 10.0, -2.0)
    typical: float = 0.0
    vague: float = 0.0

    @property
    def floor(self) -> float:
        """Where other topics' standings count from: where nothing is usual, a lead over nothing is the fit."""
        return LOWEST if self.typical else 0.0

    def log_odds(self, fits: Floats, usual: Floats, vagueness: Floats) -> Floats:
        """Log-odds (N, topics) float32 of fits (N, topics). No topic is more likely than the one that fits best.

        `usual` (topics,), or (N, topics), is taken from the fits; `vagueness` (topics,) is 0 for well-known topics, and
        less than 1 for others.
        """
        if fits.shape[1] == 0 or len(fits) == 0:
            return fits
        standings = _standings(fits, usual)
        top, rest, first = standings
        best, against = self._evidence(fits, standings, vagueness)
        if self.vague and vagueness.any():
            best = -np.logaddexp(-best, against + np.float32(np.log(self.vague)))
        a, b, c = (np.float32(weight) for weight in self.other)
        odds: Floats = np.multiply(rest, a + b, out=rest)
        odds += c - b * first
        np.minimum(odds, best - BEHIND, out=odds)
        odds[top, np.arange(len(fits))] = best
        return odds.T

    def evidence(self, fits: Floats, usual: Floats, vagueness: Floats) -> tuple[Floats, Floats]:
        """Of each photo's best topic: log-odds were no other topic vague, and the logarithm of the sum, (N,) each.

        The latter is -30 at most where there is no such topic.
        """
        return self._evidence(fits, _standings(fits, usual), vagueness)

    def _evidence(self, fits: Floats, standings: Standings, vagueness: Floats) -> tuple[Floats, Floats]:
        top, rest, first = standings
        lead: Floats = first - np.maximum(rest.max(axis=0), np.float32(self.floor))
        a, b, c = (np.float32(weight) for weight in self.best)
        lead[fits[np.arange(len(fits)), top] <= self.floor] = 0
        line: Floats = a * first + b * lead + c
        unclear = np.flatnonzero(vagueness)
        against: Floats = vagueness[unclear] @ np.exp(np.clip(b * (rest[unclear] - first), -30, 30))
        total: Floats = np.log(np.maximum(against, np.float32(9e-14)))
        return line, total


Standings = tuple[npt.NDArray[np.intp], Floats, Floats]


def _standings(fits: Floats, usual: Floats) -> Standings:
    """The topic (N,) that fits each photo best; standings (topics, N), `LOWEST` for that topic; and its own (N,)."""
    columns = fits.T
    top, photos = columns.argmax(axis=0), np.arange(len(fits))
    rest: Floats = columns - np.atleast_2d(usual).T
    first = rest[top, photos]
    rest[top, photos] = LOWEST
    return top, rest, first


def fit_calibration(
    standings: Floats,
    top: npt.NDArray[np.intp],
    label: npt.NDArray[np.intp],
    weight: npt.NDArray[np.float64],
) -> Calibration:
    """The two lines that make held-out `standings` (N, topics) most likely; deterministic.

    `top` (N) is the topic that fits each photo best, `label` (N) its true one, or -1 for one that is in none; `weight`
    (N) is what each counts.
    """
    count, topics = standings.shape
    rows = np.arange(count)
    first = standings[rows, top].astype(np.float64)
    cells = np.ones(standings.shape, np.bool_)
    cells[rows, top] = False
    rest = standings[cells].astype(np.float64)
    lead = first - rest.reshape(count, topics - 1).max(axis=1)
    best = _logistic(np.stack([first, lead, np.ones(count)], axis=1), top == label, weight)
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
