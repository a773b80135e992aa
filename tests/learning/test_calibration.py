"""Confidence: fitted on held-out fits, it says how often it is right."""

from __future__ import annotations

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
    calibration = fit_calibration(fits[:3000], label[:3000], np.ones(3000))
    confidence = 1 / (1 + np.exp(-calibration.log_odds(fits[3000:])))
    right = fits[3000:].argmax(axis=1) == label[3000:]
    assert expected_calibration_error(confidence.max(axis=1), right) < 0.03
    pairs = label[3000:, None] == np.arange(6)
    assert expected_calibration_error(confidence.ravel(), pairs.ravel()) < 0.03
    plain = 1 / (1 + np.exp(-40 * fits[3000:].max(axis=1)))
    assert expected_calibration_error(plain, right) > 0.1


def test_the_best_topic_stays_the_best() -> None:
    random = np.random.default_rng(1)
    fits = random.uniform(-1, 1, (500, 7)).astype(np.float32)
    odds = Calibration((4, 10, -2), (2, 13, 3)).log_odds(fits)
    assert np.array_equal(odds[np.arange(500), fits.argmax(axis=1)], odds.max(axis=1))


def test_photos_of_no_topic_lower_confidence_where_the_fit_is_low() -> None:
    random = np.random.default_rng(2)
    fits = random.normal(0.1, 0.1, (4000, 5)).astype(np.float32)
    label = random.integers(0, 5, 4000)
    label[2000:] = -1
    fits[np.arange(2000), label[:2000]] += 0.4
    calibration = fit_calibration(fits, label, np.ones(4000))
    assert calibration.log_odds(np.array([[0.6, 0.1, 0, 0, 0]], np.float32)).max() > 1
    assert calibration.log_odds(np.array([[0.2, 0.1, 0, 0, 0]], np.float32)).max() < -1


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
