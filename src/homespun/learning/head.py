"""What a TopicLearner scores with: a pure function of its statistics, in closed form.

A topic is one or two prototypes, the directions in which its built-in photos and the family's own examples point; a
photo fits a topic as well as the nearer one (cosine). What a family said is *not* in a topic is a prototype, too,
that only pushes away what is nearer to it. Without built-in topics directions are seen from the middle of all topics,
since features of photos are much alike seen from zero; with them, the space is centred already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.learning.calibration import Calibration
from homespun.learning.expansion import MOST, ROUNDS, WORTH, Library, chosen, leads, take
from homespun.learning.space import BLOCK, Floats

TYPICAL = 0.65
"""Mean cosine between photos of a built-in topic and its prototype."""
FEW = 0.35
"""How much of the shrinking of a prototype made from few photos is made up for: none 0, all 1 (see `_gain`)."""
LEAN = 0.02
"""Added to the fit of a topic that isn't built in: built-in ones shaped the space, and fit better for that alone."""
PRIOR = 20.0
"""Examples whose word on how widely a topic spreads is worth what is known of topics in general."""
PUSH = 3.0
"""By how much a photo's fit falls for being nearer to what was rejected than to the topic."""
AT_ZERO = 2
"""Topics at zero that count in the middle of a learner without built-in ones. Seen from right between two topics, all
that lies on one's side would be in it."""
NO_FIT = np.float32(-1.0)
"""Fit of a topic that has no example yet: as far as a photo can be from a prototype."""


@dataclass(frozen=True)
class TopicStatistics:
    """What is kept of a set of photos: how many, and the sum (d,) of their coordinates."""

    count: float
    total: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """Prototypes (K, d), the topic (column) of each and what is added to its fit; the last `against` push away.

    `usual` (topics,) is what photos of a topic fit it by on average, and `vagueness` (topics,) how little is known of
    where it lies (`Calibration`). `centre` (d,) is where directions are seen from, or None for zero.
    """

    prototypes: Floats
    column: npt.NDArray[np.intp]
    bonus: Floats
    against: int
    topics: int
    usual: Floats
    vagueness: Floats
    calibration: Calibration
    centre: Floats | None = None

    def fits(self, matrix: Floats) -> Floats:
        """How near photos are to topics, about -1 to 1: (N, topics) float32, for coordinates (N, d) of unit length."""
        out = np.full((self.topics, len(matrix)), NO_FIT, np.float32)
        if len(self.column):
            near = self._cosines(matrix)
            near += self.bonus[:, None]
            own = len(self.column) - self.against
            for row, column in zip(near[:own], self.column[:own], strict=True):
                np.maximum(out[column], row, out=out[column])
            for row, column in zip(near[own:], self.column[own:], strict=True):
                out[column] -= np.float32(PUSH) * np.maximum(row - out[column], 0)
        return out.T

    def _cosines(self, matrix: Floats) -> Floats:
        """Of photos to prototypes, times the prototypes' lengths: (K, N)."""
        near: Floats = self.prototypes @ matrix.T
        if self.centre is not None:  # |x - c|^2 = 1 - 2 xc + c^2, so that no copy of the library is made
            distance = 1 - 2 * (matrix @ self.centre) + self.centre @ self.centre
            near -= (self.prototypes @ self.centre)[:, None]
            near /= np.sqrt(np.maximum(distance, np.float32(1e-12)))
        return near

    def log_odds(self, matrix: Floats) -> Floats:
        """Calibrated log-odds (N, topics) float32 of coordinates (N, d)."""
        out = np.empty((len(matrix), self.topics), np.float32)
        for start in range(0, len(matrix), BLOCK):
            block = slice(start, start + BLOCK)
            out[block] = self.calibration.log_odds(self.fits(matrix[block]), self.usual, self.vagueness)
        return out


def fit_head(
    topics: Sequence[str],
    builtin: Mapping[str, TopicStatistics],
    positive: Mapping[str, TopicStatistics],
    negative: Mapping[str, TopicStatistics],
    calibration: Calibration,
    library: Library | None = None,
    known: Iterable[str] = (),
) -> Head:
    """The head for `topics`, whose order is that of its columns.

    `positive` and `negative` are what a family said; with a `library`, its photos but for the `known` ones expand what
    is positive.
    """
    shipped, own, against = (
        {name: statistics[name] for name in topics if name in statistics and statistics[name].count}
        for statistics in (builtin, positive, negative)
    )
    said = own
    if library is not None and own and builtin:
        own = sharpened(own, builtin, library, known)
    usual, vagueness = standards(topics, builtin, said, own, calibration.typical)
    centre = None if builtin else _middle([*own.values(), *against.values()])
    if centre is not None:
        own, against = ({name: _seen_from(centre, each) for name, each in part.items()} for part in (own, against))
    own_directions, own_bonus = _own_prototypes(own, builtin)
    directions = [_direction(each) for each in shipped.values()], own_directions, [*map(_direction, against.values())]
    column = {name: index for index, name in enumerate(topics)}
    prototypes = [direction for part in directions for direction in part]
    width = len(prototypes[0]) if prototypes else 0
    return Head(
        prototypes=np.array(prototypes, np.float32).reshape(len(prototypes), width),
        column=np.array([column[name] for name in (*shipped, *own, *against)], np.intp),
        bonus=np.concatenate([np.zeros(len(shipped), np.float32), own_bonus, np.zeros(len(against), np.float32)]),
        against=len(against),
        topics=len(topics),
        usual=usual,
        vagueness=vagueness,
        calibration=calibration,
        centre=None if centre is None else centre.astype(np.float32),
    )


