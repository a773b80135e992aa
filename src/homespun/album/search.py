"""Finding photos by topic, date, place and words, and reading what is known of them, page by page.

`Album` calls these with a reading connection. Every list is served from an index that is in the order shown, so a page
takes as long in a library of fifty thousand photos as in a small one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath

from homespun.album.errors import PhotoError, SearchError
from homespun.album.model import Month, Photo, PhotoTopic, Place
from homespun.album.store import readable, searchable
from homespun.album.topics import TopicRow

UNSORTED = "unsorted"

# Photos asked for at a time; more would hold up the server's other answers.
LARGEST_PAGE = 1000

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
# Comes after every character of a date, so that "2024-05" + this is the end of that month.
_AFTER = "~"

Confidences = Callable[[Sequence[int]], dict[int, dict[int, float]]]


@dataclass(frozen=True)
class Search:
    """A search as SQL: `source` lists ids and dates, `where` and `values` narrow it down.

    `indexed` says that an index holds just what is asked for, in order.
    """

    source: str
    where: str
    values: tuple[str | int, ...]
    indexed: bool

    def page(
        self, connection: sqlite3.Connection, *, ascending: bool, offset: int, limit: int
    ) -> tuple[list[int], int]:
        """Ids of the photos of one page by date, and how many photos match."""
        if self.indexed:
            ids = self.ids(connection, ascending=ascending, offset=offset, limit=limit)
            return ids, self.count(connection)
        # Looking at every photo once costs less than looking twice.
        every = self.ids(connection, ascending=ascending, offset=0, limit=-1)
        return every[offset : offset + limit], len(every)

    def ids(self, connection: sqlite3.Connection, *, ascending: bool, offset: int, limit: int) -> list[int]:
        """Ids of the photos of one page by date; a limit of -1 gives all that follow."""
        way = "ASC" if ascending else "DESC"
        query = f"SELECT id FROM {self.source} WHERE {self.where} ORDER BY sort_date {way}, id {way} LIMIT ? OFFSET ?"
        return [row[0] for row in connection.execute(query, (*self.values, limit, offset))]

    def count(self, connection: sqlite3.Connection) -> int:
        """How many photos match."""
        query = f"SELECT count(*) FROM {self.source} WHERE {self.where}"
        return int(connection.execute(query, self.values).fetchone()[0])


def search(
    topics: Sequence[TopicRow],
    *,
    topic: TopicRow | None = None,
    unsorted: bool = False,
    text: str | None = None,
    date_from: str | None = None,
    date_to: str | None = None,
    place: str | None = None,
) -> Search:
    """A search for photos that match all that is given; `topics` are the album's, for words that name one.

    Raises `SearchError` for a date that is none.
    """
    if topic is not None:
        source, where = "(SELECT topic_id, photo_id AS id, sort_date FROM membership)", ["topic_id = ?"]
        values: list[str | int] = [topic.id]
    else:
        source, where, values = "photo", ["vanished = 0"], []
    if unsorted:
        shown = ", ".join(str(row.id) for row in topics if not row.hidden)
        where.append(f"id NOT IN (SELECT photo_id FROM membership WHERE topic_id IN ({shown or 'NULL'}))")
    if date_from:
        where.append("sort_date >= ?")
        values.append(checked_date(date_from))
    if date_to:
        where.append("sort_date < ?")
        values.append(checked_date(date_to) + _AFTER)
        if date_from and checked_date(date_from) > checked_date(date_to) + _AFTER:
            raise SearchError(f"the search ends ({date_to}) before it begins ({date_from})")
    if place:
        where.append(
            "id IN (SELECT photo.id FROM photo JOIN place ON place.key = photo.place "
            "WHERE ? IN (place.key, place.name_en, place.name_zh))"
        )
        values.append(place)
    for word in searchable(text or "").split():
        named = ", ".join(str(row.id) for row in topics if _names(row, word))
        where.append(
            "(id IN (SELECT photo_id FROM photo_text WHERE instr(text, ?)) "
            f"OR id IN (SELECT photo_id FROM membership WHERE topic_id IN ({named or 'NULL'})))"
        )
        values.append(word)
    indexed = not (unsorted or place or (text and text.strip()))
    return Search(source, " AND ".join(where), tuple(values), indexed)


def checked_date(text: str) -> str:
    """A year, month or day as it is written in the library. Raises `SearchError`."""
    if _DATE.fullmatch(text):
        try:
            datetime.fromisoformat((text + "-01-01")[:10])
        except ValueError:
            pass
        else:
            return text
    raise SearchError(f"{text!r} is no date; write a year, month or day as 2024, 2024-05 or 2024-05-31")


def check_page(offset: int, limit: int) -> None:
    """Raise `SearchError` for a page that cannot be."""
    if offset < 0:
        raise SearchError(f"a page can't begin at {offset}; the first photo is 0")
    if not 1 <= limit <= LARGEST_PAGE:
        raise SearchError(f"a page has 1 to {LARGEST_PAGE} photos, not {limit}")


def read_photos(
    connection: sqlite3.Connection,
    ids: Sequence[int],
    topics: Sequence[TopicRow],
    confidences: Confidences,
    *,
    suggestions: int = 0,
) -> list[Photo]:
    """The photos of these ids, in this order, with the topics that they are in or were said not to be in.

    `confidences` gives {photo id: {topic id: confidence}}; `suggestions` adds so many of the likeliest other topics.
    Raises `PhotoError` if one of them does not exist.
    """
    known = confidences(ids)
    return [_read_photo(connection, photo_id, topics, known.get(photo_id, {}), suggestions) for photo_id in ids]


def require_photos(connection: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Raise `PhotoError` if one of the ids is no photo's."""
    for photo_id in ids:
        if connection.execute("SELECT 1 FROM photo WHERE id = ?", (photo_id,)).fetchone() is None:
            raise PhotoError(f"there is no photo {photo_id}")


