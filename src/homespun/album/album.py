"""The album's one door: all that the command line and the web can see or do goes through `Album`.

It ties together the store, index runs, the topics learnt from scores, a family's corrections, doubts and searches.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from homespun.album import corrections, doubts, export, knowledge, topics
from homespun.album import search as searching
from homespun.album.asking_again import Beliefs, ask_again
from homespun.album.corrections import Label
from homespun.album.doubts import Question
from homespun.album.errors import LibraryBusyError, LibraryError, PhotoError, SearchError, TopicError
from homespun.album.imaging.reasons import NOT_PHOTOS
from homespun.album.model import (
    Answer,
    Change,
    Doubt,
    Learnt,
    Month,
    Neighbours,
    Order,
    Page,
    Photo,
    Place,
    Problem,
    Status,
    Topic,
)
from homespun.album.pictures import Pictures
from homespun.album.refining import SHIPPED, Refining, current_pair, shipped_version
from homespun.album.search import UNSORTED
from homespun.album.sorting import Sorting
from homespun.album.standing import Ids, Standing
from homespun.album.store import Store, now, readable
from homespun.learning import TopicLearner

if TYPE_CHECKING:
    from homespun.album.indexer import IndexReport, Progress

# How often photos that an index run brings in are sorted into topics, while it runs.
SECONDS_BETWEEN_SORTINGS = 2.0
THUMBNAIL_SIDE = 480
SUGGESTIONS = 8
QUESTIONS_COUNTED = 200


class Embedder(Protocol):
    """What turns photos into features (`vision.Embedder` does)."""

    @property
    def dimensions(self) -> int: ...
    @property
    def version(self) -> str: ...
    def embed_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]: ...


class Album:
    """A family's album in one data folder. Safe to share between threads; use it as a context manager.

    `embedder` is loaded when first needed if it is not given. `learner` makes the learner that the album starts
    from (by default the one that ships), and `builtin` names its topics in English and Chinese.
    With `read_only` another process may hold the folder; whatever would change it raises `LibraryError`.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        embedder: Embedder | None = None,
        learner: Callable[[], TopicLearner] | None = None,
        builtin: Mapping[str, tuple[str, str]] | None = None,
        read_only: bool = False,
    ) -> None:
        self._embedder = embedder
        self._store = Store.open(data_dir, read_only=read_only)
        try:
            if learner is None and builtin is None:
                builtin = topics.builtin_names(TopicLearner.builtin().topics)
            pair = current_pair(self._store) if embedder is None and learner is None else None
            self._sorting = Sorting(self._store, learner or (pair or SHIPPED).learner, builtin)
        except BaseException:
            self._store.close()
            raise
        self._pictures = Pictures(self._store)
        self._indexing = threading.Lock()
        self.refining = Refining(self._store, self._sorting, self._indexing, self._use_embedder)
        """Refining the network itself on what this family said: status, history, refine, rollback, set_automatic."""
        self._again: tuple[Standing | None, Beliefs] = (None, {})
        self._questions: tuple[Standing | None, int, list[Question]] = (None, 0, [])

    @property
    def data_dir(self) -> Path:
        """The album's own folder."""
        return self._store.data_dir

    def announce(self, address: str) -> None:
        """Let other programs know at which address this one serves the album."""
        self._store.announce(address)

    def close(self) -> None:
        """Save what was learnt and give the data folder back. Safe to call twice."""
        self.refining.close()
        self._sorting.close()
        self._pictures.close()
        self._store.close()

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Index

    def index(
        self,
        roots: Iterable[str | os.PathLike[str]] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> IndexReport:
        """Read new and changed photos of the given folders (remembered for later runs) or of all remembered ones.

        Photos are sorted into topics while the run goes on. `stop`, once set, ends it after the photos in hand.
        Raises `LibraryError` for a folder that is not there, `LibraryBusyError` if a run is under way.
        """
        from homespun.album import indexer

        folders = None if roots is None else [_checked_root(root) for root in roots]
        if not self._indexing.acquire(blocking=False):
            raise LibraryBusyError("photos are being indexed already; wait until that is done")
        try:
            if folders:
                self._store.add_roots(folders)
            chosen = folders or self._store.roots()
            if not chosen:
                raise LibraryError("the album has no folder of photos yet; name one: `homespun album index FOLDER`")
            embedder = self._load_embedder()
            self._sorting.use_backbone(embedder.version)
            sorted_at = time.monotonic()

            def report(progress: Progress) -> None:
                nonlocal sorted_at
                if time.monotonic() - sorted_at >= SECONDS_BETWEEN_SORTINGS:
                    self.sort_new()
                    sorted_at = time.monotonic()
                if on_progress is not None:
                    on_progress(progress)

            report_ = indexer.index(self._store, chosen, embedder, on_progress=report, stop=stop)
            self.sort_new()
            self._sorting.flush()
            self._store.set_setting("last_indexed", now())
            return report_
        finally:
            self._indexing.release()

    def roots(self) -> list[Path]:
        """The folders of photos that are remembered."""
        return [Path(os.fsdecode(root)) for root in self._store.roots()]

    def sort_new(self) -> None:
        """Sort photos that came, returned or vanished since the last time into topics."""
        self._sorting.sort_new()

    def prepare(self) -> None:
        """Load features and learner now, rather than when they are first needed."""
        self._sorting.board()

    def status(self) -> Status:
        """The library in numbers."""
        roots = [readable(root) for root in self._store.roots()]
        backbone = self._store.setting("backbone")
        others = ", ".join(f"'{code}'" for code in NOT_PHOTOS)
        with self._store.reader() as connection:

            def count(query: str, *values: str) -> int:
                return int(connection.execute(query, values).fetchone()[0])

            return Status(
                data_dir=str(self._store.data_dir),
                roots=roots,
                photos=count("SELECT count(*) FROM photo WHERE vanished = 0"),
                vanished=count("SELECT count(*) FROM photo WHERE vanished = 1"),
                files=count("SELECT count(*) FROM file WHERE vanished = 0"),
                unreadable=count(f"SELECT count(*) FROM file WHERE reason IS NOT NULL AND reason NOT IN ({others})"),
                other_files=count(f"SELECT count(*) FROM file WHERE reason IN ({others})"),
                without_features=count(
                    "SELECT count(*) FROM photo WHERE vanished = 0 AND NOT EXISTS "
                    "(SELECT 1 FROM feature WHERE backbone = ? AND photo_id = photo.id)",
                    backbone or "",
                ),
                topics=count("SELECT count(*) FROM topic WHERE removed = 0"),
                family_topics=count("SELECT count(*) FROM topic WHERE removed = 0 AND builtin = 0"),
                labels=count("SELECT count(*) FROM label"),
                changes=count("SELECT count(*) FROM change"),
                backbone=backbone,
                last_indexed=self._store.setting("last_indexed"),
                indexing=self._indexing.locked(),
            )

    def problems(self) -> list[Problem]:
        """Files that are not shown, with reason codes (`imaging.reasons` has people's words for them).

        First what should be photos, then videos, documents and other files that never were.
        """
        query = "SELECT path, reason, detail FROM file WHERE reason IS NOT NULL ORDER BY path"
        with self._store.reader() as connection:
            found = [
                Problem(readable(path), reason, detail or "", reason not in NOT_PHOTOS)
                for path, reason, detail in connection.execute(query)
            ]
        return sorted(found, key=lambda problem: not problem.photo)

    # Topics

    def topics(self, include_hidden: bool = False) -> list[Topic]:
        """The topics with their numbers, built-in ones first."""
        return [topic for topic in self._sorting.topics() if include_hidden or not topic.hidden]

    def topic(self, key: str) -> Topic:
        """One topic, hidden or not, by its key or a name of it. Raises `TopicError` if there is none."""
        with self._store.reader() as connection:
            found = topics.find_topic(topics.read_topics(connection), key)
        return next(topic for topic in self._sorting.topics() if topic.key == found.key)

    def add_topic(self, name: str, photo_ids: Sequence[int], name_zh: str | None = None) -> Topic:
        """A new topic from one photo or more; the rest of the library is looked through at once.

        Raises `TopicError` for a name that is taken, `PhotoError` for a photo that does not exist.
        """
        english = topics.clean_name(name)
        chinese = topics.clean_name(name_zh) if name_zh else english
        photo_ids = _distinct(photo_ids)
        if not photo_ids:
            raise TopicError("a new topic needs at least one photo to learn from")

        def record(connection: sqlite3.Connection) -> int:
            searching.require_photos(connection, photo_ids)
            topic_id = topics.insert_topic(connection, english, chinese)
            return corrections.add_change(
                connection,
                "add-topic",
                topic_id=topic_id,
                details={"name_en": english, "name_zh": chinese},
                labels=[Label(photo_id, topic_id, 1) for photo_id in photo_ids],
            )

        return self.topic(self._sorting.apply(record).topics[0])

    def rename_topic(self, key: str, name: str | None = None, name_zh: str | None = None) -> Change:
        """Give a topic another name, in one language or both; its key stays. Raises `TopicError`."""
        names = {"name_en": name, "name_zh": name_zh}
        details: dict[str, str | bool] = {k: topics.clean_name(v) for k, v in names.items() if v is not None}
        if not details:
            raise TopicError("a topic is renamed in English, Chinese or both; no name was given")

        def record(connection: sqlite3.Connection) -> int:
            row = topics.find_topic(topics.read_topics(connection), key)
            topics.refuse_taken_names(connection, map(str, details.values()), except_topic=row.id)
            return corrections.add_change(connection, "rename-topic", topic_id=row.id, details=details)

        return self._sorting.apply(record)

    def hide_topic(self, key: str, hidden: bool = True) -> Change:
        """Take a topic off the pages, or put it back; it goes on learning. Raises `TopicError`."""

        def record(connection: sqlite3.Connection) -> int:
            row = topics.find_topic(topics.read_topics(connection), key)
            return corrections.add_change(connection, "hide-topic", topic_id=row.id, details={"hidden": hidden})

        return self._sorting.apply(record)

    def remove_topic(self, key: str) -> Change:
        """Remove a topic that the family made; undo brings it back with all its labels. Raises `TopicError`."""

        def record(connection: sqlite3.Connection) -> int:
            row = topics.find_topic(topics.read_topics(connection), key)
            if row.builtin:
                raise TopicError(f"{row.key} is a built-in topic: it can be hidden, not removed")
            return corrections.add_change(connection, "remove-topic", topic_id=row.id)

        return self._sorting.apply(record)

    # Photos

    def photos(
        self,
        topic: str | None = None,
        text: str | None = None,
        date_from: str | None = None,
        date_to: str | None = None,
        place: str | None = None,
        sort: Order = "date",
        offset: int = 0,
        limit: int = 60,
    ) -> Page:
        """One page of the photos that match all that is given.

        `topic` is a key or name, or "unsorted" for photos that are in none. `text` holds words, each of which must be
        in a file or folder name, a topic's name in either language, the place or the camera. Dates are written
        "2024", "2024-05" or "2024-05-31" and are inclusive. `place` is a key or name out of `places`. The orders
        "confidence" (surest first) and "doubt" (least sure first) need a topic.
        Raises `TopicError`, `SearchError`.
        """
        searching.check_page(offset, limit)
        with self._sorted() as (standing, connection):
            ids = _find(connection, standing, topic, text, date_from, date_to, place, sort)
            photos = searching.read_photos(connection, ids[offset : offset + limit], standing)
        return Page(photos=photos, total=len(ids), offset=offset, limit=limit)

    def photo(self, photo_id: int) -> Photo:
        """One photo, with the likeliest of the topics that it is not in. Raises `PhotoError` if there is none."""
        with self._sorted() as (standing, connection):
            (photo,) = searching.read_photos(connection, [photo_id], standing, suggestions=SUGGESTIONS)
        return photo

    def photo_id(self, reference: str) -> int:
        """The id of a photo by its id as text, or by the path of one of its files. Raises `PhotoError`."""
        path = os.fsencode(Path(reference).expanduser().absolute())
        with self._store.reader() as connection:
            row = connection.execute("SELECT photo_id FROM file WHERE path IN (?, ?)", (path, os.path.realpath(path)))
            found = row.fetchone()
        if found is not None and found[0] is not None:
            return int(found[0])
        if found is not None:
            raise PhotoError(f"{reference} can't be read; `homespun album status --problems` says why")
        if reference.isascii() and reference.isdigit() and len(reference) < 19:
            return int(reference)
        raise PhotoError(f"{reference} is neither the number of a photo nor a file in the album")

    def neighbours(
        self,
        photo_id: int,
        topic: str | None = None,
        text: str | None = None,
        date_from: str | None = None,
        date_to: str | None = None,
        place: str | None = None,
        sort: Order = "date",
    ) -> Neighbours:
        """The photos before and after one in the order of a search (as `photos`)."""
        with self._sorted() as (standing, connection):
            ids = _find(connection, standing, topic, text, date_from, date_to, place, sort)
        found = np.flatnonzero(ids == photo_id)
        if not len(found):
            return Neighbours(previous=None, next=None, position=None, total=len(ids))
        position = int(found[0])
        return Neighbours(
            previous=int(ids[position - 1]) if position > 0 else None,
            next=int(ids[position + 1]) if position + 1 < len(ids) else None,
            position=position,
            total=len(ids),
        )

    def places(self) -> list[Place]:
        """Places that have photos, most photos first."""
        with self._store.reader() as connection:
            return searching.read_places(connection)

    def timeline(self) -> list[Month]:
        """Months that have photos, newest first."""
        with self._store.reader() as connection:
            return searching.read_months(connection)

    def thumbnail_path(self, photo_id: int) -> Path:
        """The thumbnail's file (JPEG, long side 480), made again if it is missing. Raises `PhotoError`."""
        return self._pictures.thumbnail(photo_id)

    def render(self, photo_id: int, long_side: int) -> bytes:
        """The photo as a JPEG of at most this long side, upright, without metadata. Raises `PhotoError`."""
        return self._pictures.render(photo_id, long_side)

    # Corrections

    def correct(
        self,
        photo_ids: Sequence[int],
        positive: Sequence[str] = (),
        negative: Sequence[str] = (),
        none: bool = False,
    ) -> Change:
        """Say of photos that they are in some topics and not in others, or (`none`) in none that there are now.

        It holds at once and for good: no later run changes what a person said. Returns what else moved.
        Raises `PhotoError`, `TopicError`.
        """
        photo_ids = _distinct(photo_ids)
        if not photo_ids:
            raise PhotoError("a correction needs at least one photo")

        def record(connection: sqlite3.Connection) -> int:
            searching.require_photos(connection, photo_ids)
            values = corrections.said_of_topics(topics.read_topics(connection), positive, negative, none)
            said = [Label(photo_id, topic_id, value) for photo_id in photo_ids for topic_id, value in values.items()]
            details: dict[str, str | bool] = {"none": True} if none else {}
            return corrections.add_change(connection, "label", details=details, labels=said)

        return self._sorting.apply(record)

    def undo(self, change_id: int | None = None) -> Change:
        """Take back a change, whatever came after it; without an id the last one that holds.

        What holds then is what would hold had it never been made. Raises `ChangeError`.
        """

        def record(connection: sqlite3.Connection) -> int:
            chosen = corrections.last_change(connection) if change_id is None else change_id
            corrections.set_undone(connection, chosen, True)
            return chosen

        return self._sorting.apply(record, new=False)

    def redo(self, change_id: int) -> Change:
        """Put back a change that was undone, at its old place among the others. Raises `ChangeError`."""

        def record(connection: sqlite3.Connection) -> int:
            corrections.set_undone(connection, change_id, False)
            return change_id

        return self._sorting.apply(record, new=False)

    def changes(self, limit: int = 50) -> list[Change]:
        """What was changed, newest first, undone ones included."""
        with self._store.reader() as connection:
            return corrections.read_changes(connection, limit)

    # What was learnt

    def learnt(self) -> Learnt:
        """How often the album was right before people spoke, how well it knows each topic, and what would help most."""
        with self._sorted() as (standing, connection):
            waiting = Counter(question.topic for question in self._asked(connection, standing, QUESTIONS_COUNTED))
            return knowledge.read_learnt(connection, standing, waiting, self._asked_again(connection, standing))

    def _asked_again(self, connection: sqlite3.Connection, standing: Standing) -> Beliefs:
        """What would be believed today of photos that people spoke of, had nobody told it.

        A refined network was trained on most of them: of those the network that ships is asked, with all else learnt.
        """
        if self._again[0] is not standing:
            backbone = self._store.setting("backbone") or ""
            photos = self._sorting.board().photos
            beliefs = ask_again(connection, standing, backbone, self._sorting.new_learner, photos)
            if known := self.refining.trained_on():
                beliefs = {cell: belief for cell, belief in beliefs.items() if cell[0] not in known}
                shipped = ask_again(connection, standing, shipped_version(), SHIPPED.learner, None)
                beliefs |= {cell: belief for cell, belief in shipped.items() if cell[0] in known}
            self._again = (standing, beliefs)
        return self._again[1]

    # Doubts

    def doubts(self, limit: int = 20) -> list[Doubt]:
        """Photos that the album is probably wrong about, the most useful to ask first.

        What was answered or skipped is never asked again (but for an answer that was undone).
        """
        with self._sorted() as (standing, connection):
            questions = self._asked(connection, standing, limit)
            photos = searching.read_photos(connection, [q.photo_id for q in questions], standing)
        return [
            Doubt(photo=photo, topic=q.topic, confidence=q.confidence, present=q.present, reason=q.reason)
            for photo, q in zip(photos, questions, strict=True)
        ]

    def _asked(self, connection: sqlite3.Connection, standing: Standing, limit: int) -> list[Question]:
        """The first questions about how all stands; every change, a skipped question too, makes a new standing."""
        asked_of, most, questions = self._questions
        if asked_of is not standing or most < limit:
            questions = doubts.questions(connection, standing, self._sorting.board().photos, limit)
            self._questions = (standing, limit, questions)
        return questions[:limit]

    def answer_doubt(self, photo_id: int, topic: str, answer: Answer) -> Change:
        """Answer a question: the photo is in the topic ("yes"), is not ("no"), or don't ask again ("skip").

        Raises `PhotoError`, `TopicError`.
        """
        values = {"yes": 1, "no": -1, "skip": 0}
        if answer not in values:
            raise TopicError(f"the answer to a doubt is yes, no or skip, not {answer!r}")

        def record(connection: sqlite3.Connection) -> int:
            searching.require_photos(connection, [photo_id])
            row = topics.find_topic(topics.read_topics(connection), topic)
            said = [Label(photo_id, row.id, values[answer])] if values[answer] else []
            change_id = corrections.add_change(connection, "answer", details={"answer": answer}, labels=said)
            connection.execute("INSERT INTO question VALUES (?, ?, ?)", (photo_id, row.id, change_id))
            return change_id

        return self._sorting.apply(record)

    # Export

    def export(
        self,
        path: str | os.PathLike[str],
        format: str = "json",
        *,
        sidecars: str | os.PathLike[str] | bool = False,
    ) -> int:
        """Write all photos with their topics and labels as "json" or "csv"; return how many.

        `sidecars` also writes XMP files with the topics as keywords: into a folder, or beside the originals if True.
        Originals are never touched. Raises `OptionError`, `LibraryError`.
        """
        return export.export(self._store, self._sorting.board().standing, Path(path), format, sidecars)

    # How it works inside

    @contextmanager
    def _sorted(self) -> Iterator[tuple[Standing, sqlite3.Connection]]:
        """How all photos stand to all topics, and a connection for reading the rest of what is known of them."""
        # In this order: every photo of a standing is in the library that is read after it.
        standing = self._sorting.board().standing
        with self._store.reader() as connection:
            yield standing, connection

    def _load_embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = (current_pair(self._store) or SHIPPED).embedder()
        return self._embedder

    def _use_embedder(self, embedder: Embedder) -> None:
        self._embedder = embedder


def _find(
    connection: sqlite3.Connection,
    standing: Standing,
    topic: str | None,
    text: str | None,
    date_from: str | None,
    date_to: str | None,
    place: str | None,
    sort: Order,
) -> Ids:
    """All ids of a search, in its order."""
    chosen = topics.find_topic(standing.topics, topic) if topic and topic != UNSORTED else None
    by_date = sort in ("date", "date-ascending")
    if not by_date and chosen is None:
        raise SearchError(f"photos can be ordered by {sort} only within a topic")
    ids = searching.find(
        connection,
        standing,
        topic=chosen,
        unsorted=topic == UNSORTED,
        text=text,
        date_from=date_from,
        date_to=date_to,
        place=place,
        ascending=sort == "date-ascending",
    )
    if by_date or chosen is None:
        return ids
    return standing.by_confidence(ids, chosen.id, surest_first=sort == "confidence")


def _checked_root(root: str | os.PathLike[str]) -> bytes:
    path = Path(root).expanduser()
    if not path.exists():
        raise LibraryError(f"there is no folder {path}")
    if not path.is_dir():
        raise LibraryError(f"{path} is not a folder; name the folder that holds the photos")
    return os.fsencode(path.resolve())


def _distinct(photo_ids: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(int(photo_id) for photo_id in photo_ids))
