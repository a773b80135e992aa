"""Whether one learner is better than another, or only luckier: paired tests on photos that both judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
import numpy.typing as npt

Booleans = npt.NDArray[np.bool_]
DRAWS = 9999


@dataclass(frozen=True)
class Comparison:
    """Two learners on the same N photos: shares right, where only one of them was, and how far confidences were off.

    `gap_before` and `gap_after` are mean Brier scores (0 is perfect), and `chance` is the probability that they would
    fall this much, or more, by luck alone.
    """

    photos: int
    champion: float
    challenger: float
    gained: int
    lost: int
    gap_before: float
    gap_after: float
    chance: float

    @property
    def gain(self) -> float:
        """Points (0 to 1) that the challenger has more."""
        return self.challenger - self.champion

    @property
    def chance_of_gains(self) -> float:
        """Probability of so many gains among `gained + lost`, or more, by luck: McNemar's test, exact and one-sided."""
        return at_least(self.gained, self.gained + self.lost)


def compare(right: Booleans, gaps: npt.NDArray[np.float64]) -> Comparison:
    """Compare champion and challenger: what they got right (2, N), and the Brier scores of their confidences (2, N).

    Brier 1950; a proper score, which nothing improves but better probabilities (Gneiting and Raftery 2007), and which
    says more of each photo than right or wrong does.
    """
    champion, challenger = right
    count = right.shape[1]
    return Comparison(
        photos=count,
        champion=float(champion.mean()) if count else 0.0,
        challenger=float(challenger.mean()) if count else 0.0,
        gained=int((challenger & ~champion).sum()),
        lost=int((champion & ~challenger).sum()),
        gap_before=float(gaps[0].mean()) if count else 0.0,
        gap_after=float(gaps[1].mean()) if count else 0.0,
        chance=by_luck(gaps[0] - gaps[1]),
    )


def by_luck(differences: npt.NDArray[np.float64]) -> float:
    """Probability of a mean so high, or higher, if each difference (N,) had its sign by chance.

    Fisher's randomization test for pairs ("The Design of Experiments", 1935, section 21), with `DRAWS` random signs;
    the same for the same differences.
    """
    random = np.random.default_rng(0)
    reached = 0
    for start in range(0, DRAWS, 1000):
        signs = random.integers(0, 2, (min(1000, DRAWS - start), len(differences))) * 2 - 1
        reached += int((signs @ differences >= differences.sum() - 1e-12).sum())
    return (reached + 1) / (DRAWS + 1)


def at_least(successes: int, trials: int) -> float:
    """Probability of at least so many heads in so many throws of a fair coin."""
    if successes <= 0:
        return 1.0
    return min(1.0, sum(exp(_log_choose(trials, k) - trials * log(2)) for k in range(successes, trials + 1)))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