def standards(
    topics: Sequence[str],
    builtin: Mapping[str, TopicStatistics],
    said: Mapping[str, TopicStatistics],
    own: Mapping[str, TopicStatistics],
    typical: float,
) -> tuple[Floats, Floats]:
    """What photos of each topic fit it by (T,), and how vague it is (T,); zeros where nothing is `typical`.

    Of a topic that a family made, `said` are its examples alone, `own` with what the library adds.
    """
    usual, vagueness = np.zeros((2, len(topics)), np.float32)
    for column, name in enumerate(topics if typical else ()):
        if name in builtin and builtin[name].count:
            usual[column] = closeness(builtin[name])
        elif name in own:
            expected, vagueness[column] = expectation(typical, said[name], own[name].count)
            usual[column] = expected * _gain(own[name].count) ** FEW + LEAN
    return usual, vagueness


def closeness(topic: TopicStatistics) -> float:
    """Mean cosine between photos of a topic and its direction."""
    return float(np.linalg.norm(topic.total)) / topic.count


def expectation(typical: float, said: TopicStatistics, count: float) -> tuple[float, float]:
    """Expected cosine of a topic's other photos to the mean of `count` of them, and the share of chance in that mean.

    `said` are its examples, which tell of how near its photos lie to its true direction: with k of them,
    (|total|^2 / k - 1) / (k - 1) is the square of that on average. It is mixed with `typical` squared, as if that had
    come from `PRIOR` examples.
    """
    squared = PRIOR * typical**2
    if said.count > 1:
        squared += float(said.total @ said.total) / said.count - 1
    squared = max(squared / (PRIOR + said.count - 1), 1e-3)
    chance = (1 - squared) / count
    return squared / float(np.sqrt(squared + chance)), (1 - TYPICAL**2) / (1 - TYPICAL**2 + count * TYPICAL**2)


def _middle(topics: Sequence[TopicStatistics]) -> npt.NDArray[np.float64] | None:
    """The mean (d,) of topics' means, whatever their sizes, shrunk towards zero while topics are few.

    None for a single topic, which has no direction then.
    """
    if len(topics) < 2:
        return None
    means = [each.total / each.count for each in topics]
    middle: npt.NDArray[np.float64] = np.sum(means, axis=0) / (len(topics) + AT_ZERO)
    return middle


def _seen_from(centre: npt.NDArray[np.float64], topic: TopicStatistics) -> TopicStatistics:
    return TopicStatistics(topic.count, topic.total - topic.count * centre)


def _own_prototypes(
    own: Mapping[str, TopicStatistics], builtin: Mapping[str, TopicStatistics]
) -> tuple[Floats, Floats]:
    """Directions (T, d) of what a family showed, and what is added to their fits (T,)."""
    directions = [_direction(statistics, name not in builtin) for name, statistics in own.items()]
    bonus = [0.0 if name in builtin else LEAN for name in own]
    return np.array(directions, np.float32), np.array(bonus, np.float32)


def sharpened(
    own: Mapping[str, TopicStatistics], builtin: Mapping[str, TopicStatistics], library: Library, known: Iterable[str]
) -> dict[str, TopicStatistics]:
    """What a family showed, with the photos of its library that stand out as belonging to it."""
    columns = {name: column for column, name in enumerate(builtin)}  # as `Library` has them
    owner = np.array([columns.get(name, -1) for name in own], np.intp)
    shown = dict(own)
    for _ in range(ROUNDS):
        rows = chosen(library, leads(library, *_own_prototypes(shown, builtin), owner), known)
        shown = {name: _expanded(own[name], take(library, each)) for name, each in zip(own, rows, strict=True)}
    return shown


def builtin_directions(builtin: Mapping[str, TopicStatistics]) -> Floats:
    """Directions (T, d) of topics that ship, as `Library` compares photos with."""
    return np.array([_direction(statistics) for statistics in builtin.values()], np.float32)


def _direction(statistics: TopicStatistics, new: bool = False) -> npt.NDArray[np.float64]:
    """The direction (d,) of a topic: of unit length, or a little longer for a new one of few photos."""
    length = max(float(np.linalg.norm(statistics.total)), 1e-12)
    return statistics.total / length * (_gain(statistics.count) ** FEW if new else 1.0)


def _expanded(shown: TopicStatistics, found: Floats) -> TopicStatistics:
    """A topic's statistics with photos (n, d) that were found to belong to it."""
    if not len(found):
        return shown
    worth = WORTH * len(found) / MOST
    return TopicStatistics(shown.count + worth, shown.total + worth * found.mean(axis=0, dtype=np.float64))


def _gain(count: float) -> float:
    """How much nearer photos would be to a topic's true direction than to the mean of `count` of them.

    With unit vectors whose mean has length r, the mean of k has squared length r^2 + (1 - r^2) / k on average, so
    that the expected cosine shrinks from r to r^2 divided by that length.
    """
    squared = TYPICAL**2
    return float(np.sqrt(1 + (1 - squared) / (squared * count)))
