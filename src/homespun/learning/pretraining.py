"""Makes built-in topics from labelled features: the space, each topic's statistics and the calibration.

What a maker runs once, on photos of its own (`tools/train_builtin_topics.py`); a `TopicLearner` starts from the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.errors import OptionError
from homespun.learning.calibration import Calibration, fit_calibration
from homespun.learning.head import TopicStatistics, closeness, fit_head
from homespun.learning.newcomers import Lesson, fit_newcomers, lessons
from homespun.learning.space import GRID, FeatureSpace, Floats, unit_roots
from homespun.learning.topic_learner import TopicLearner

RANK = 256
"""Coordinates kept: more add nothing (see docs/learning.md) and cost memory for every photo."""
SHRINKAGE = 0.1
"""Share of the covariance within topics that is taken to be alike on all axes."""
UNSEEN = 0.8
"""Share of the spread between topics taken to lie where photos of one topic differ, too: topics yet unknown."""
FOLDS = 4
STRANGERS = 0.03
"""Weight of a photo of a left-out topic beside one of a known topic when confidence is calibrated."""

Labels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class BuiltinTopics:
    """What `fit_builtin` makes. `held_out` (N, topics) are log-odds of photos by learners that did not see them."""

    space: FeatureSpace
    statistics: dict[str, TopicStatistics]
    calibration: Calibration
    held_out: Floats

    def learner(self) -> TopicLearner:
        """A learner that has these topics built in."""
        return TopicLearner.from_statistics(self.space, self.statistics, self.calibration)


def fit_builtin(
    features: npt.NDArray[np.floating],
    topics: Sequence[str],
    groups: Sequence[str] | None = None,
    rank: int = RANK,
    calibration: Calibration | None = None,
) -> BuiltinTopics:
    """Built-in topics from features (N, D) and the topic of each; deterministic.

    `groups` (N) says what belongs together (a source, an event): where confidence is calibrated on held-out photos,
    neighbours in a group are held out together. A `calibration` that is given is kept, and nothing is held out. Raises
    OptionError for fewer than two topics, or one with fewer than `FOLDS` photos.
    """
    names, label = np.unique(np.asarray(topics), return_inverse=True)
    counts = np.bincount(label)
    if len(names) < 2 or counts.min() < FOLDS:
        raise OptionError(f"built-in topics need two topics or more, each with {FOLDS} photos or more")
    roots = unit_roots(features)
    mean = roots.mean(axis=0, dtype=np.float64)
    basis = _main_axes(roots, mean, min(2 * rank, features.shape[1]))
    rows = (roots - mean) @ basis  # the folds work in here, which holds nearly all of the variance
    known = usual = np.zeros((len(label) if calibration is None else 0, len(names)), np.float32)
    if calibration is None:
        fold = _folds(label, None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1])
        (known, usual), (strangers, usual_then) = _cross_validate(rows, label, fold, rank)
        calibration = fit_calibration(
            np.concatenate([known - usual, strangers - usual_then]),
            np.concatenate([known, strangers]).argmax(axis=1),
            np.concatenate([label, np.full(len(label), -1)]),
            np.repeat([1.0, STRANGERS if len(names) > FOLDS else 0.0], len(label)),
        )
        held = _left_out(rows, label, fold, rank) if len(names) > FOLDS else []
        calibration = fit_newcomers(calibration, held)
    projection = (basis @ _axes(rows, label, rank)).astype(np.float16)
    space = FeatureSpace(mean.astype(np.float32), projection)
    steps = np.rint(space.project(features).astype(np.float64) * GRID)
    statistics = {
        str(name): TopicStatistics(int(counts[index]), steps[label == index].sum(axis=0) / GRID)
        for index, name in enumerate(names)
    }
    clear = np.zeros(len(names), np.float32)
    return BuiltinTopics(space, statistics, calibration, calibration.log_odds(known, usual, clear))


def _cross_validate(
    rows: npt.NDArray[np.float64], label: Labels, fold: Labels, rank: int
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Fits and usual fits, (N, topics) each: of photos that the topics did not see, and of photos of unknown topics."""
    topics = np.arange(int(label.max()) + 1)
    known, usual, strangers, usual_then = np.empty((4, len(label), len(topics)), np.float32)
    for index in range(FOLDS):
        test = fold == index
        known[test], usual[test] = _held_out(rows, label, ~test, test, topics, rank)
        others = np.flatnonzero(topics % FOLDS != index) if len(topics) > FOLDS else topics
        test = label % FOLDS == index  # whole topics
        strangers[test], usual_then[test] = _held_out(rows, label, np.isin(label, others), test, others, rank)
    return (known, usual), (strangers, usual_then)


