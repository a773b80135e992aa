"""Which photos stand in which topic: a person's labels over the learner's scores, for the whole library at once.

`Album` asks for a new `Standing` after each change and after new photos, and the store's membership table is brought
in step with it in the same transaction, row by row where something moved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.album.features import PreparedPhotos
from homespun.album.learnt import Example, FamilyLearner, Feature
from homespun.album.model import Moved, Topic
from homespun.album.store import Store, read_features
from homespun.album.topics import TopicRow, read_topics
from homespun.learning import Prepared

# How many of the photos that moved a change names; it counts all of them.
MOST_MOVED = 200
# An automatic topic of less confidence than this counts as doubtful.
UNSURE = 0.6
# Features of a photo before and after an edit of its file are at least this alike (cosine).
EDIT_LIKENESS = 0.9

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Standing:
    """How N photos stand to T topics. Never changed in place: a new one replaces it once its rows are stored.

    `said` is 1 or -1 where a person said so, else 0; `confidences` and `present` are the learner's, and `member` is
    what holds: what was said, or else what the learner believes, for photos that have a file.
    """

    ids: npt.NDArray[np.int64]
    topics: tuple[TopicRow, ...]
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

    def confidences_of(self, ids: Sequence[int]) -> dict[int, dict[int, float]]:
        """{photo id: {topic id: confidence}} of those of the photos that are scored."""
        result = {}
        for photo_id in ids:
            row = self.row(photo_id)
            if row is not None and self.scored[row]:
                values = self.confidences[row].tolist()
                result[photo_id] = {topic.id: value for topic, value in zip(self.topics, values, strict=True)}
        return result

    def by_confidence(self, ids: Sequence[int], topic_id: int, *, surest_first: bool) -> list[int]:
        """The ids by how sure it is that they are in the topic; a person's word is as sure as can be."""
        column = self.column(topic_id)
        if column is None or not len(ids):
            return list(ids)
        wanted = np.asarray(ids, dtype=np.int64)
        rows = np.searchsorted(self.ids, wanted)
        sureness = np.where(self.said[rows, column] != 0, 2.0, self.confidences[rows, column])
        order = np.argsort(-sureness if surest_first else sureness, kind="stable")
        ordered: list[int] = wanted[order].tolist()
        return ordered

    def topic_numbers(self) -> list[Topic]:
        """Every topic with its counts; the cover is its surest photo, one that a person put there if there is one."""
        confirmed = self.member & (self.said == 1)
        unsure = self.member & (self.said == 0) & (self.confidences < UNSURE)
        covers = np.where(self.member, self.confidences + 2.0 * confirmed, -1.0)
        result = []
        for column, topic in enumerate(self.topics):
            photos = int(self.member[:, column].sum())
            result.append(
                Topic(
                    key=topic.key,
                    name_en=topic.name_en,
                    name_zh=topic.name_zh,
                    builtin=topic.builtin,
                    hidden=topic.hidden,
                    photos=photos,
                    confirmed=int(confirmed[:, column].sum()),
                    doubtful=int(unsure[:, column].sum()),
                    cover_photo_id=int(self.ids[covers[:, column].argmax()]) if photos else None,
                )
            )
        return result


@dataclass(frozen=True)
class Step:
    """From one standing to the next. `pending` marks rows whose stored membership is not known to match `before`."""

    before: Standing
    after: Standing
    pending: Booleans
    examples: dict[str, Example]


