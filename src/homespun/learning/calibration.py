"""From scores to probabilities, and how far those can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """log-odds = fit_weight * fit + lead_weight * lead + bias, where a lead is the fit above the best other topic's.

    Logistic regression on held-out photos (Platt 1999), with one setting for all topics, so that it holds for those
    that are yet to be learnt. The fit itself speaks for "none of the topics" where it is low.
    """

    fit_weight: float = 6.0
    lead_weight: float = 12.0
    bias: float = -2.0

    def log_odds(self, fits: Floats) -> Floats:
        """Log-odds (N, topics) float32 of fits (N, topics)."""
        odds = np.float32(self.fit_weight + self.lead_weight) * fits
        odds -= np.float32(self.lead_weight) * rivals(fits)
        odds += np.float32(self.bias)
        result: Floats = odds
        return result


def rivals(fits: Floats) -> Floats:
    """For each topic of each photo the best fit among the other topics, at least 0: (N, topics)."""
    topics = fits.shape[1]
    if topics == 0 or len(fits) == 0:
        return fits
    first = fits.max(axis=1)
    leads = fits == first[:, None]
    alone = leads.sum(axis=1) == 1
    second = np.where(leads, np.float32(0), fits).max(axis=1, initial=0)
    np.maximum(first, 0, out=first)
    best: Floats = np.where(leads, np.where(alone, second, first)[:, None], first[:, None])
    return best


def fit_calibration(fits: Floats, label: npt.NDArray[np.intp], weight: npt.NDArray[np.float64]) -> Calibration:
    """The calibration that makes held-out `fits` (N, topics) most likely; deterministic.

    `label` (N) is each photo's topic, or -1 for one that is in none; `weight` (N) is what each counts. Newton's method
    on the logistic loss.
    """
    fits64 = fits.astype(np.float64)
    x = np.stack([fits64, fits64 - rivals(fits), np.ones_like(fits64)], axis=-1).reshape(-1, 3)
    y = (label[:, None] == np.arange(fits.shape[1])).astype(np.float64).ravel()
    w = np.repeat(weight / weight.sum(), fits.shape[1])
    theta = np.zeros(3)
    penalty = 1e-6 * np.eye(3)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -30, 30)))
        gradient = x.T @ (w * (p - y)) + penalty @ theta
        hessian = (x * (w * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ x + penalty
        move = np.linalg.solve(hessian, gradient)
        theta -= move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    return Calibration(*(float(value) for value in theta))


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
