"""Which questions to put to the family: photos that the album is probably wrong about, most useful first.

`Album.doubts` shows them. A question is a photo and a topic; what was answered, skipped or said in any other way is
not asked again, and neither is the same topic of a copy of the photo.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.album.features import PreparedPhotos
from homespun.album.standing import Standing
from homespun.learning import questions as choosing

# Answers and rejections that further questions are held against: the newest.
NEWEST = 2000


@dataclass(frozen=True, slots=True)
class Question:
    """A photo and a topic to ask about; `present` is what the album believes."""

    photo_id: int
    topic: str
    confidence: float
    present: bool
    reason: str


def questions(connection: sqlite3.Connection, standing: Standing, photos: PreparedPhotos, limit: int) -> list[Question]:
    """The most useful questions that were not asked yet, at most one of each photo (`learning.questions` chooses)."""
    if not standing.member.size:
        return []
    asked = _asked(connection, standing)
    cells = _open(standing, asked)
    sureness = np.minimum(standing.confidences, 1 - standing.confidences)
    sureness[~cells] = 0.0
    rows = _largest(sureness.max(axis=1), choosing.CANDIDATES)
    rows = np.sort(rows[sureness[rows].max(axis=1) > 0])
    if not len(rows):
        return []
    matrix, cells = photos.take(standing.ids[rows]), cells[rows]
    _close_twins(cells, matrix, standing, photos, asked)
    examples = np.count_nonzero(standing.said == 1, axis=0)
    young = np.array([not topic.builtin for topic in standing.topics], np.bool_) & (examples < choosing.YOUNG)
    said_no, of_topic = (found[-NEWEST:] for found in np.nonzero((standing.said < 0) & standing.scored[:, None]))
    chosen = choosing.choose(
        matrix,
        standing.confidences[rows],
        standing.member[rows],
        cells,
        young,
        limit,
        photos.take(standing.ids[said_no]),
        of_topic,
    )
    return [
        Question(
            photo_id=int(standing.ids[rows[row]]),
            topic=standing.topics[column].key,
            confidence=float(standing.confidences[rows[row], column]),
            present=bool(standing.member[rows[row], column]),
            reason=str(reason),
        )
        for row, column, reason in zip(chosen.rows, chosen.columns, chosen.reasons, strict=True)
    ]


def _close_twins(
    cells: npt.NDArray[np.bool_],
    matrix: npt.NDArray[np.float32],
    standing: Standing,
    photos: PreparedPhotos,
    asked: list[tuple[int, int]],
) -> None:
    """Takes from `cells` (M, T), of photos `matrix` (M, d), those whose twin was asked about: copies, and bursts."""
    known = [(row, column) for row, column in asked if standing.scored[row]][-NEWEST:]
    if not known:
        return
    asked_rows, asked_columns = np.array(known, np.intp).T
    rows, columns = np.nonzero(cells)
    again = choosing.twins(matrix[rows], columns, photos.take(standing.ids[asked_rows]), asked_columns)
    cells[rows[again], columns[again]] = False


def _asked(connection: sqlite3.Connection, standing: Standing) -> list[tuple[int, int]]:
    """Row and column of every question that was answered or skipped, oldest first."""
    columns = {topic.id: column for column, topic in enumerate(standing.topics)}
    query = """
        SELECT question.photo_id, question.topic_id FROM question JOIN change ON change.id = question.change_id
        WHERE change.undone_at IS NULL ORDER BY change.id
    """
    cells = []
    for photo_id, topic_id in connection.execute(query):
        row = standing.row(photo_id)
        if row is not None and topic_id in columns:
            cells.append((row, columns[topic_id]))
    return cells


def _open(standing: Standing, asked: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which cells (N, T) may be asked about: shown topics, photos with a file, nothing said or asked before."""
    shown = np.array([not topic.hidden for topic in standing.topics], dtype=np.bool_)
    cells: npt.NDArray[np.bool_] = (standing.said == 0) & (standing.available & standing.scored)[:, None] & shown
    for row, column in asked:
        cells[row, column] = False
    return cells


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Indices of the largest values (N,), largest first; ties by position, so that the order is always the same."""
    some = np.argpartition(-values, count)[:count] if count < len(values) else np.arange(len(values))
    return some[np.lexsort((some, -values[some]))]