class Scoreboard:
    """The current standing of a library and the learner behind it.

    Not thread-safe but for reading `standing`; `Album` calls the rest with its change lock held.
    """

    def __init__(self, store: Store, backbone: str, family: FamilyLearner) -> None:
        self._store = store
        self._backbone = backbone
        self.family = family
        self.photos = PreparedPhotos(store, backbone, family.learner)
        self._examples: dict[str, Example] = {}
        with store.reader() as connection:
            self.standing = _stored_standing(connection)

    def compute(self, connection: sqlite3.Connection) -> Step:
        """The next standing, from the labels, topics and photos that the connection sees."""
        rows = connection.execute(
            "SELECT photo_id, vanished FROM pending JOIN photo ON photo.id = pending.photo_id ORDER BY photo_id"
        ).fetchall()
        touched = np.array([row[0] for row in rows], dtype=np.int64)
        topics = tuple(read_topics(connection))
        before = _with_topics(_with_photos(self.standing, touched), topics)
        pending = np.zeros(len(before.ids), dtype=np.bool_)
        available = before.available.copy()
        if len(touched):
            pending[np.searchsorted(before.ids, touched)] = True
            available[pending] = [not vanished for _, vanished in rows]
            ids, vectors = read_features(connection, self._backbone, touched)
            if len(ids):
                self.photos.add(ids, vectors)
        examples = read_examples(connection, topics)
        learnt = self.family.follow([topic.key for topic in topics], examples, self._feature_of)
        everything = learnt or not before.scored.any()
        scored, confidences, present = self._score(before, None if everything else touched)

        said = read_said(connection, before)
        # A photo that the current backbone has not seen yet keeps the automatic topics that it has.
        believed = np.where(scored[:, None], present, before.member & (before.said == 0))
        member = available[:, None] & ((said == 1) | (believed & (said == 0)))
        after = replace(
            before,
            available=available,
            scored=scored,
            confidences=confidences,
            present=present,
            said=said,
            member=member,
        )
        return Step(before, after, pending, examples)

    def accept(self, step: Step) -> None:
        """Make a step current, once what it wrote is stored."""
        self.standing = step.after
        self._examples = step.examples

    def revert(self) -> None:
        """Bring the learner back to the current standing, after a step that could not be stored."""
        self.family.follow([topic.key for topic in self.standing.topics], self._examples, self._feature_of)

    def alike(self, one: int, other: int) -> bool:
        """Whether two photos' features are so close that one must be an edit of the other."""
        with self._store.reader() as connection:
            ids, vectors = read_features(connection, self._backbone, (one, other))
        if len(ids) < 2:
            return False
        a, b = vectors.astype(np.float32)
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return norms > 0 and float(a @ b) / norms >= EDIT_LIKENESS

    def _feature_of(self, key: str) -> Feature | None:
        ids, vectors = self._store.features(self._backbone, [int(key)])
        return vectors[0] if len(ids) else None

    def _score(
        self, before: Standing, only: npt.NDArray[np.int64] | None
    ) -> tuple[Booleans, npt.NDArray[np.float32], Booleans]:
        """Scored, confidences and present: of every photo, or (as `before`, but for) only the given ones."""
        learner = self.family.learner
        order = [self.family.topics.index(topic.key) for topic in before.topics]
        scored, confidences, present = before.scored.copy(), before.confidences.copy(), before.present.copy()
        for ids, vectors in self.photos.chunks():
            if only is not None:
                chosen = np.isin(ids, only)
                if not chosen.any():
                    continue
                ids, vectors = ids[chosen], vectors[chosen]
            rows = _rows(before.ids, ids)
            log_odds = learner.scores(Prepared(vectors))[:, order]
            scored[rows] = True
            present[rows] = log_odds > 0
            confidences[rows] = _sigmoid(log_odds)
        return scored, confidences, present


def moved(step: Step, said: Collection[tuple[int, int]]) -> tuple[list[Moved], int]:
    """What entered or left a topic in a step, the most certain first, and how much did in all.

    `said` holds the (photo id, topic id) pairs that the change itself was about; new photos don't count as moved.
    """
    before, after = step.before, step.after
    differs = before.member != after.member
    differs[step.pending] = False
    for photo_id, topic_id in said:
        row, column = after.row(photo_id), after.column(topic_id)
        if row is not None and column is not None:
            differs[row, column] = False
    rows, columns = _where(differs)
    certainty = np.abs(after.confidences[rows, columns] - 0.5)
    order = np.argsort(-certainty, kind="stable")[:MOST_MOVED]
    moves = [
        Moved(
            photo_id=int(after.ids[row]),
            topic=after.topics[column].key,
            before=bool(before.member[row, column]),
            after=bool(after.member[row, column]),
            confidence=float(after.confidences[row, column]),
        )
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    ]
    return moves, len(rows)


def write(connection: sqlite3.Connection, step: Step) -> None:
    """Bring the stored membership to a step's `after`, touching only rows that differ."""
    before, after = step.before, step.after
    kept = ", ".join(str(topic.id) for topic in after.topics) or "NULL"
    connection.execute(f"DELETE FROM membership WHERE topic_id NOT IN ({kept})")

    ids = [(int(photo_id),) for photo_id in after.ids[step.pending]]
    connection.executemany("DELETE FROM membership WHERE photo_id = ?", ids)
    connection.executemany("DELETE FROM pending WHERE photo_id = ?", ids)

    differs = (before.member != after.member) | ((before.said == 1) != (after.said == 1))
    differs[step.pending] = after.member[step.pending]
    rows, columns = _where(differs)
    topic_ids = np.array([topic.id for topic in after.topics], np.int64)
    photos, topics = after.ids[rows], topic_ids[columns]
    stays, human = after.member[rows, columns], after.said[rows, columns] == 1
    connection.executemany(
        "DELETE FROM membership WHERE photo_id = ? AND topic_id = ?",
        zip(photos[~stays].tolist(), topics[~stays].tolist(), strict=True),
    )
    connection.executemany(
        "INSERT INTO membership (photo_id, topic_id, human, sort_date) "
        "SELECT ?1, ?2, ?3, sort_date FROM photo WHERE id = ?1 "
        "ON CONFLICT (photo_id, topic_id) DO UPDATE SET human = ?3",
        zip(photos[stays].tolist(), topics[stays].tolist(), human[stays].astype(int).tolist(), strict=True),
    )


