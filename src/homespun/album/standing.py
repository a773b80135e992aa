"""How every photo of a library stands to every topic, as matrices, and how the album keeps that between runs.

`scoring.Scoreboard` makes a new `Standing` after each change; pages and searches read the one that is current. Stored
is one bit for each photo and topic, a topic's in one blob, so that a change that moves every photo writes little more
than a small one (a topic of 100,000 photos is 12.5 kB).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.album.model import Topic
from homespun.album.topics import TopicRow, read_topics

# An automatic topic of less confidence than this counts as doubtful.
UNSURE = 0.6

Booleans = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Dates = npt.NDArray[np.bytes_]
DATE = np.dtype("S19")
"""A date as the library sorts by it: YYYY-MM-DDTHH:MM:SS."""


@dataclass(frozen=True)
class Standing:
    """How N photos, by ascending id, stand to T topics. Never changed in place: a new one replaces it once stored.

    `said` is 1 or -1 where a person said so, else 0; `confidences` and `present` are the learner's, and `member` is
    what holds: what was said, or else what the learner believes, for photos that have a file (`available`).
    Matrices are (N, T), a topic's column in one piece. `by_date` are the rows, oldest first.
    """

    ids: Ids
    topics: tuple[TopicRow, ...]
    dates: Dates
    by_date: npt.NDArray[np.intp]
    available: Booleans
    scored: Booleans
    confidences: npt.NDArray[np.float32]
    present: Booleans
    said: npt.NDArray[np.int8]
    member: Booleans

    def row(self, photo_id: int) -> int | None:
        """The row of a photo, None if it has none yet."""
        place = int(np.searchsorted(self.ids, photo_id))
        return place if place < len(self.ids) and self.ids[place] == photo_id else None

    def column(self, topic_id: int) -> int | None:
        """The column of a topic, None if it is removed."""
        return next((column for column, topic in enumerate(self.topics) if topic.id == topic_id), None)

    def in_any(self, topics: Iterable[TopicRow]) -> Booleans:
        """The photos (N,) that are in one of the topics or more."""
        columns = [self.column(topic.id) for topic in topics]
        found = np.zeros(len(self.ids), dtype=np.bool_)
        for column in columns:
            if column is not None:
                found |= self.member[:, column]
        return found

    def by_confidence(self, ids: Ids, topic_id: int, *, surest_first: bool) -> Ids:
        """The ids by how sure it is that they are in the topic; a person's word is as sure as can be."""
        column = self.column(topic_id)
        if column is None:
            return ids
        rows = np.searchsorted(self.ids, ids)
        sureness = np.where(self.said[rows, column] != 0, 2.0, self.confidences[rows, column])
        return ids[np.argsort(-sureness if surest_first else sureness, kind="stable")]

    def topic_numbers(self) -> list[Topic]:
        """Every topic with its counts; the cover is its surest photo, one that a person put there if there is one."""
        return [self._numbers(column, topic) for column, topic in enumerate(self.topics)]

    def _numbers(self, column: int, topic: TopicRow) -> Topic:
        rows = np.flatnonzero(self.member[:, column])
        confidences, confirmed = self.confidences[rows, column], self.said[rows, column] == 1
        cover = int((confidences + 2.0 * confirmed).argmax()) if len(rows) else None
        return Topic(
            key=topic.key,
            name_en=topic.name_en,
            name_zh=topic.name_zh,
            builtin=topic.builtin,
            hidden=topic.hidden,
            photos=len(rows),
            confirmed=int(np.count_nonzero(confirmed)),
            doubtful=int(np.count_nonzero(~confirmed & (confidences < UNSURE))),
            cover_photo_id=None if cover is None else int(self.ids[rows[cover]]),
        )

    def with_photos(self, ids: Ids, dates: Dates) -> Standing:
        """The same standing with rows (of nothing) for those of the photos that it has not got yet."""
        new = ~np.isin(ids, self.ids)
        if not new.any():
            return self
        joined = np.concatenate([self.ids, ids[new]])
        order = np.argsort(joined)
        all_dates = np.concatenate([self.dates, dates[new]])[order]
        rows = np.searchsorted(joined[order], self.ids)

        def spread(values: npt.NDArray[Any]) -> Any:
            result = np.zeros((len(joined), *values.shape[1:]), dtype=values.dtype, order="F")
            result[rows] = values
            return result

        columns = ("available", "scored", "confidences", "present", "said", "member")
        return replace(
            self,
            ids=joined[order],
            dates=all_dates,
            by_date=np.argsort(all_dates, kind="stable"),
            **{name: spread(getattr(self, name)) for name in columns},
        )

    def with_topics(self, topics: tuple[TopicRow, ...]) -> Standing:
        """The same standing with the columns of these topics: new ones empty, gone ones dropped."""
        if [topic.id for topic in topics] == [topic.id for topic in self.topics]:
            return replace(self, topics=topics)
        old = [self.column(topic.id) for topic in topics]

        def spread(values: npt.NDArray[Any]) -> Any:
            result = np.zeros((len(values), len(topics)), dtype=values.dtype, order="F")
            for new, column in enumerate(old):
                if column is not None:
                    result[:, new] = values[:, column]
            return result

        columns = ("confidences", "present", "said", "member")
        return replace(self, topics=topics, **{name: spread(getattr(self, name)) for name in columns})


