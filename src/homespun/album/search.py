"""Finding photos by topic, date, place and words, and reading what is known of them.

`Album` calls these with a standing and a reading connection. Topics and dates are looked up in the standing, in memory,
places and words in the database; so a page takes as long in a library of fifty thousand photos as in a small one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePath

import numpy as np

from homespun.album.errors import PhotoError, SearchError
from homespun.album.model import Month, Photo, PhotoTopic, Place
from homespun.album.standing import DATE, Booleans, Ids, Standing
from homespun.album.store import readable, searchable
from homespun.album.topics import TopicRow

UNSORTED = "unsorted"

# Photos asked for at a time; more would hold up the server's other answers.
LARGEST_PAGE = 1000

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
# Comes after every character of a date, so that "2024-05" + this is the end of that month.
_AFTER = "~"


def find(
    connection: sqlite3.Connection,
    standing: Standing,
    *,
    topic: TopicRow | None = None,
    unsorted: bool = False,
    text: str | None = None,
    date_from: str | None = None,
    date_to: str | None = None,
    place: str | None = None,
    ascending: bool = False,
) -> Ids:
    """Ids (M,) by date of the photos that have a file and match all that is given. Raises `SearchError`."""
    rows = standing.by_date[_between(standing, date_from, date_to)]
    chosen = standing.available
    if topic is not None:
        chosen = chosen & standing.in_any([topic])
    if unsorted:
        chosen = chosen & ~standing.in_any(row for row in standing.topics if not row.hidden)
    if place:
        query = "SELECT id FROM photo WHERE place IN (SELECT key FROM place WHERE ? IN (key, name_en, name_zh))"
        chosen = chosen & _of_these(connection, query, place, standing)
    for word in searchable(text or "").split():
        named = standing.in_any(row for row in standing.topics if _names(row, word))
        query = "SELECT photo_id FROM photo_text WHERE instr(text, ?)"
        chosen = chosen & (named | _of_these(connection, query, word, standing))
    ids = standing.ids[rows[chosen[rows]]]
    return ids if ascending else ids[::-1]


def _between(standing: Standing, date_from: str | None, date_to: str | None) -> slice:
    """Where the photos of these dates stand among all of them by date."""
    if not date_from and not date_to:
        return slice(None)
    first = checked_date(date_from) if date_from else ""
    last = (checked_date(date_to) if date_to else "") + _AFTER
    if first > last:
        raise SearchError(f"the search ends ({date_to}) before it begins ({date_from})")
    limits = np.array([first.encode(), last.encode()], dtype=DATE)
    begin, end = np.searchsorted(standing.dates[standing.by_date], limits)
    return slice(int(begin), int(end))


def _of_these(connection: sqlite3.Connection, query: str, value: str, standing: Standing) -> Booleans:
    """Which photos (N,) a query names."""
    ids = np.array([row[0] for row in connection.execute(query, (value,))], dtype=np.int64)
    return np.isin(standing.ids, ids)


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
    connection: sqlite3.Connection, ids: Iterable[int], standing: Standing, *, suggestions: int = 0
) -> list[Photo]:
    """The photos of these ids, in this order, with the topics that they are in or were said not to be in.

    `suggestions` adds so many of the likeliest other topics. Raises `PhotoError` if one of them does not exist.
    """
    return [_read_photo(connection, int(photo_id), standing, suggestions) for photo_id in ids]


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
    standing: Standing,
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
    shown = _topics_of(standing, photo_id)
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


def _topics_of(standing: Standing, photo_id: int) -> list[PhotoTopic]:
    """How a photo stands to every topic; nothing yet of a photo that was not sorted."""
    row = standing.row(photo_id)
    if row is None:
        return []
    scored, confidences = bool(standing.scored[row]), standing.confidences[row].tolist()
    said, member = standing.said[row].tolist(), standing.member[row].tolist()
    return [
        PhotoTopic(
            key=topic.key,
            name_en=topic.name_en,
            name_zh=topic.name_zh,
            confidence=confidences[column] if scored and not said[column] else None,
            source="human" if said[column] else "automatic",
            present=member[column],
        )
        for column, topic in enumerate(standing.topics)
    ]


def _names(topic: TopicRow, word: str) -> bool:
    return any(word in searchable(name) for name in (topic.name_en, topic.name_zh))