def read_places(connection: sqlite3.Connection) -> list[Place]:
    """Places that have photos, most photos first."""
    query = """
        SELECT place.key, name_en, name_zh, place.latitude, place.longitude, count(*) AS photos
        FROM photo JOIN place ON place.key = photo.place
        WHERE photo.place IS NOT NULL AND vanished = 0 GROUP BY place.key ORDER BY photos DESC, place.key
    """
    return [Place(*row) for row in connection.execute(query)]


def read_months(connection: sqlite3.Connection) -> list[Month]:
    """Months that have photos, newest first; the cover is the month's newest photo."""
    query = """
        SELECT substr(sort_date, 1, 7) AS month, count(*), id, max(sort_date)
        FROM photo WHERE vanished = 0 GROUP BY month ORDER BY month DESC
    """
    return [Month(month, photos, cover) for month, photos, cover, _ in connection.execute(query)]


def _read_photo(
    connection: sqlite3.Connection,
    photo_id: int,
    topics: Sequence[TopicRow],
    confidences: dict[int, float],
    suggestions: int,
) -> Photo:
    row = connection.execute(
        """
        SELECT path, content_hash, taken, sort_date, width, height, byte_size, photo.latitude, photo.longitude,
               place, name_en, name_zh, camera, format, vanished
        FROM photo LEFT JOIN place ON place.key = photo.place WHERE photo.id = ?
        """,
        (photo_id,),
    ).fetchone()
    if row is None:
        raise PhotoError(f"there is no photo {photo_id}")
    path, *facts, vanished = row
    files = connection.execute("SELECT path FROM file WHERE photo_id = ? AND vanished = 0 ORDER BY path", (photo_id,))
    members = {
        topic_id
        for (topic_id,) in connection.execute("SELECT topic_id FROM membership WHERE photo_id = ?", (photo_id,))
    }
    said = dict(connection.execute("SELECT topic_id, value FROM label WHERE photo_id = ?", (photo_id,)).fetchall())
    shown = [_photo_topic(topic, topic.id in members, said.get(topic.id), confidences) for topic in topics]
    others = sorted(
        (topic for topic in shown if not topic.present and topic.source == "automatic"),
        key=lambda topic: -(topic.confidence or 0.0),
    )
    kept = [topic for topic in shown if topic.present or topic.source == "human"] + others[:suggestions]
    kept.sort(key=lambda topic: (not topic.present, topic.source != "human", -(topic.confidence or 0.0)))
    content_hash, taken, sort_date, width, height, byte_size, latitude, longitude, *rest = facts
    place_key, place, place_zh, camera, format_ = rest
    return Photo(
        id=photo_id,
        name=PurePath(readable(path)).name,
        paths=[readable(file) for (file,) in files],
        content_hash=content_hash,
        taken=taken,
        sort_date=sort_date,
        width=width,
        height=height,
        byte_size=byte_size,
        latitude=latitude,
        longitude=longitude,
        place=place,
        place_zh=place_zh,
        place_key=place_key,
        camera=camera,
        format=format_,
        status="vanished" if vanished else "ok",
        topics=kept,
    )


def _photo_topic(topic: TopicRow, present: bool, said: int | None, confidences: dict[int, float]) -> PhotoTopic:
    return PhotoTopic(
        key=topic.key,
        name_en=topic.name_en,
        name_zh=topic.name_zh,
        confidence=None if said else confidences.get(topic.id),
        source="human" if said else "automatic",
        present=present,
    )


def _names(topic: TopicRow, word: str) -> bool:
    return any(word in searchable(name) for name in (topic.name_en, topic.name_zh))
