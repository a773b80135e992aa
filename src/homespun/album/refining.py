"""`Album.refining`: the network itself, refined on what this family said; who may replace it, and the way back.

A process of its own (`refining_worker`) trains, judges and computes features, at the lowest priority, and stands still
while somebody looks at the album. Until all is there the old pair of backbone and learner serves; then both change at
once. The old ones are kept.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.album.errors import LibraryBusyError, LibraryError, RefiningError, StorageFullError
from homespun.album.model import Refinement, RefiningStatus, TopicGain
from homespun.album.refining_process import OnProgress, RefiningProcess
from homespun.album.scoring import read_examples
from homespun.album.sorting import Sorting
from homespun.album.store import Store, now
from homespun.album.topics import read_topics
from homespun.errors import FormatError, HomespunError
from homespun.learning import TopicLearner

if TYPE_CHECKING:
    from homespun.album.vision import Embedder

logger = logging.getLogger(__name__)

FOLDER = "refined"
CURRENT, AUTOMATIC, UNDER_WAY = "refinement", "refining.automatic", "refining.run"
NEW_LABELS = 20
"""Photos spoken of since the last run that make another worth while, when it begins by itself."""
CHANGED = 0.05
"""Share of labels that may have changed since a run began; with more it judged by what no longer holds."""
PER_TRANSACTION = 256
IDLE_SECONDS = 600.0
"""How long nobody must have looked at the album before a run begins by itself."""
SECONDS_BETWEEN_LOOKS = 30.0


@dataclass(frozen=True)
class Pair:
    """A backbone and the learner that its features go with. `folder` is None for those that ship."""

    folder: Path | None

    def learner(self) -> TopicLearner:
        """A new learner that knows the built-in topics. Raises `LibraryError` for a damaged file."""
        from homespun.album.refining_worker import TOPICS

        if self.folder is None:
            return TopicLearner.builtin()
        try:
            return TopicLearner.load(self.folder / TOPICS)
        except (FormatError, OSError) as error:
            raise _damaged(error) from error

    def embedder(self) -> Embedder:
        """The backbone, loaded. Raises `LibraryError` for a damaged file."""
        from homespun.album.vision import BACKBONE, Embedder

        if self.folder is None:
            return Embedder()
        try:
            return Embedder(refined=self.folder / BACKBONE)
        except (FormatError, OSError) as error:
            raise _damaged(error) from error


SHIPPED = Pair(None)


def shipped_version() -> str:
    """The version of the features that the backbone makes that ships."""
    from homespun.album.vision import ASSETS, BACKBONE, version_of

    return version_of(ASSETS / BACKBONE)


def current_pair(store: Store) -> Pair:
    """The pair that a library uses now."""
    number = store.setting(CURRENT)
    with store.reader() as connection:
        row = connection.execute("SELECT folder FROM refinement WHERE id = ?", (number or 0,)).fetchone()
    return Pair(store.data_dir / FOLDER / row[0]) if row else SHIPPED


class Refining:
    """Refining of one library's network. Safe for threads."""

    def __init__(
        self, store: Store, sorting: Sorting, indexing: threading.Lock, use_embedder: Callable[[Embedder], None]
    ) -> None:
        self._store, self._sorting, self._indexing, self._use_embedder = store, sorting, indexing, use_embedder
        self._running = threading.Lock()
        self._worker: RefiningProcess | None = None
        self._stop, self._thread, self._problem = threading.Event(), threading.Thread(), ""
        self._seen = time.monotonic()

    # What there is to tell

    def status(self) -> RefiningStatus:
        """How refining stands now."""
        from homespun.learning.task import FEWEST

        worker, history = self._worker, self.history()
        return RefiningStatus(
            automatic=self.automatic,
            running=self._running.locked(),
            paused=worker is not None and worker.paused,
            interrupted=not self._running.locked() and bool(self._store.setting(UNDER_WAY)),
            phase=worker.phase if worker else "",
            share=worker.share if worker else 0.0,
            labelled=self._labelled(),
            needed=FEWEST,
            refined=any(refinement.current for refinement in history),
            last=history[0] if history else None,
            problem=self._problem,
        )

    def history(self) -> list[Refinement]:
        """Runs that ended, newest first."""
        current = self._store.setting(CURRENT)
        with self._store.reader() as connection:
            rows = connection.execute(
                "SELECT id, began_at, ended_at, outcome, result FROM refinement ORDER BY id DESC"
            ).fetchall()
        return [
            _refinement(number, began, ended, outcome, result, str(number) == current)
            for number, began, ended, outcome, result in rows
        ]

    def trained_on(self) -> set[int]:
        """Photos that people had spoken of when the network in use was trained: it can't be asked about them fairly."""
        with self._store.reader() as connection:
            query = """
                SELECT DISTINCT photo_id FROM change_label JOIN change ON change.id = change_label.change_id
                WHERE made_at <= (SELECT began_at FROM refinement WHERE id = ?)
            """
            return {row[0] for row in connection.execute(query, (self._store.setting(CURRENT) or 0,))}

    @property
    def automatic(self) -> bool:
        """Whether runs begin by themselves."""
        return self._store.setting(AUTOMATIC) != "off"

    def set_automatic(self, on: bool) -> None:
        """Let runs begin by themselves, or not."""
        self._store.set_setting(AUTOMATIC, "on" if on else "off", durable=True)

    def due(self) -> bool:
        """Whether a run should begin by itself: one was cut off, or enough was said since the last."""
        from homespun.learning.task import FEWEST

        if not self.automatic:
            return False
        if self._store.setting(UNDER_WAY):
            return True
        with self._store.reader() as connection:
            row = connection.execute("SELECT labels FROM refinement ORDER BY id DESC LIMIT 1").fetchone()
        labelled = self._labelled()
        return labelled >= FEWEST and (row is None or labelled >= row[0] + NEW_LABELS)

    def _labelled(self) -> int:
        with self._store.reader() as connection:
            return int(connection.execute("SELECT count(DISTINCT photo_id) FROM label").fetchone()[0])

    # A run

    def refine(self, on_progress: OnProgress | None = None, stop: threading.Event | None = None) -> Refinement | None:
        """Train a challenger, or go on with one that was cut off, and let it replace the network if it is better.

        Takes minutes. None if `stop` was set, or `end_run` called: the next call goes on. Raises `LibraryBusyError` if
        a run is under way, `RefiningError` if too little was said or the process failed, `StorageFullError` if the disk
        is full.
        """
        run = self._begin()
        return self._run(run, on_progress or (lambda phase, share: None), stop or threading.Event())

    def start(self) -> RefiningStatus:
        """The same in the background: `status` says how it goes. Raises as `refine` does if a run can't even begin."""
        run = self._begin()
        self._thread = threading.Thread(target=self._run_and_note, args=(run,), name="homespun-refining-asked-for")
        self._thread.start()
        return self.status()

    def end_run(self) -> RefiningStatus:
        """End a run, if one is under way, and wait for that; the next goes on from there."""
        self._stop.set()
        worker = self._worker
        if worker is not None:
            worker.end()
        with self._running:
            pass
        return self.status()

    def _begin(self) -> dict[str, Any]:
        """Take the right to run, and what is known of the run: a new one, or one that was cut off."""
        from homespun.learning.task import FEWEST, too_few

        if not self._running.acquire(blocking=False):
            raise LibraryBusyError("the network is being refined already; wait until that is done")
        try:
            self._stop.clear()
            self._problem = ""
            self._tidy()
            run = self._store.setting(UNDER_WAY)
            if not run:
                if (labelled := self._labelled()) < FEWEST:
                    raise RefiningError(too_few(labelled))
                run = json.dumps({"began_at": now(), "labels": labelled, "folder": f"run-{time.time_ns():x}"})
                self._store.set_setting(UNDER_WAY, run, durable=True)
            about: dict[str, Any] = json.loads(run)
            return about
        except BaseException:
            self._running.release()
            raise

    def _run(self, about: dict[str, Any], on_progress: OnProgress, stop: threading.Event) -> Refinement | None:
        from homespun.album.refining_worker import TASK

        try:
            folder = self._store.data_dir / FOLDER / about["folder"]
            champion = current_pair(self._store).folder
            try:
                process = self._worker = RefiningProcess(self._store.data_dir, folder, champion, on_progress)
            except OSError as error:
                raise RefiningError(f"the process that refines can't be started: {error.strerror}") from error
            if self._stop.is_set():  # meanwhile
                process.end()
            try:
                finished = process.run(stop)
            except RefiningError:
                if process.damaged or not (folder / TASK).exists():
                    self._forget(folder)  # or it could not even begin: too few photos can be read, say
                raise
            if not finished or self._stop.is_set():
                return None
            return self._conclude(folder, about)
        except HomespunError as error:
            self._problem = "disk full" if isinstance(error, StorageFullError) else "failed"
            raise
        finally:
            self._worker = None
            self._running.release()

    def _run_and_note(self, about: dict[str, Any]) -> None:
        try:
            self._run(about, lambda phase, share: None, threading.Event())
        except HomespunError as error:  # `status` has it, too
            logger.warning("the network could not be refined: %s", error)

    def make_way(self) -> None:
        """Let a run stand still for a while: somebody looks at the album. Returns at once."""
        self._seen = time.monotonic()
        worker = self._worker
        if worker is not None:
            worker.make_way()

    def keep_refined(self, stop: threading.Event) -> None:
        """Refine whenever it is due and nobody has looked at the album for a while, until `stop` is set."""
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            if time.monotonic() - self._seen < IDLE_SECONDS or not self.due():
                continue
            try:
                self.refine(stop=stop)
            except HomespunError as error:
                logger.warning("the network could not be refined: %s", error)
                stop.wait(IDLE_SECONDS)

    def close(self) -> None:
        """End a run, which goes on the next time. Safe to call twice."""
        self._stop.set()
        worker = self._worker
        if worker is not None:
            worker.end()
        if self._thread.is_alive():
            self._thread.join()

    def rollback(self) -> Refinement:
        """Go back to the network that was in use before the last refinement; scores are then what they were.

        A run that is under way, or was cut off, is given up: it might bring back what was just refused.
        Raises `RefiningError` if the network in use is the one that ships.
        """
        if not self._store.setting(CURRENT):
            raise RefiningError("the network is the one that came with Homespun: there is nothing to go back to")
        self.end_run()
        with self._running:
            return self._roll_back()

    def _roll_back(self) -> Refinement:
        current = self._store.setting(CURRENT)
        with self._store.reader() as connection:
            row = connection.execute("SELECT previous FROM refinement WHERE id = ?", (current or 0,)).fetchone()
            before = row and connection.execute("SELECT folder FROM refinement WHERE id = ?", (row[0],)).fetchone()
        if row is None:
            raise LibraryError("the album names a refinement that it does not know; its database is damaged")
        pair, number = SHIPPED, ""
        if before is not None and (self._store.data_dir / FOLDER / before[0]).exists():
            pair, number = Pair(self._store.data_dir / FOLDER / before[0]), str(row[0])

        def record(connection: sqlite3.Connection) -> None:
            _set(connection, CURRENT, number)
            _set(connection, UNDER_WAY, "")
            connection.execute("UPDATE refinement SET outcome = 'rolled back' WHERE id = ?", (current,))

        self._switch(pair, record)
        self._tidy()
        return next(refinement for refinement in self.history() if str(refinement.id) == current)

    # How it ends

    def _conclude(self, folder: Path, about: dict[str, Any]) -> Refinement:
        from homespun.album.refining_worker import RESULT

        result = json.loads((folder / RESULT).read_text("utf-8"))
        outcome = "adopted" if result["verdict"]["replaces"] else "kept"
        if outcome == "adopted" and self._outdated(folder):
            outcome = "outdated"
        adopted = outcome == "adopted"

        def record(connection: sqlite3.Connection) -> None:
            number = connection.execute(
                "INSERT INTO refinement (began_at, ended_at, folder, previous, labels, outcome, result) "
                "VALUES (?, ?, ?, (SELECT id FROM refinement WHERE id = (SELECT value FROM setting WHERE key = ?)), "
                "?, ?, ?)",
                (about["began_at"], now(), folder.name, CURRENT, about["labels"], outcome, json.dumps(result)),
            ).lastrowid
            _set(connection, UNDER_WAY, "")
            if adopted:
                _set(connection, CURRENT, str(number))

        if adopted:
            self._import_features(folder, result["version"])
            self._switch(Pair(folder), record)
        else:
            with self._store.transaction(durable=True) as connection:
                record(connection)
        self._tidy()
        return self.history()[0]

    def _outdated(self, folder: Path) -> bool:
        """Whether much of what the run learnt from no longer holds."""
        from homespun.album.refining_worker import TASK
        from homespun.learning.task import Task

        task = Task.load(folder / TASK)
        with self._store.reader() as connection:
            said = read_examples(connection, read_topics(connection))
        changed = 0
        for row, key in enumerate(task.keys):
            yes, no = task.said(row)
            holds = said.get(key)
            changed += holds is None or not (set(yes) <= set(holds.positive) and set(no) <= set(holds.negative))
        return changed > CHANGED * len(task)

    def _import_features(self, folder: Path, version: str) -> None:
        from homespun.album.refining_worker import FEATURES, read_features

        ids, vectors = read_features(folder / FEATURES)
        for start in range(0, len(ids), PER_TRANSACTION):
            with self._store.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO feature SELECT id, ?, ? FROM photo WHERE id = ?",
                    [
                        (version, vector.tobytes(), int(number))
                        for number, vector in zip(
                            ids[start : start + PER_TRANSACTION], vectors[start : start + PER_TRANSACTION], strict=True
                        )
                    ],
                )

    def _switch(self, pair: Pair, record: Callable[[sqlite3.Connection], None]) -> None:
        """Let a pair take over once every photo has its feature; index runs wait meanwhile."""
        from homespun.album.indexer import embed_missing

        embedder = pair.embedder()
        with self._indexing:
            embed_missing(self._store, embedder)
            self._sorting.use_pair(embedder.version, pair.learner, record)
            self._use_embedder(embedder)

    def _tidy(self) -> None:
        """Remove what is neither in use, nor what one would go back to, nor being worked at; also what a kill left.

        Nobody misses what stays here, so that trouble with it is only noted.
        """
        from homespun.album.refining_worker import FEATURES
        from homespun.album.vision import ASSETS, BACKBONE, version_of

        folders = self._store.data_dir / FOLDER
        if not folders.exists():
            return
        with self._store.reader() as connection:
            query = "SELECT folder FROM refinement WHERE id IN (?1, (SELECT previous FROM refinement WHERE id = ?1))"
            kept = {row[0] for row in connection.execute(query, (self._store.setting(CURRENT) or 0,))}
        run = self._store.setting(UNDER_WAY)
        under_way = {json.loads(run)["folder"]} if run else set()
        try:
            for folder in folders.iterdir():
                if folder.is_dir() and folder.name not in kept | under_way:
                    shutil.rmtree(folder)
                elif folder.name in kept:
                    (folder / FEATURES).unlink(missing_ok=True)  # they are in the library
            networks = [folders / name / BACKBONE for name in kept | under_way] + [ASSETS / BACKBONE]
            versions = [version_of(path) for path in networks if path.exists()] + [
                self._store.setting("backbone") or ""
            ]
            marks = ", ".join("?" * len(versions))
            with self._store.transaction() as connection:
                connection.execute(f"DELETE FROM feature WHERE backbone NOT IN ({marks})", versions)
        except (LibraryError, OSError) as error:
            logger.warning("files of older refinements could not be removed: %s", error)

    def _forget(self, folder: Path) -> None:
        self._store.set_setting(UNDER_WAY, "", durable=True)
        shutil.rmtree(folder, ignore_errors=True)


def _refinement(id_: int, began_at: str, ended_at: str, outcome: str, result: str, current: bool) -> Refinement:
    said = json.loads(result)
    verdict = said["verdict"]
    family, builtin = verdict["family"], verdict["builtin"]
    return Refinement(
        id=id_,
        began_at=began_at,
        ended_at=ended_at,
        outcome=outcome,
        reason=verdict["reason"],
        photos=family["photos"],
        before=family["champion"],
        after=family["challenger"],
        gained=family["gained"],
        lost=family["lost"],
        chance=verdict["chance"],
        builtin_before=builtin["champion"],
        builtin_after=builtin["challenger"],
        topics=[TopicGain(key, *numbers) for key, numbers in verdict["topics"].items()],
        seconds=said["seconds"],
        cpu_seconds=said["cpu_seconds"],
        peak_bytes=said["peak_bytes"],
        current=current,
    )


def _set(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, value))


def _damaged(error: Exception) -> LibraryError:
    return LibraryError(f"the refined network is damaged; go back with `homespun album learn rollback` ({error})")
