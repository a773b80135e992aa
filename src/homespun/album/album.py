"""The album's one door: everything that the command line and the web can see or do goes through `Album`.

It ties the store, the index run, the topics learnt from scores, a family's corrections, doubts and searches together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from homespun.album.model import (
    Answer,
    Change,
    Doubt,
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

if TYPE_CHECKING:
    from homespun.album.indexer import IndexReport, Progress


class Album:
    """A family's album in one data folder. Safe to share between the threads of a server; use as a context manager."""

    def __init__(
        self, data_dir: str | os.PathLike[str], *, embedder: Any = None, read_only: bool = False
    ) -> None: ...

    def close(self) -> None:
        """Save what was learnt and give the data folder back."""
        raise NotImplementedError

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Index

    def index(
        self,
        roots: Iterable[str | os.PathLike[str]] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: Event | None = None,
    ) -> IndexReport:
        """Read new and changed photos of the given folders (remembered) or of all that are remembered."""
        raise NotImplementedError

    def status(self) -> Status:
        """The library in numbers."""
        raise NotImplementedError

    def problems(self) -> list[Problem]:
        """Files that cannot be read, with reasons."""
        raise NotImplementedError

    # Topics

    def topics(self, include_hidden: bool = False) -> list[Topic]:
        """The topics, built-in ones first."""
        raise NotImplementedError

    def topic(self, key: str) -> Topic:
        """One topic, by key or by a name of it. Raises `TopicError` if there is none."""
        raise NotImplementedError

    def add_topic(self, name: str, photo_ids: Sequence[int], name_zh: str | None = None) -> Topic:
        """A new topic from one photo or more."""
        raise NotImplementedError

    def rename_topic(self, key: str, name: str | None = None, name_zh: str | None = None) -> Change:
        """Give a topic another name, in one language or both; its key stays."""
        raise NotImplementedError

    def hide_topic(self, key: str, hidden: bool = True) -> Change:
        """Take a topic off the pages, or put it back. It goes on learning."""
        raise NotImplementedError

    def remove_topic(self, key: str) -> Change:
        """Remove a topic that the family made (a built-in one can be hidden)."""
        raise NotImplementedError

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
        """One page of the photos that match all that is given. Dates: "2024", "2024-05" or "2024-05-01", inclusive.

        `topic` is a key, or "unsorted" for photos that are in none. `text` matches words in file and folder names,
        topic names in both languages, places and cameras.
        """
        raise NotImplementedError

    def photo(self, photo_id: int) -> Photo:
        """One photo. Raises `PhotoError` if there is none of this id."""
        raise NotImplementedError

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
        """The photos before and after one in the order of a search."""
        raise NotImplementedError

    def places(self) -> list[Place]:
        """Places that have photos, most photos first."""
        raise NotImplementedError

    def timeline(self) -> list[Month]:
        """Months that have photos, newest first."""
        raise NotImplementedError

    def thumbnail_path(self, photo_id: int) -> Path:
        """The thumbnail's file (JPEG, long side 480), made again if it is missing. Raises `PhotoError`."""
        raise NotImplementedError

    def render(self, photo_id: int, long_side: int) -> bytes:
        """The photo as a JPEG of at most this long side, upright, without metadata. Raises `PhotoError`."""
        raise NotImplementedError

    def original_path(self, photo_id: int) -> Path:
        """A file that holds the photo now. Raises `PhotoError` if it has none."""
        raise NotImplementedError

    # Corrections

    def correct(
        self,
        photo_ids: Sequence[int],
        positive: Sequence[str] = (),
        negative: Sequence[str] = (),
        none: bool = False,
    ) -> Change:
        """Say of photos that they are in some topics and not in others, or in none of them."""
        raise NotImplementedError

    def undo(self, change_id: int | None = None) -> Change:
        """Take back a change, in any order; without an id the last one that holds. Raises `ChangeError`."""
        raise NotImplementedError

    def redo(self, change_id: int) -> Change:
        """Put back a change that was undone."""
        raise NotImplementedError

    def changes(self, limit: int = 50) -> list[Change]:
        """What was changed, newest first, undone ones included (without `moved`)."""
        raise NotImplementedError

    # Doubts

    def doubts(self, limit: int = 20) -> list[Doubt]:
        """Photos that the album is probably wrong about, the most useful first; never the same question twice."""
        raise NotImplementedError

    def answer_doubt(self, photo_id: int, topic: str, answer: Answer) -> Change:
        """Answer a question: the photo is in the topic, is not, or skip it."""
        raise NotImplementedError

    # Export

    def export(
        self,
        path: str | os.PathLike[str],
        format: str = "json",
        *,
        sidecars: str | os.PathLike[str] | bool = False,
    ) -> int:
        """Write photos, topics and labels as "json" or "csv"; return the number of photos.

        `sidecars`: also XMP sidecars, into a folder, or beside the originals if True. Originals are never touched.
        """
        raise NotImplementedError
