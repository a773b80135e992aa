"""Which questions to put to the family: photos that the album is probably wrong about, most useful first.

`Album.doubts` shows them. A question is a photo and a topic; what was answered, skipped or said in any other way is
not asked again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.album.scoring import Standing

# Questions looked at for each one that is asked, so that they can be spread over topics.
CANDIDATES_PER_QUESTION = 20


@dataclass(frozen=True, slots=True)
class Question:
    """A photo and a topic to ask about; `present` is what the album believes."""

    photo_id: int
    topic: str
    confidence: float
    present: bool
    reason: str


def questions(connection: sqlite3.Connection, standing: Standing, limit: int) -> list[Question]:
    """The most useful questions that were not asked yet, at most one of each photo."""
    doubt = np.minimum(standing.confidences, 1 - standing.confidences)
    doubt[~_open(connection, standing)] = 0.0
    best = _largest(doubt, limit * CANDIDATES_PER_QUESTION)
    asked: set[int] = set()
    chosen = []
    for cell in best:
        row, column = divmod(int(cell), doubt.shape[1])
        if row in asked or doubt[row, column] <= 0:
            continue
        asked.add(row)
        present = bool(standing.present[row, column])
        chosen.append(
            Question(
                photo_id=int(standing.ids[row]),
                topic=standing.topics[column].key,
                confidence=float(standing.confidences[row, column]),
                present=present,
                reason="unsure" if present else "almost",
            )
        )
        if len(chosen) == limit:
            break
    return chosen


def _open(connection: sqlite3.Connection, standing: Standing) -> npt.NDArray[np.bool_]:
    """Which cells (N, T) may be asked about: shown topics, photos with a file, nothing said or asked before."""
    shown = np.array([not topic.hidden for topic in standing.topics], dtype=np.bool_)
    cells = (standing.said == 0) & (standing.available & standing.scored)[:, None] & shown
    columns = {topic.id: column for column, topic in enumerate(standing.topics)}
    query = """
        SELECT question.photo_id, question.topic_id FROM question JOIN change ON change.id = question.change_id
        WHERE change.undone_at IS NULL
    """
    for photo_id, topic_id in connection.execute(query):
        row = standing.row(photo_id)
        if row is not None and topic_id in columns:
            cells[row, columns[topic_id]] = False
    return cells


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Flat indices of the largest values, largest first; ties by position, so that the order is always the same."""
    flat = values.ravel()
    some = np.argpartition(-flat, count)[:count] if count < len(flat) else np.arange(len(flat))
    return some[np.lexsort((some, -flat[some]))]
