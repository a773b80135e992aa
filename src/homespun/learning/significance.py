"""Whether one classifier is better than another, or only luckier: McNemar's exact test on photos that both judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
import numpy.typing as npt

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same N photos: how often each was right, and where only one of them was."""

    photos: int
    champion: float
    challenger: float
    gained: int
    lost: int

    @property
    def gain(self) -> float:
        """Points (0 to 1) that the challenger has more."""
        return self.challenger - self.champion

    @property
    def chance(self) -> float:
        """Probability of so many gains among `gained + lost`, or more, if neither were better (one-sided)."""
        return at_least(self.gained, self.gained + self.lost)


def compare(champion: Booleans, challenger: Booleans) -> Comparison:
    """Compare what two classifiers got right, (N,) each.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947, in its
    exact form; the test that Dietterich 1998 (Neural Computation 10, section 3.1) recommends for one pair of learners.
    """
    return Comparison(
        photos=len(champion),
        champion=float(champion.mean()) if len(champion) else 0.0,
        challenger=float(challenger.mean()) if len(challenger) else 0.0,
        gained=int((challenger & ~champion).sum()),
        lost=int((champion & ~challenger).sum()),
    )


def at_least(successes: int, trials: int) -> float:
    """Probability of at least so many heads in so many throws of a fair coin."""
    if successes <= 0:
        return 1.0
    return min(1.0, sum(exp(_log_choose(trials, k) - trials * log(2)) for k in range(successes, trials + 1)))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
