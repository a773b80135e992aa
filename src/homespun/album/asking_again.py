"""What the album would say today of photos that people spoke of, had nobody spoken of them: how far it has come.

`knowledge` holds this against what the album believed before it was told. Photos are divided into parts by the day on
which they were taken, and each part is asked of a learner that was told of all the others (cross-validation: Stone,
"Cross-Validatory Choice and Assessment of Statistical Predictions", 1974), so that no photo is known from itself or
from its like of the same day.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from homespun.album.features import PreparedPhotos
from homespun.album.learnt import Example, Feature
from homespun.album.scoring import read_examples
from homespun.album.standing import Standing
from homespun.album.store import read_features
from homespun.learning import Prepared, TopicLearner
from homespun.learning.task import divide

PARTS = 10
OBSERVED = 8192
"""Photos of the library that the learner looks around at, at most: the page must not wait for a large one."""

Beliefs = dict[tuple[int, int], bool]
"""By the ids of a photo and a topic: whether it is believed to be in it."""


def ask_again(
    connection: sqlite3.Connection,
    standing: Standing,
    backbone: str,
    new_learner: Callable[[], TopicLearner],
    photos: PreparedPhotos | None,
) -> Beliefs:
    """What is believed of every photo that people spoke of and that has a feature of this backbone.

    `new_learner` makes a learner that nobody has told anything; with `photos` it looks around at the library.
    """
    examples = read_examples(connection, standing.topics)
    ids, vectors = read_features(connection, backbone, map(int, examples))
    features = {str(number): vector for number, vector in zip(ids.tolist(), vectors, strict=True)}
    examples = {key: example for key, example in examples.items() if key in features}
    rows = {str(number): row for number, *row in connection.execute("SELECT id, content_hash, sort_date FROM photo")}
    parts = divide([rows[key][0] for key in examples], [rows[key][1][:10] for key in examples], PARTS)
    learner = new_learner()
    for topic in standing.topics:
        if topic.key not in learner.topics:
            learner.add_topic(topic.key)
    if photos is not None:
        _look_around(learner, photos)
    found = held_out(learner, examples, features, dict(zip(examples, parts.tolist(), strict=True)))
    columns = [(topic.id, learner.topics.index(topic.key)) for topic in standing.topics]
    return {(int(key), topic): bool(row[column]) for key, row in found.items() for topic, column in columns}


def held_out(
    learner: TopicLearner, examples: Mapping[str, Example], features: Mapping[str, Feature], parts: Mapping[str, int]
) -> dict[str, npt.NDArray[np.bool_]]:
    """The topics (T,) that a learner puts each photo in while it knows all parts of the examples but the photo's own.

    The learner is left with all of them learnt.
    """

    def learn(key: str) -> None:
        learner.learn(key, features[key], positive=examples[key].positive, negative=examples[key].negative)

    for key in examples:
        learn(key)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for part in sorted(set(parts.values())):
        held = [key for key in examples if parts[key] == part]
        for key in held:
            learner.forget(key)
        present = learner.present(np.stack([features[key] for key in held]))
        found.update(zip(held, present, strict=True))
        for key in held:
            learn(key)
    return found


def _look_around(learner: TopicLearner, photos: PreparedPhotos) -> None:
    ids, pieces = photos.pieces()
    step = -(-len(ids) // OBSERVED) or 1
    ends = np.cumsum([0, *map(len, pieces)])
    keys = [str(number) for start, end in pairwise(ends) for number in ids[start:end:step].tolist()]
    learner.observe([Prepared(piece[::step]) for piece in pieces], keys)
