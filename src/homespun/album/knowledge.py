"""What the album has learnt, in numbers: how often it was right before people spoke, how well it knows each topic.

`Album.learnt` shows it; the log of changes and the current `Standing` are all that it is made from.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from homespun.album.asking_again import Beliefs
from homespun.album.model import Learnt, Need, Stretch, TopicKnowledge
from homespun.album.standing import Standing

# A stretch of the curve holds so many answers or more, and more the more answers there are: a share of few says little.
SHORTEST_STRETCH = 5
MOST_STRETCHES = 20
# Where new topics learn fastest: one photo more helps most before the fifth, much before the tenth (docs/learning.md).
STEPS_OF_PHOTOS = (5, 10)
# Answers about one topic that are suggested at once.
MOST_ANSWERS = 10


class Trial(NamedTuple):
    """A photo of which a person said something after the album had a belief: was it right in all of it?

    `again`: would it be today, had nobody told it? None where that can't be asked.
    """

    change_id: int
    made_at: str
    right: bool
    again: bool | None = None


def read_learnt(
    connection: sqlite3.Connection, standing: Standing, questions: Mapping[str, int], beliefs: Beliefs
) -> Learnt:
    """What the album has learnt; `questions` counts the questions that wait about a topic, by its key, and `beliefs`
    are what it would say of photos that people spoke of had nobody told it."""
    tests = read_tests(connection, beliefs)
    topics = read_topics(connection, standing, questions)
    return Learnt(
        answers=len(tests),
        right=sum(test.right for test in tests),
        curve=curve(tests),
        labels=int(np.count_nonzero(standing.said)),
        topics=topics,
        helpful=[known.topic.key for known in sorted(topics, key=_gain, reverse=True) if _gain(known) > 0],
        asked_again=sum(test.again is not None for test in tests),
        right_again=sum(test.again is True for test in tests),
    )


# Of each photo and topic only what holds now, against what the album believed when a person first spoke of it.
_TESTED = """
    SELECT said.photo_id, said.topic_id, min(said.change_id) AS change_id, said.believed, label.value, change.made_at
    FROM change_label AS said
    JOIN change ON change.id = said.change_id AND change.undone_at IS NULL AND change.kind IN ('label', 'answer')
    JOIN label ON label.photo_id = said.photo_id AND label.topic_id = said.topic_id
    WHERE said.believed IS NOT NULL
    GROUP BY said.photo_id, said.topic_id
"""


def read_tests(connection: sqlite3.Connection, beliefs: Beliefs) -> list[Trial]:
    """One test for each photo and change, oldest first; what was undone, or said of a photo before, is none."""
    query = f"""
        SELECT change_id, photo_id, made_at, topic_id, believed > 0.5, value > 0 FROM ({_TESTED})
        ORDER BY change_id, photo_id
    """
    tests = []
    for (change_id, photo_id), rows in groupby(connection.execute(query), key=lambda row: (row[0], row[1])):
        said = list(rows)
        now = [beliefs.get((photo_id, topic_id)) for _, _, _, topic_id, _, _ in said]
        again = None if None in now else now == [bool(value) for *_, value in said]
        tests.append(Trial(change_id, said[0][2], all(believed == value for *_, believed, value in said), again))
    return tests


def curve(tests: Sequence[Trial]) -> list[Stretch]:
    """How often the album was right, stretch by stretch of nearly the same number of answers each, oldest first.

    Nothing before there are `SHORTEST_STRETCH` answers: three answers say nothing.
    """
    count = min(len(tests) // SHORTEST_STRETCH, round(0.7 * math.sqrt(len(tests))), MOST_STRETCHES)
    bounds = [round(index * len(tests) / count) for index in range(count + 1)] if count else []
    return [
        Stretch(
            first=tests[start].made_at,
            last=tests[stop - 1].made_at,
            answers=stop - start,
            right=sum(test.right for test in tests[start:stop]),
            asked_again=sum(test.again is not None for test in tests[start:stop]),
            right_again=sum(test.again is True for test in tests[start:stop]),
        )
        for start, stop in pairwise(bounds)
    ]


def read_topics(
    connection: sqlite3.Connection, standing: Standing, questions: Mapping[str, int]
) -> list[TopicKnowledge]:
    """How well each shown topic is known, best first; last those of which that can't be said, fullest first."""
    query = f"SELECT topic_id, count(*), sum((believed > 0.5) = (value > 0)) FROM ({_TESTED}) GROUP BY topic_id"
    tested = {topic_id: (int(count), int(right)) for topic_id, count, right in connection.execute(query)}
    found = []
    for column, numbers in enumerate(standing.topic_numbers()):
        if numbers.hidden:
            continue
        automatic = standing.member[:, column] & (standing.said[:, column] == 0)
        count = int(np.count_nonzero(automatic))
        wrong = float((1 - standing.confidences[automatic, column]).sum())
        examples = int(np.count_nonzero(standing.said[:, column] == 1))
        need, needed = _need(numbers.builtin, examples, questions.get(numbers.key, 0), wrong)
        asked, right = tested.get(standing.topics[column].id, (0, 0))
        found.append(
            TopicKnowledge(
                topic=numbers,
                sure=1 - wrong / count if count and not _young(numbers.builtin, examples) else None,
                wrong=wrong,
                examples=examples,
                tested=asked,
                right=right,
                questions=questions.get(numbers.key, 0),
                need=need,
                needed=needed,
            )
        )
    return sorted(found, key=lambda known: (known.sure is None, -(known.sure or known.topic.photos), known.topic.key))


def _young(builtin: bool, examples: int) -> bool:
    """Whether a topic was shown by so few photos that confidence in it is too high (docs/learning.md)."""
    return not builtin and examples < STEPS_OF_PHOTOS[0]


def _need(builtin: bool, examples: int, questions: int, wrong: float) -> tuple[Need, int]:
    """What would help a topic most, and how much of it."""
    if _young(builtin, examples):
        return "photos", STEPS_OF_PHOTOS[0] - examples
    if questions and wrong >= 1:
        return "answers", min(questions, MOST_ANSWERS, round(wrong))
    if not builtin and examples < STEPS_OF_PHOTOS[1]:
        return "photos", STEPS_OF_PHOTOS[1] - examples
    return "nothing", 0


def _gain(known: TopicKnowledge) -> float:
    """How much a topic would gain by what it needs: photos that are probably wrong, and more for a topic of few.

    Confidence is too high while a topic has one or two photos, so those come first whatever it says.
    """
    if known.need == "nothing":
        return 0.0
    few = max(0, STEPS_OF_PHOTOS[0] - known.examples) if known.need == "photos" else 0
    return 1000.0 * few + known.wrong + 0.01
