"""Confidence: fitted on held-out fits, it says how often it is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from homespun.learning.calibration import Calibration, expected_calibration_error, fit_calibration, reliability
from homespun.learning.pretraining import fit_builtin
from tests.learning.samples import gaussian_topics


def test_a_fitted_calibration_is_right_on_other_photos() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 6, 6000)
    fits = random.normal(0.1, 0.15, (6000, 6)).astype(np.float32)
    fits[np.arange(6000), label] += 0.25
    calibration = fit_calibration(fits[:3000], fits[:3000].argmax(axis=1), label[:3000], np.ones(3000))
    confidence = 1 / (1 + np.exp(-calibration.log_odds(fits[3000:], np.zeros(6, np.float32), np.zeros(6, np.float32))))
    right = fits[3000:].argmax(axis=1) == label[3000:]
    assert expected_calibration_error(confidence.max(axis=1), right) < 0.03
    pairs = label[3000:, None] == np.arange(6)
    assert expected_calibration_error(confidence.ravel(), pairs.ravel()) < 0.03
    plain = 1 / (1 + np.exp(-40 * fits[3000:].max(axis=1)))
    assert expected_calibration_error(plain, right) > 0.1


def test_the_best_topic_stays_the_best() -> None:
    random = np.random.default_rng(1)
    fits = random.uniform(-1, 1, (500, 7)).astype(np.float32)
    odds = Calibration((4, 10, -2), (2, 13, 3)).log_odds(fits, np.zeros(7, np.float32), np.zeros(7, np.float32))
    assert np.array_equal(odds[np.arange(500), fits.argmax(axis=1)], odds.max(axis=1))


def test_photos_of_no_topic_lower_confidence_where_the_fit_is_low() -> None:
    random = np.random.default_rng(2)
    fits = random.normal(0.1, 0.1, (4000, 5)).astype(np.float32)
    label = random.integers(0, 5, 4000)
    label[2000:] = -1
    fits[np.arange(2000), label[:2000]] += 0.4
    calibration = fit_calibration(fits, fits.argmax(axis=1), label, np.ones(4000))
    none = np.zeros(5, np.float32)
    assert calibration.log_odds(np.array([[0.6, 0.1, 0, 0, 0]], np.float32), none, none).max() > 1
    assert calibration.log_odds(np.array([[0.2, 0.1, 0, 0, 0]], np.float32), none, none).max() < -1


@pytest.mark.parametrize(
    ("confidence", "right", "error"),
    [([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0], 0.0), ([1.0, 1.0], [0, 0], 1.0), ([0.5, 1.0], [1, 1], 0.25)],
)
def test_expected_calibration_error(confidence: list[float], right: list[int], error: float) -> None:
    given = np.array(confidence, np.float32), np.array(right, np.bool_)
    assert expected_calibration_error(*given) == pytest.approx(error)
    assert sum(share for _, _, share in reliability(*given)) == pytest.approx(1)


def test_built_in_topics_know_how_sure_they_are() -> None:
    features, topics = gaussian_topics(8, 40, seed=3, spread=0.9)
    built = fit_builtin(features[::2], topics[::2], rank=24)
    learner = built.learner()
    confidence = learner.confidences(features[1::2])
    right = np.array(learner.topics)[confidence.argmax(axis=1)] == np.array(topics[1::2])
    assert 0.5 < right.mean() < 0.98  # hard enough that confidence matters
    assert expected_calibration_error(confidence.max(axis=1), right) < 0.12


def test_the_same_photos_make_the_same_built_in_topics() -> None:
    features, topics = gaussian_topics(6, 10)
    one, other = fit_builtin(features, topics), fit_builtin(features, topics)
    assert np.array_equal(one.space.projection, other.space.projection)
    assert one.calibration == other.calibration


def test_a_fit_counts_less_where_more_is_usual() -> None:
    calibration = Calibration((4, 10, 1), (4, 10, -1), typical=0.6)
    fits, none = np.array([[0.5, 0.1], [0.1, 0.5]], np.float32), np.zeros(2, np.float32)
    odds = calibration.log_odds(fits, np.array([0.7, 0.4], np.float32), none)
    assert odds[1, 1] == pytest.approx(4 * 0.1 + 10 * 0.7 + 1, abs=1e-5)
    assert odds[0, 0] == pytest.approx(4 * -0.2 + 10 * 0.1 + 1, abs=1e-5)


def test_a_vague_topic_speaks_against_the_best_one_as_far_as_it_is_near() -> None:
    plain = Calibration((4, 10, 1), (4, 10, -1), typical=0.6)
    calibration, usual = replace(plain, vague=2.0), np.full(3, 0.6, np.float32)
    fits = np.array([[0.6, 0.45, 0.5], [0.6, 0.1, 0.5], [0.5, 0.6, 0.0]], np.float32)
    before = plain.log_odds(fits, usual, np.zeros(3, np.float32))
    assert np.array_equal(calibration.log_odds(fits, usual, np.zeros(3, np.float32)), before)
    after = calibration.log_odds(fits, usual, np.array([0, 0.5, 0], np.float32))
    against = np.exp(-before[:2, 0]) + 2 * 0.5 * np.exp(10 * (fits[:2, 1] - fits[:2, 0]))
    assert np.allclose(after[:2, 0], -np.log(against), atol=1e-4)
    assert before[0, 0] - after[0, 0] > before[1, 0] - after[1, 0] > 0
    assert after[2, 1] == pytest.approx(before[2, 1], abs=1e-4)  # a topic doesn't speak against itself
    assert np.array_equal(after.argmax(axis=1), fits.argmax(axis=1))


def test_new_topics_are_doubted_as_their_number_of_photos_deserves() -> None:
    features, topics = gaussian_topics(24, 40, seed=4, spread=0.8)
    rows = np.arange(40 * 24).reshape(24, 40)
    known = rows[:14, :20].ravel()
    built = fit_builtin(features[known], [topics[row] for row in known], rank=24)
    asked = np.concatenate([rows[:14, 20:].ravel(), rows[14:, 20:].ravel()])
    bare = fit_builtin(
        features[known], [topics[row] for row in known], rank=24, calibration=_without(built.calibration)
    )
    errors = {}
    for name, learner in (("as it is", built.learner()), ("nothing vague", bare.learner())):
        for row in rows[14:, 0]:
            learner.learn(str(row), features[row], positive=[topics[row]])
        confidence = learner.confidences(features[asked])
        right = np.array(learner.topics)[confidence.argmax(axis=1)] == np.array(topics)[asked]
        assert 0.4 < right.mean() < 0.9
        errors[name] = expected_calibration_error(confidence.max(axis=1), right)
    assert errors["as it is"] < 0.75 * errors["nothing vague"]


def _without(calibration: Calibration) -> Calibration:
    return replace(calibration, vague=0.0)


def test_topics_whose_photos_differ_more_are_said_to_do_so() -> None:
    typical = []
    for spread in (0.3, 0.9):
        features, topics = gaussian_topics(8, 40, seed=3, spread=spread)
        typical.append(fit_builtin(features, topics, rank=24).calibration.typical)
    assert typical[0] > typical[1] + 0.05
