"""Which questions are chosen: doubtful ones, of young topics those that reach far, and no picture twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from homespun.learning.questions import ALMOST, choose, twins

NOBODY = np.zeros(2, np.bool_)


def unit(rows: list[list[float]]) -> np.ndarray:
    matrix = np.array(rows, np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_the_most_doubtful_comes_first_and_says_why() -> None:
    confidences = np.array([[0.95, 0.01], [0.6, 0.05], [0.4, 0.1]], np.float32)
    chosen = choose(np.eye(3, dtype=np.float32), confidences, confidences > 0.5, np.ones((3, 2), np.bool_), NOBODY, 3)
    assert chosen.rows.tolist() == [1, 2, 0]
    assert chosen.columns.tolist() == [0, 0, 0]
    assert chosen.reasons.tolist() == ["unsure", ALMOST, "alone"]


def test_of_a_young_topic_the_photo_with_most_of_its_like_comes_first() -> None:
    """One photo stands alone and is the most doubtful; four are like each other and nearly as doubtful."""
    matrix = unit([[0, 0, 1]] + [[1, 0.1 * n, 0] for n in range(4)])
    confidences = np.array([[0.45]] + [[0.42]] * 4, np.float32)
    asked = {}
    for young in (False, True):
        args = (confidences > 0.5, np.ones((5, 1), np.bool_), np.array([young]), 1)
        asked[young] = int(choose(matrix, confidences, *args).rows[0])
    assert asked[False] == 0 and asked[True] in range(1, 5)


def test_one_batch_asks_about_different_pictures_first() -> None:
    matrix = unit([[1, 0, 0], [1, 0.01, 0], [0, 1, 0]])
    confidences = np.array([[0.49], [0.48], [0.3]], np.float32)
    chosen = choose(matrix, confidences, confidences > 0.5, np.ones((3, 1), np.bool_), np.array([False]), 3)
    assert chosen.rows.tolist() == [0, 2, 1]


def test_a_photo_with_a_topic_that_stands_is_not_asked_what_else_it_is() -> None:
    confidences = np.array([[0.9, 0.4], [0.2, 0.4]], np.float32)
    open_ = np.array([[False, True], [True, True]])
    present = np.array([[True, False], [False, False]])
    chosen = choose(np.eye(2, dtype=np.float32), confidences, present, open_, NOBODY, 5)
    assert list(zip(chosen.rows.tolist(), chosen.columns.tolist(), strict=True)) == [(1, 1)]


@given(st.data())
def test_only_what_is_open_is_asked_and_of_each_photo_once(data: st.DataObject) -> None:
    photos, topics = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    confidences = random.random((photos, topics)).astype(np.float32)
    open_ = random.random((photos, topics)) < 0.5
    matrix = unit(random.normal(size=(photos, 5)).tolist())
    young = random.random(topics) < 0.5
    chosen = choose(matrix, confidences, confidences > 0.5, open_, young, data.draw(st.integers(0, 20)))
    assert open_[chosen.rows, chosen.columns].all()
    assert len(set(chosen.rows.tolist())) == len(chosen.rows)


def test_twins_are_photos_so_alike_that_an_answer_holds_for_both() -> None:
    matrix = unit([[1, 0], [1, 0.3], [0, 1]])
    found = twins(matrix, np.array([0, 0, 0]), matrix[:1], np.array([0]))
    assert found.tolist() == [True, True, False]
    assert not twins(matrix, np.array([1, 1, 1]), matrix[:1], np.array([0])).any()
