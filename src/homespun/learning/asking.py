"""What answers are worth by how photos to ask about are chosen: curves for `evaluate`, with `questions` and without.

A simulated family answers truly whether a photo is in the topic that it is asked about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from homespun.learning import questions
from homespun.learning.topic_learner import TopicLearner

ANSWERS = 50
BATCH = 10
"""Questions that are chosen at once, as the album's page has them."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Said = npt.NDArray[np.int8]
Booleans = npt.NDArray[np.bool_]
Chosen = tuple[Rows, Rows]
Chooser = Callable[[Floats, Floats, Said, Booleans, np.random.Generator], Chosen]


def by_worth(matrix: Floats, confidences: Floats, said: Said, young: Booleans, random: np.random.Generator) -> Chosen:
    """As the album asks."""
    present = (said == 1) | ((confidences > 0.5) & (said == 0))
    rejected, rejected_topic = np.nonzero(said < 0)
    chosen = questions.choose(matrix, confidences, present, said == 0, young, BATCH, matrix[rejected], rejected_topic)
    return chosen.rows, chosen.columns


def by_margin(matrix: Floats, confidences: Floats, said: Said, young: Booleans, random: np.random.Generator) -> Chosen:
    """Photos whose two likeliest topics are closest, of which nothing was said yet; asked about the likelier."""
    two = np.sort(confidences, axis=1)[:, -2:]
    margin = np.where((said == 0).all(axis=1), two[:, 1] - two[:, 0], np.inf)
    rows = np.argsort(margin, kind="stable")[:BATCH]
    return rows, confidences[rows].argmax(axis=1)


def by_chance(matrix: Floats, confidences: Floats, said: Said, young: Booleans, random: np.random.Generator) -> Chosen:
    """Any photos of which nothing was said yet, each asked about its likeliest topic: reviewing at random."""
    fresh = np.flatnonzero((said == 0).all(axis=1))
    rows = random.permutation(fresh)[:BATCH]
    return rows, confidences[rows].argmax(axis=1)


CHOOSERS: dict[str, Chooser] = {"album": by_worth, "margin": by_margin, "random": by_chance}


def curves(
    start: Callable[[], TopicLearner],
    features: Floats,
    truth: npt.NDArray[np.str_],
    own: Collection[str],
    judge: Callable[[TopicLearner], float],
    seed: int,
) -> dict[str, dict[str, float]]:
    """For each way to choose, what `judge` says of the learner after 0, 10, ... `ANSWERS` answers.

    `features` (N, D) are those of the photos that may be asked about and `truth` (N,) their topics, of which `own` are
    not built in; `start` makes the learner to begin with, anew for each way.
    """
    return {
        name: _curve(start(), features, truth, own, judge, choose, np.random.default_rng(seed))
        for name, choose in CHOOSERS.items()
    }


def _curve(
    learner: TopicLearner,
    features: Floats,
    truth: npt.NDArray[np.str_],
    own: Collection[str],
    judge: Callable[[TopicLearner], float],
    choose: Chooser,
    random: np.random.Generator,
) -> dict[str, float]:
    prepared = learner.prepare(features)
    names = np.array(learner.topics)
    said = np.zeros((len(features), len(names)), np.int8)
    found = {"0": judge(learner)}
    for answered in range(BATCH, ANSWERS + 1, BATCH):
        examples = Counter(name for key in learner.keys for name in learner.example(key)[0])
        young = np.array([name in own and examples[name] < questions.YOUNG for name in names])
        rows, columns = choose(prepared.matrix, learner.confidences(prepared), said, young, random)
        said[rows, columns] = np.where(truth[rows] == names[columns], 1, -1)
        for row in rows:
            learner.learn(f"asked {row}", features[row], names[said[row] > 0].tolist(), names[said[row] < 0].tolist())
        found[str(answered)] = judge(learner)
    return found
