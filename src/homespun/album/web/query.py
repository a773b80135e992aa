"""What a page or the API was asked to list: a search, as it stands in a URL. Shared by pages.py and api.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, TypedDict, get_args
from urllib.parse import urlencode

from fastapi import Depends, Query

from homespun.album.model import Order

PAGE_SIZE = 60
LONGEST_TEXT = 200
LARGEST_OFFSET = 10_000_000


class Criteria(TypedDict):
    """The keyword arguments of `Album.photos` and `Album.neighbours` that say which photos."""

    topic: str | None
    text: str | None
    date_from: str | None
    date_to: str | None
    place: str | None
    sort: Order


@dataclass(frozen=True)
class PhotoQuery:
    """Which photos, in which order. Empty fields do not restrict."""

    topic: str | None = None
    text: str | None = None
    date_from: str | None = None
    date_to: str | None = None
    place: str | None = None
    sort: Order = "date"

    @property
    def criteria(self) -> Criteria:
        return Criteria(
            topic=self.topic,
            text=self.text,
            date_from=self.date_from,
            date_to=self.date_to,
            place=self.place,
            sort=self.sort,
        )

    @property
    def restricts(self) -> bool:
        return any((self.topic, self.text, self.date_from, self.date_to, self.place))

    def in_topic(self, topic: str | None) -> PhotoQuery:
        return replace(self, topic=topic)

    def between(self, date_from: str | None, date_to: str | None) -> PhotoQuery:
        return replace(self, date_from=date_from, date_to=date_to)

    def at_place(self, place: str | None) -> PhotoQuery:
        return replace(self, place=place)

    def ordered(self, sort: Order) -> PhotoQuery:
        return replace(self, sort=sort)

    def href(self, path: str, offset: int = 0, extra: Mapping[str, str] | None = None) -> str:
        """`path` with this search as its query string, names as in pages (`from`, `to`)."""
        named = {
            "topic": self.topic,
            "text": self.text,
            "from": self.date_from,
            "to": self.date_to,
            "place": self.place,
            "sort": None if self.sort == "date" else self.sort,
            "offset": str(offset) if offset else None,
            **(extra or {}),
        }
        query = urlencode({name: value for name, value in named.items() if value})
        return f"{path}?{query}" if query else path


_Text = Annotated[str | None, Query(max_length=LONGEST_TEXT)]


def _from_url(
    topic: _Text = None,
    text: _Text = None,
    date_from: Annotated[str | None, Query(alias="from", max_length=10)] = None,
    date_to: Annotated[str | None, Query(alias="to", max_length=10)] = None,
    place: _Text = None,
    sort: Annotated[str, Query(max_length=20)] = "date",
) -> PhotoQuery:
    # Pages forgive what the API refuses: an unknown order in an old bookmark is no reason to show an error.
    order: Order = next((known for known in get_args(Order) if known == sort), "date")
    topic, text, date_from, date_to, place = (
        (value or "").strip() or None for value in (topic, text, date_from, date_to, place)
    )
    return PhotoQuery(topic, text, date_from, date_to, place, order)


QueryFromUrl = Annotated[PhotoQuery, Depends(_from_url)]
OffsetFromUrl = Annotated[int, Query(ge=0, le=LARGEST_OFFSET)]
