"""Doubts: wrong topics come before right ones, and each signal says what it should."""

from __future__ import annotations

import numpy as np

from homespun.learning.doubt import disagreement, doubt, rank, signals
from homespun.learning.evaluate import auroc
from homespun.learning.pretraining import fit_builtin
from tests.learning.samples import gaussian_topics


def test_wrong_topics_rank_first() -> None:
    features, topics = gaussian_topics(8, 40, seed=5, spread=0.9)
    learner = fit_builtin(features[::2], topics[::2], rank=24).learner()
    prepared = learner.prepare(features[1::2])
    confidences = learner.confidences(prepared)
    topic = confidences.argmax(axis=1)
    wrong = np.array(learner.topics)[topic] != np.array(topics[1::2])
    found = signals(prepared.matrix, confidences, topic)
    assert auroc(doubt(found), wrong) > 0.75
    order = rank(found)
    assert sorted(order) == list(range(len(wrong)))
    assert wrong[order[:16]].mean() > 2 * wrong.mean()


def test_each_signal_speaks_where_it_should() -> None:
    axes = np.eye(4, dtype=np.float32)
    matrix = axes[[0, 0, 0, 0, 1, 2]]
    confidences = np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]] + [[0.9, 0.1], [0.1, 0.05]], np.float32)
    topic = np.array([0, 0, 0, 1, 0, 0])
    found = signals(matrix, confidences, topic, rejected=axes[1:2], rejected_topic=np.array([0]))
    assert found.alone[3] > found.alone[0]  # its like are all in the other topic
    assert found.rejected[4] == 1 and found.rejected[0] == 0  # the very photo that a human took out
    assert found.strange.argmax() == 5  # nothing is likely
    assert np.allclose(found.unsure, 1 - confidences[np.arange(6), topic])
    assert found.reason()[5] == "unsure" and found.reason()[4] == "rejected"


def test_rejections_of_other_topics_say_nothing() -> None:
    matrix = np.eye(3, dtype=np.float32)
    confidences = np.full((3, 2), 0.6, np.float32)
    found = signals(matrix, confidences, np.zeros(3, np.intp), rejected=matrix[:1], rejected_topic=np.array([1]))
    assert not found.rejected.any()


def test_a_library_of_one_photo_has_no_neighbours() -> None:
    one = np.ones((1, 3), np.float32)
    assert disagreement(one, np.ones((1, 2), np.float32), np.array([0])).tolist() == [0]