def _held_out(
    rows: npt.NDArray[np.float64],
    label: Labels,
    train: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    known: Labels,
    rank: int,
) -> tuple[Floats, Floats]:
    """Fits (M, topics) of the rows `test` by topics `known` as learnt from the rows `train`; others fit not at all.

    Beside them what is usual for those topics, (topics,).
    """
    near, statistics = _learnt(rows, label, train, known, rank)
    names = [_name(topic) for topic in range(int(label.max()) + 1)]
    head = fit_head(names, statistics, {}, {}, Calibration())
    usual = [closeness(statistics[name]) if name in statistics else 0 for name in names]
    return head.fits(near[test]), np.array(usual, np.float32)


def _left_out(rows: npt.NDArray[np.float64], label: Labels, fold: Labels, rank: int) -> list[Lesson]:
    """Lessons about new topics: for each fold every other topic is left out, and photos of the others are held out."""
    topics = np.arange(int(label.max()) + 1)
    random = np.random.default_rng(0)
    result = []
    for index in range(FOLDS):
        known = np.flatnonzero(topics % 2 != index % 2)
        train = (fold != index) & np.isin(label, known)
        near, statistics = _learnt(rows, label, train, known, rank)
        held = np.flatnonzero((fold == index) & np.isin(label, known))
        new = {_name(topic): near[label == topic] for topic in topics if topic not in known}
        result += lessons(statistics, near[held], [_name(topic) for topic in label[held]], new, random)
    return result


def _learnt(
    rows: npt.NDArray[np.float64], label: Labels, train: npt.NDArray[np.bool_], known: Labels, rank: int
) -> tuple[Floats, dict[str, TopicStatistics]]:
    """Coordinates (N, d) of all rows in the space of the rows `train`, and what those say of the topics `known`."""
    place = np.searchsorted(known, label[train])
    near = _unit(rows @ _axes(rows[train], place, rank))
    statistics = {
        _name(topic): TopicStatistics(int((place == index).sum()), near[train][place == index].sum(axis=0))
        for index, topic in enumerate(known)
    }
    return near.astype(np.float32), statistics


def _name(topic: int | np.intp) -> str:
    return f"{topic:04}"


def _axes(rows: npt.NDArray[np.float64], label: Labels, rank: int) -> npt.NDArray[np.float64]:
    """Axes (p, d) on which one topic varies alike, those that tell topics apart best first.

    Linear discriminant analysis with covariances shrunk by fixed shares: within towards the unit matrix, between
    towards the one within, since topics that a family invents differ in more ways than the built-in ones.
    """
    width, topics = rows.shape[1], int(label.max()) + 1
    centres = np.stack([rows[label == topic].mean(axis=0) for topic in range(topics)])
    inside = rows - centres[label]
    raw = inside.T @ inside / max(len(rows) - topics, 1)
    within = (1 - SHRINKAGE) * raw + (SHRINKAGE * np.trace(raw) / width + 1e-12) * np.eye(width)
    apart = centres - centres.mean(axis=0)
    seen = apart.T @ apart / (topics - 1)
    between = (1 - UNSEEN) * seen + UNSEEN * np.trace(seen) / max(np.trace(raw), 1e-12) * raw
    whiten = np.linalg.inv(np.linalg.cholesky(within))
    vectors = np.linalg.eigh(whiten @ between @ whiten.T)[1]
    chosen = whiten.T @ vectors[:, ::-1][:, : min(rank, width)]
    scaled: npt.NDArray[np.float64] = chosen / np.abs(chosen).max()
    return scaled  # so that it fits half precision; lengths are made one afterwards


def _main_axes(roots: Floats, mean: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """The `count` principal axes (D, count) of rows (N, D)."""
    centred = roots - mean
    axes: npt.NDArray[np.float64] = np.linalg.eigh(centred.T @ centred)[1]
    return axes[:, ::-1][:, :count]


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def _folds(label: Labels, group: Labels | None) -> Labels:
    """Fold of each row: each topic's rows, sorted by group, in FOLDS runs of neighbours."""
    fold = np.empty(len(label), np.intp)
    for topic in range(int(label.max()) + 1):
        rows = np.flatnonzero(label == topic)
        if group is not None:
            rows = rows[np.argsort(group[rows], kind="stable")]
        fold[rows] = np.arange(len(rows)) * FOLDS // len(rows)
    return fold