def read(connection: sqlite3.Connection) -> Standing:
    """The standing as it was stored last, with what people said since; not scored yet."""
    photos = connection.execute("SELECT id, vanished, sort_date FROM photo ORDER BY id").fetchall()
    ids = np.array([row[0] for row in photos], dtype=np.int64)
    dates = as_dates(row[2] for row in photos)
    topics = tuple(read_topics(connection))
    shape = (len(photos), len(topics))
    member = np.zeros(shape, dtype=np.bool_, order="F")
    stored = dict(connection.execute("SELECT topic_id, photos FROM membership").fetchall())
    for column, topic in enumerate(topics):
        bits = np.unpackbits(np.frombuffer(stored.get(topic.id, b""), dtype=np.uint8), bitorder="little")
        known = ids < len(bits)
        member[known, column] = bits[ids[known]]
    return Standing(
        ids=ids,
        topics=topics,
        dates=dates,
        by_date=np.argsort(dates, kind="stable"),
        available=np.array([not row[1] for row in photos], dtype=np.bool_),
        scored=np.zeros(len(photos), dtype=np.bool_),
        confidences=np.zeros(shape, dtype=np.float32, order="F"),
        present=np.zeros(shape, dtype=np.bool_, order="F"),
        said=read_said(connection, ids, topics),
        member=member,
    )


def write(connection: sqlite3.Connection, before: Standing, after: Standing) -> None:
    """Store the membership of `after`, of the same photos and topics as `before`: the topics in which it differs."""
    kept = ", ".join(str(topic.id) for topic in after.topics) or "NULL"
    connection.execute(f"DELETE FROM membership WHERE topic_id NOT IN ({kept})")
    differs = (before.member != after.member).any(axis=0)
    bits = np.zeros(int(after.ids[-1]) + 1 if len(after.ids) else 0, dtype=np.bool_)
    for column in np.flatnonzero(differs):
        bits[after.ids] = after.member[:, column]
        blob = np.packbits(bits, bitorder="little").tobytes()
        connection.execute("INSERT OR REPLACE INTO membership VALUES (?, ?)", (after.topics[column].id, blob))


def read_said(connection: sqlite3.Connection, ids: Ids, topics: Sequence[TopicRow]) -> npt.NDArray[np.int8]:
    """What people said as a matrix (N, T) of 1, -1 and 0."""
    said = np.zeros((len(ids), len(topics)), dtype=np.int8, order="F")
    columns = {topic.id: column for column, topic in enumerate(topics)}
    labels = connection.execute("SELECT photo_id, topic_id, value FROM label").fetchall()
    if labels:
        photo_ids, topic_ids, values = np.array(labels, dtype=np.int64).T
        where = np.array([columns.get(int(topic_id), -1) for topic_id in topic_ids])
        kept = where >= 0
        said[np.searchsorted(ids, photo_ids[kept]), where[kept]] = values[kept]
    return said


def as_dates(texts: Iterable[str]) -> Dates:
    """Dates as they are stored, as an array that sorts in the same order."""
    return np.array([text.encode() for text in texts], dtype=DATE)
