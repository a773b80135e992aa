"""Which questions to put to the family: photos that the album is probably wrong about, most useful first.

`Album.doubts` shows them. A question is a photo and a topic; what was answered, skipped or said in any other way is
not asked again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.album.features import PreparedPhotos
from homespun.album.standing import Standing
from homespun.learning import doubt

# The least sure cells that are looked at more closely: neighbours are sought among them.
CANDIDATES = 2000
# Rejections that speak against photos like them, the same.
REJECTIONS = 2000

ALMOST = "almost"
"""Reason of a question about a topic that the album narrowly did not put a photo in."""


@dataclass(frozen=True, slots=True)
class Question:
    """A photo and a topic to ask about; `present` is what the album believes."""

    photo_id: int
    topic: str
    confidence: float
    present: bool
    reason: str


def questions(connection: sqlite3.Connection, standing: Standing, photos: PreparedPhotos, limit: int) -> list[Question]:
    """The most useful questions that were not asked yet, at most one of each photo.

    Of topics that photos are in, `learning.doubt` says how probably that is wrong; of topics that they narrowly are
    not in, the confidence does.
    """
    if not standing.member.size:
        return []
    sureness = np.minimum(standing.confidences, 1 - standing.confidences)
    sureness[~_open(connection, standing)] = 0.0
    cells = _largest(sureness, CANDIDATES)
    cells = cells[sureness.ravel()[cells] > 0]
    rows, columns = np.divmod(cells, len(standing.topics))
    worth, reasons = _weigh(photos, standing, rows, columns)
    asked: set[int] = set()
    chosen: list[Question] = []
    for index in np.argsort(-worth, kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row in asked:
            continue
        if len(chosen) == limit:
            break
        asked.add(row)
        chosen.append(
            Question(
                photo_id=int(standing.ids[row]),
                topic=standing.topics[column].key,
                confidence=float(standing.confidences[row, column]),
                present=bool(standing.member[row, column]),
                reason=reasons[index],
            )
        )
    return chosen


def _weigh(
    photos: PreparedPhotos, standing: Standing, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """How much each cell is worth asking about, and why."""
    confidences = standing.confidences[rows]
    rejected_rows, rejected_columns = np.nonzero((standing.said < 0) & standing.scored[:, None])
    rejected_rows, rejected_columns = rejected_rows[-REJECTIONS:], rejected_columns[-REJECTIONS:]
    found = doubt.signals(
        photos.take(standing.ids[rows]),
        confidences,
        columns,
        photos.take(standing.ids[rejected_rows]),
        rejected_columns,
    )
    present = standing.member[rows, columns]
    worth = np.where(present, doubt.doubt(found), confidences[np.arange(len(rows)), columns])
    reasons = [str(reason) if is_in else ALMOST for reason, is_in in zip(found.reason(), present, strict=True)]
    return worth.astype(np.float32), reasons


def _open(connection: sqlite3.Connection, standing: Standing) -> npt.NDArray[np.bool_]:
    """Which cells (N, T) may be asked about: shown topics, photos with a file, nothing said or asked before."""
    shown = np.array([not topic.hidden for topic in standing.topics], dtype=np.bool_)
    cells: npt.NDArray[np.bool_] = (standing.said == 0) & (standing.available & standing.scored)[:, None] & shown
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
