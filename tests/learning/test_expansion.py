"""Unlabelled photos sharpen topics shown by few, exactly, and only where they stand out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.errors import OptionError, ShapeError
from homespun.learning import Prepared, TopicLearner
from homespun.learning.expansion import MOST, Library, chosen, leads
from homespun.learning.pretraining import fit_builtin
from tests.learning.samples import Floats, gaussian_topics

FEATURES, NAMES = gaussian_topics(9, 40, seed=3, spread=0.9)
TOPICS = np.array(NAMES)
KNOWN = np.flatnonzero(TOPICS < "t6")
NEW = np.flatnonzero(TOPICS >= "t6")
BUILTIN = fit_builtin(FEATURES[KNOWN], TOPICS[KNOWN].tolist(), rank=16)
KEYS = [f"p{row}" for row in range(len(FEATURES))]


def learner_with_library() -> TopicLearner:
    learner = BUILTIN.learner()
    learner.observe(learner.prepare(FEATURES), KEYS)
    return learner


def show(learner: TopicLearner, rows: list[int]) -> None:
    for row in rows:
        learner.learn(KEYS[row], FEATURES[row], positive=[NAMES[row]])


def accuracy(learner: TopicLearner, rows: np.ndarray) -> float:
    best = learner.scores(FEATURES[rows]).argmax(axis=1)
    return float((np.array(learner.topics)[best] == TOPICS[rows]).mean())


def test_one_photo_of_each_topic_goes_further_with_the_rest_of_the_library() -> None:
    gains = []
    for draw in range(10):
        random = np.random.default_rng(draw)
        rows = [int(random.choice(np.flatnonzero(name == TOPICS))) for name in ("t6", "t7", "t8")]
        asked = np.setdiff1d(NEW, rows)
        alone, together = BUILTIN.learner(), learner_with_library()
        show(alone, rows)
        show(together, rows)
        gains.append(accuracy(together, asked) - accuracy(alone, asked))
        assert accuracy(together, KNOWN) > accuracy(alone, KNOWN) - 0.05
    assert np.mean(gains) > 0.05 and min(gains) > -0.02


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, len(KEYS) - 1), unique=True, max_size=12), seed=st.integers(0, 99))
def test_with_a_library_no_order_and_no_detour_leaves_a_trace(rows: list[int], seed: int) -> None:
    one, other = learner_with_library(), learner_with_library()
    show(one, rows)
    for place in np.random.default_rng(seed).permutation(len(rows)):
        show(other, [rows[place]])
    expected = one.scores(FEATURES)
    assert np.array_equal(other.scores(FEATURES), expected)
    extra = [row for row in range(0, len(KEYS), 37) if row not in rows]
    known = set(one.topics)
    show(one, extra)
    for row in extra:
        one.forget(KEYS[row])
    for name in set(one.topics) - known:
        one.remove_topic(name)
    assert np.array_equal(one.scores(FEATURES), expected)


def test_a_photo_of_which_something_was_said_does_not_count_as_unlabelled() -> None:
    shown = int(NEW[0])
    near = _library().pieces[0] @ _library().pieces[0][shown]
    taken_out = int(np.argsort(near)[-2])
    one, other = learner_with_library(), BUILTIN.learner()
    without = np.delete(np.arange(len(KEYS)), taken_out)
    other.observe(other.prepare(FEATURES[without]), [KEYS[row] for row in without])
    for learner in (one, other):
        show(learner, [shown])
    assert not np.allclose(one.scores(FEATURES), other.scores(FEATURES), atol=1e-3)  # the premise: it had been chosen
    for learner in (one, other):
        learner.learn(KEYS[taken_out], FEATURES[taken_out], negative=["t0"])
    np.testing.assert_allclose(one.scores(FEATURES), other.scores(FEATURES), rtol=1e-4, atol=1e-4)


def test_a_library_in_which_nothing_stands_out_changes_nothing() -> None:
    shown = int(NEW[0])
    alone, together = BUILTIN.learner(), BUILTIN.learner()
    show(alone, [shown])
    direction = together.prepare(FEATURES[[shown]]).matrix
    lead = next(leads(_library(), 1.3 * direction, np.full(1, 0.02, np.float32), np.array([-1])))[0]
    rows = np.flatnonzero(lead < 0)
    together.observe(together.prepare(FEATURES[rows]), [KEYS[row] for row in rows])
    show(together, [shown])
    assert len(rows) > 100
    assert np.array_equal(alone.scores(FEATURES), together.scores(FEATURES))


def test_built_in_topics_do_not_move() -> None:
    learner = learner_with_library()
    assert np.array_equal(learner.scores(FEATURES), BUILTIN.learner().scores(FEATURES))


def test_a_library_in_pieces_counts_like_one_in_one_piece() -> None:
    whole, pieces = learner_with_library(), BUILTIN.learner()
    prepared = pieces.prepare(FEATURES)
    pieces.observe([Prepared(prepared.matrix[:7]), Prepared(prepared.matrix[7:200]), prepared[200:]], KEYS)
    for learner in (whole, pieces):
        show(learner, [int(NEW[0]), int(NEW[50]), 3])
    np.testing.assert_allclose(pieces.scores(FEATURES), whole.scores(FEATURES), rtol=1e-4, atol=1e-4)


def test_the_last_library_is_the_one_that_counts_and_none_is_none() -> None:
    learner, alone = learner_with_library(), BUILTIN.learner()
    learner.observe([], [])
    for each in (learner, alone):
        show(each, [int(NEW[0])])
    assert np.array_equal(learner.scores(FEATURES), alone.scores(FEATURES))


def test_misuse_is_named() -> None:
    learner = BUILTIN.learner()
    with pytest.raises(OptionError, match="2 keys for 360 photos"):
        learner.observe(learner.prepare(FEATURES), ["a", "b"])
    with pytest.raises(ShapeError, match="prepared"):
        learner.observe(Prepared(np.zeros((2, 5), np.float32)), ["a", "b"])


def test_choosing_against_a_loop_over_photos() -> None:
    library = _library()
    random = np.random.default_rng(0)
    directions = library.pieces[0][random.choice(len(FEATURES), 4, replace=False)]
    bonus = np.array([0.0, 0.02, 0.0, 0.02], np.float32)
    owner = np.array([2, -1, 0, -1])
    builtin = _builtin()
    expected: list[list[tuple[float, int]]] = [[], [], [], []]
    for row, photo in enumerate(library.pieces[0]):
        fits = [float(direction @ photo) + float(extra) for direction, extra in zip(directions, bonus, strict=True)]
        for column in range(4):
            rivals = [fits[other] for other in range(4) if other != column]
            rivals += [float(b @ photo) for index, b in enumerate(builtin) if index != owner[column]]
            if fits[column] >= 0.45:
                expected[column].append((fits[column] - max(rivals), row))
    rows = chosen(library, list(leads(library, directions, bonus, owner)), [KEYS[5], "unknown"])
    for column in range(4):
        best = sorted(((lead, row) for lead, row in expected[column] if lead >= 0.08 and row != 5), reverse=True)
        assert rows[column].tolist() == sorted(row for _, row in best[:MOST])
    assert max(map(len, rows)) == MOST  # the premise: there is a choice


def _builtin() -> Floats:
    totals = np.stack([statistics.total for statistics in BUILTIN.statistics.values()])
    return (totals / np.linalg.norm(totals, axis=1, keepdims=True)).astype(np.float32)


def _library() -> Library:
    return Library.beside(_builtin(), [BUILTIN.learner().prepare(FEATURES).matrix], KEYS)
