"""Which photos stand in which topic: a person's labels over the learner's scores, for the whole library at once.

`Sorting` asks for a new `Standing` after each change and after new photos, and stores it in the same transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from homespun.album import standing as standings
from homespun.album.features import PreparedPhotos
from homespun.album.learnt import Example, FamilyLearner, Feature
from homespun.album.model import Moved
from homespun.album.standing import Booleans, Ids, Standing, as_dates, read_said
from homespun.album.store import Store, read_features
from homespun.album.topics import TopicRow, read_topics
from homespun.learning import Prepared

# How many of the photos that moved a change names; it counts all of them.
MOST_MOVED = 200
# Features of a photo before and after an edit of its file are at least this alike (cosine).
EDIT_LIKENESS = 0.9
# More of them wait for memory rather than compute.
THREADS = min(os.cpu_count() or 1, 4)


@dataclass(frozen=True)
class Step:
    """From one standing to the next, of the same photos and topics. `pending` are those that came, went or changed."""

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
        self._seen = 0
        self._blas = ThreadpoolController()
        with store.reader() as connection:
            self.standing = standings.read(connection)

    def compute(self, connection: sqlite3.Connection) -> Step:
        """The next standing, from the labels, topics and photos that the connection sees."""
        query = "SELECT id, vanished, sort_date FROM photo WHERE id IN (SELECT photo_id FROM pending) ORDER BY id"
        rows = connection.execute(query).fetchall()
        touched = np.array([row[0] for row in rows], dtype=np.int64)
        topics = tuple(read_topics(connection))
        before = self.standing.with_photos(touched, as_dates(row[2] for row in rows)).with_topics(topics)
        pending = np.zeros(len(before.ids), dtype=np.bool_)
        available = before.available.copy()
        if len(touched):
            pending[np.searchsorted(before.ids, touched)] = True
            available[pending] = [not row[1] for row in rows]
            ids, vectors = read_features(connection, self._backbone, touched)
            if len(ids):
                self.photos.add(ids, vectors)
        examples = read_examples(connection, topics)
        learnt = self.family.follow([topic.key for topic in topics], examples, self._feature_of)
        everything = learnt or not before.scored.any()
        if len(self.photos) != self._seen and (self.family.learner.keys or everything):
            self._look_around()
            everything = True
        scored, confidences, present = self._score(before, None if everything else touched)

        said = read_said(connection, before.ids, topics)
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

    def _look_around(self) -> None:
        """Show the learner all photos that there are now: what stands is a function of the labels and of these."""
        ids, pieces = self.photos.pieces()
        self.family.learner.observe([Prepared(piece) for piece in pieces], [str(photo_id) for photo_id in ids.tolist()])
        self._seen = len(ids)

    def _feature_of(self, key: str) -> Feature | None:
        ids, vectors = self._store.features(self._backbone, [int(key)])
        return vectors[0] if len(ids) else None

    def _score(self, before: Standing, only: Ids | None) -> tuple[Booleans, npt.NDArray[np.float32], Booleans]:
        """Scored, confidences and present: of every photo, or (as `before`, but for) only the given ones."""
        learner = self.family.learner
        order = [self.family.topics.index(topic.key) for topic in before.topics]
        scored = before.scored.copy()
        confidences, present = before.confidences.copy(order="K"), before.present.copy(order="K")

        def score(chunk: tuple[Ids, npt.NDArray[np.float32]]) -> None:
            ids, vectors = chunk
            if only is not None:
                chosen = np.isin(ids, only)
                if not chosen.any():
                    return
                ids, vectors = ids[chosen], vectors[chosen]
            rows = _rows(before.ids, ids)
            # A topic's column is in one piece, here as there.
            log_odds = learner.scores(Prepared(vectors)).T[order]
            scored[rows] = True
            present.T[:, rows] = log_odds > 0
            confidences.T[:, rows] = _sigmoid(log_odds)

        chunks = list(self.photos.chunks())
        # The threads of NumPy's BLAS wait for each other without rest: beside anything else that keeps a core busy (an
        # index run does) they take ten times as long. Chunks on threads of their own don't wait.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(THREADS) as threads:
            for _, vectors in chunks[:1]:
                learner.scores(Prepared(vectors[:0]))  # draws up what it learnt once, rather than in each thread
            list(threads.map(score, chunks))
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
    """Store what a step changed, in the transaction in which it was computed."""
    standings.write(connection, step.before, step.after)
    connection.execute("DELETE FROM pending")


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


def _rows(all_ids: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.intp]:
    """Where ids stand among all ids (ascending); a slice where they stand in one piece, which copies faster."""
    first = int(np.searchsorted(all_ids, ids[0]))
    if np.array_equal(all_ids[first : first + len(ids)], ids):
        return slice(first, first + len(ids))
    return np.searchsorted(all_ids, ids)


def _where(cells: Booleans) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """`np.nonzero` of a matrix (N, T) whose columns are in one piece, ten times faster where few cells are true."""
    columns, rows = np.divmod(np.flatnonzero(cells.T), max(len(cells), 1))
    return rows, columns


def _sigmoid(log_odds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    probability: npt.NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(log_odds, -30, 30)))
    return probability
