"""How confidence changes with few photos: measured on built-in topics that are left out and learnt anew as new ones.

`pretraining` runs it once; what comes out ships with the calibration (`Calibration.typical` and `vague`), so that a
topic which a family makes is doubted as its number of photos deserves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from homespun.learning.calibration import Calibration
from homespun.learning.expansion import Library
from homespun.learning.head import TopicStatistics, builtin_directions, fit_head, sharpened, standards
from homespun.learning.space import Floats

SHOTS = (1, 2, 5, 10, 20)
"""Photos that left-out topics are learnt from, but never more than half of theirs."""
TYPICAL = tuple(value / 40 for value in range(16, 33))
"""Candidates for `Calibration.typical`. Coarse on purpose: the last digits of a sum must not choose."""
OF_FEW = (0.6, 1.0)
"""`typical` and `vague` where built-in topics are too few to leave any out: about what thirty of them give."""
VAGUE = (-6.0, 3.0)
"""Limits of the logarithm of `Calibration.vague`."""
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Lesson:
    """Topics learnt anew from few photos, and photos to ask about: their fits (N, topics) and true topics (N,).

    `shown` is what was said of the new topics, `own` the same with what the library adds.
    """

    topics: tuple[str, ...]
    builtin: dict[str, TopicStatistics]
    shown: dict[str, TopicStatistics]
    own: dict[str, TopicStatistics]
    fits: Floats
    label: Labels


def lessons(
    builtin: dict[str, TopicStatistics],
    known: Floats,
    known_topic: Sequence[str],
    left_out: dict[str, Floats],
    random: np.random.Generator,
) -> list[Lesson]:
    """One lesson for each of `SHOTS`: topics `left_out` (name to coordinates (n, d)) beside `builtin` ones.

    Of each left-out topic one half of the photos, drawn at `random`, may be shown, and the other half is asked about,
    beside photos `known` (M, d) of built-in topics that those were not made from. All that are asked about are the
    library, too.
    """
    mixed = {name: random.permutation(rows) for name, rows in left_out.items()}
    asked = {name: rows[len(rows) // 2 :] for name, rows in mixed.items()}
    photos = np.concatenate([known, *asked.values()])
    truth = [*known_topic, *(name for name, rows in asked.items() for _ in rows)]
    library = Library.beside(builtin_directions(builtin), [photos], [str(row) for row in range(len(photos))])
    topics = (*builtin, *left_out)
    label = np.array([topics.index(name) for name in truth], np.intp)
    result = []
    for shots in SHOTS:
        shown = {name: rows[: min(shots, len(rows) // 2)].astype(np.float64) for name, rows in mixed.items()}
        said = {name: TopicStatistics(len(rows), rows.sum(axis=0)) for name, rows in shown.items() if len(rows)}
        own = sharpened(said, builtin, library, ())
        fits = fit_head(topics, builtin, own, {}, Calibration()).fits(photos)
        result.append(Lesson(topics, builtin, said, own, fits, label))
    return result


def fit_newcomers(calibration: Calibration, held: Sequence[Lesson]) -> Calibration:
    """The same calibration with the `typical` and the `vague` that make what photos are in `held` most likely."""
    if not held:
        return replace(calibration, typical=OF_FEW[0], vague=OF_FEW[1])
    candidates = [_vague(replace(calibration, typical=typical), held) for typical in TYPICAL]
    return min(candidates, key=lambda found: found[0])[1]


def _vague(calibration: Calibration, held: Sequence[Lesson]) -> tuple[float, Calibration]:
    """Mean loss, and the calibration with the best `vague`: golden-section search (Kiefer 1953)."""
    ready = []
    for lesson in held:
        usual, vagueness = standards(lesson.topics, lesson.builtin, lesson.shown, lesson.own, calibration.typical)
        line, against = calibration.evidence(lesson.fits, usual, vagueness)
        ready.append((line, against, lesson.fits.argmax(axis=1) == lesson.label))

    def loss(vague: float) -> float:
        return sum(
            float(np.logaddexp(0, np.where(right, 1, -1) * np.logaddexp(-line, vague + against)).mean())
            for line, against, right in ready
        ) / len(ready)

    low, high = VAGUE
    ratio = (5**0.5 - 1) / 2
    while high - low > 1e-3:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    middle = (low + high) / 2
    return loss(middle), replace(calibration, vague=float(np.exp(middle)))