def read_examples(connection: sqlite3.Connection, topics: Iterable[TopicRow]) -> dict[str, Example]:
    """What people said, photo by photo, of the given topics; keys are photo ids as text."""
    names = {topic.id: topic.key for topic in topics}
    collected: dict[int, tuple[list[str], list[str]]] = {}
    for photo_id, topic_id, value in connection.execute("SELECT photo_id, topic_id, value FROM label"):
        if topic_id in names:
            collected.setdefault(photo_id, ([], []))[value < 0].append(names[topic_id])
    return {
        str(photo_id): Example(tuple(sorted(positive)), tuple(sorted(negative)))
        for photo_id, (positive, negative) in sorted(collected.items())
    }


def read_said(connection: sqlite3.Connection, standing: Standing) -> npt.NDArray[np.int8]:
    """What people said as a matrix (N, T) of 1, -1 and 0."""
    said = np.zeros(standing.member.shape, dtype=np.int8)
    columns = {topic.id: column for column, topic in enumerate(standing.topics)}
    labels = connection.execute("SELECT photo_id, topic_id, value FROM label").fetchall()
    if labels:
        photo_ids, topic_ids, values = np.array(labels, dtype=np.int64).T
        where = np.array([columns.get(int(topic_id), -1) for topic_id in topic_ids])
        kept = where >= 0
        said[np.searchsorted(standing.ids, photo_ids[kept]), where[kept]] = values[kept]
    return said


def _stored_standing(connection: sqlite3.Connection) -> Standing:
    """The standing as the membership table has it, not scored yet."""
    photos = np.array(
        connection.execute("SELECT id, vanished FROM photo ORDER BY id").fetchall(), dtype=np.int64
    ).reshape(-1, 2)
    topics = tuple(read_topics(connection))
    shape = (len(photos), len(topics))
    standing = Standing(
        ids=photos[:, 0],
        topics=topics,
        available=photos[:, 1] == 0,
        scored=np.zeros(len(photos), dtype=np.bool_),
        confidences=np.zeros(shape, dtype=np.float32),
        present=np.zeros(shape, dtype=np.bool_),
        said=np.zeros(shape, dtype=np.int8),
        member=np.zeros(shape, dtype=np.bool_),
    )
    columns = {topic.id: column for column, topic in enumerate(topics)}
    rows = connection.execute("SELECT photo_id, topic_id, human FROM membership").fetchall()
    if rows:
        photo_ids, topic_ids, human = np.array(rows, dtype=np.int64).T
        where = np.array([columns.get(int(topic_id), -1) for topic_id in topic_ids])
        kept = where >= 0
        cells = np.searchsorted(standing.ids, photo_ids[kept]), where[kept]
        standing.member[cells] = True
        standing.said[cells] = human[kept]
    return standing


def _with_photos(standing: Standing, ids: npt.NDArray[np.int64]) -> Standing:
    """The same standing with rows (of nothing) for photos that it has not got yet."""
    if not len(ids):
        return standing
    new = np.setdiff1d(ids, standing.ids)
    if not len(new):
        return standing
    all_ids = np.union1d(standing.ids, new)
    rows = np.searchsorted(all_ids, standing.ids)

    def spread(values: npt.NDArray[Any]) -> Any:
        result = np.zeros((len(all_ids), *values.shape[1:]), dtype=values.dtype)
        result[rows] = values
        return result

    columns = ("available", "scored", "confidences", "present", "said", "member")
    return replace(standing, ids=all_ids, **{name: spread(getattr(standing, name)) for name in columns})


def _with_topics(standing: Standing, topics: tuple[TopicRow, ...]) -> Standing:
    """The same standing with the columns of these topics: new ones empty, gone ones dropped."""
    if [topic.id for topic in topics] == [topic.id for topic in standing.topics]:
        return replace(standing, topics=topics)
    old = [standing.column(topic.id) for topic in topics]
    kept = [(new, column) for new, column in enumerate(old) if column is not None]
    targets = [new for new, _ in kept]
    sources = [column for _, column in kept]

    def spread(values: npt.NDArray[Any]) -> Any:
        result = np.zeros((len(values), len(topics)), dtype=values.dtype)
        result[:, targets] = values[:, sources]
        return result

    columns = ("confidences", "present", "said", "member")
    return replace(standing, topics=topics, **{name: spread(getattr(standing, name)) for name in columns})


def _rows(all_ids: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.intp]:
    """Where ids stand among all ids (ascending); a slice where they stand in one piece, which copies faster."""
    first = int(np.searchsorted(all_ids, ids[0]))
    if np.array_equal(all_ids[first : first + len(ids)], ids):
        return slice(first, first + len(ids))
    return np.searchsorted(all_ids, ids)


def _where(cells: Booleans) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """`np.nonzero` of a matrix (N, T), ten times faster where few cells are true."""
    rows, columns = np.divmod(np.flatnonzero(cells), max(cells.shape[1], 1))
    return rows, columns


def _sigmoid(log_odds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    probability: npt.NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(log_odds, -30, 30)))
    return probability
