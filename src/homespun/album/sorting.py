"""Keeps a library sorted: after each change and each new photo, topics, learner and stored membership agree again.

`Album` hands its changes here. One change happens at a time; reading goes on meanwhile with the standing before it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from homespun.album import corrections, explaining, scoring, topics
from homespun.album.errors import LibraryError
from homespun.album.learnt import FamilyLearner
from homespun.album.model import Change, Topic
from homespun.album.scoring import Scoreboard
from homespun.album.standing import Standing
from homespun.album.store import Store
from homespun.learning import TopicLearner

logger = logging.getLogger(__name__)

# Changes made since the learner was last written to disk; learning so few again takes a moment.
CHANGES_BETWEEN_SAVES = 25


class Sorting:
    """The scoreboard of a library, loaded when first needed, and everything that moves it. Safe for threads."""

    def __init__(
        self,
        store: Store,
        new_learner: Callable[[], TopicLearner],
        builtin: Mapping[str, tuple[str, str]] | None,
    ) -> None:
        self._store = store
        self._new_learner = new_learner
        self._changing = threading.RLock()
        self._board: Scoreboard | None = None
        self._unsaved = 0
        self._numbers: tuple[Standing, list[Topic]] | None = None
        if not store.read_only:
            names = topics.builtin_names(new_learner().topics) if builtin is None else builtin
            with store.transaction() as connection:
                topics.install_builtin(connection, names)

    def close(self) -> None:
        """Save what was learnt. Safe to call twice."""
        with self._changing:
            if self._unsaved:
                self._save()
            self._board = None

    def board(self) -> Scoreboard:
        """The scoreboard; whoever only reads its `standing` waits for nobody once it is loaded."""
        board = self._board
        if board is not None:
            return board
        with self._changing:
            return self._loaded()

    def topics(self) -> list[Topic]:
        """All topics with their numbers."""
        standing = self.board().standing
        numbers = self._numbers
        if numbers is None or numbers[0] is not standing:
            numbers = (standing, standing.topic_numbers())
            self._numbers = numbers
        return numbers[1]

    def new_learner(self) -> TopicLearner:
        """The learner that the current backbone's features go with, told nothing yet."""
        return self._new_learner()

    def use_backbone(self, version: str) -> None:
        """Features of this backbone count from now on; photos keep their topics until they have them."""
        with self._changing:
            if self._store.setting("backbone") != version:
                self._store.set_setting("backbone", version)
                self._board = None

    def use_pair(
        self, version: str, new_learner: Callable[[], TopicLearner], record: Callable[[sqlite3.Connection], None]
    ) -> None:
        """Let another backbone and the learner that belongs to it take over, and `record` that: all of it, or nothing.

        Every photo should have its feature by then: one that has none keeps the automatic topics that it has. Pages
        show the old pair's topics until the new one's are there.
        """
        with self._changing:
            family = FamilyLearner.open(self._store.data_dir, new_learner, version)
            board = Scoreboard(self._store, version, family)
            try:
                with self._store.transaction(durable=True) as connection:
                    record(connection)
                    connection.execute("INSERT OR REPLACE INTO setting VALUES ('backbone', ?)", (version,))
                    step = board.compute(connection)
                    scoring.write(connection, step)
            except BaseException:
                self._board = None  # rows of the old pair may be gone from their file
                raise
            board.accept(step)
            self._new_learner, self._board = new_learner, board
            board.photos.discard_others()
            self._save()

    def sort_new(self) -> None:
        """Sort photos that came, returned or vanished since the last time."""
        with self._changing:
            self._take_in(self._loaded())

    def flush(self) -> None:
        """Write prepared rows of new photos to their file."""
        with self._changing:
            self._loaded().photos.flush()

    def apply(self, record: Callable[[sqlite3.Connection], int], *, new: bool = True) -> Change:
        """Write a change (`record` does, and returns its id) and sort the library anew: all of it, or nothing.

        Not `new` is one that was in the log before, and is undone or put back.
        """
        began = time.perf_counter()
        with self._changing:
            board = self._loaded()
            try:
                with self._store.transaction(durable=True) as connection:
                    change_id = record(connection)
                    if new:
                        corrections.note_beliefs(connection, change_id, board.standing)
                    step = board.compute(connection)
                    scoring.write(connection, step)
                    said = corrections.labels_of_change(connection, change_id)
                    moved, total = scoring.moved(step, {label[:2] for label in said})
                    change = corrections.read_change(connection, change_id)
                    moved = explaining.explain(step.after, moved, said if change.undone else (), board.photos)
                    corrections.note_moves(connection, change_id, moved, total)
            except BaseException:
                board.revert()
                raise
            board.accept(step)
            self._unsaved += 1
            if self._unsaved >= CHANGES_BETWEEN_SAVES:
                self._save()
        return replace(change, moved=moved, moved_total=total, seconds=time.perf_counter() - began)

    def _loaded(self) -> Scoreboard:
        if self._board is None:
            backbone = self._store.setting("backbone") or ""
            family = FamilyLearner.open(self._store.data_dir, self._new_learner, backbone)
            board = Scoreboard(self._store, backbone, family)
            if self._store.read_only:
                with self._store.reader() as connection:
                    board.accept(board.compute(connection))
            else:
                self._take_in(board)
                board.photos.discard_others()
            self._board = board
        return self._board

    def _take_in(self, board: Scoreboard) -> None:
        """Bring a board, and what is stored, in step with the library's photos, labels and topics."""
        try:
            with self._store.transaction() as connection:
                corrections.carry_labels_of_edited(connection, board.alike)
                step = board.compute(connection)
                scoring.write(connection, step)
        except BaseException:
            board.revert()
            raise
        board.accept(step)

    def _save(self) -> None:
        if self._board is None:
            return
        try:
            self._board.family.save(self._store.data_dir)
        except LibraryError as error:
            # Nothing is lost: all of it is in the log of changes, and is learnt again on opening.
            logger.warning("what was learnt could not be saved: %s", error)
        self._unsaved = 0
