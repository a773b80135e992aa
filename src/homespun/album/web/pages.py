"""The pages that people see: server-rendered HTML over the album, readable without scripts.

Scripts add corrections, endless scrolling and the remote control; every change they make goes through the API (api.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from homespun.album import Album
from homespun.album.errors import PhotoError, SearchError
from homespun.album.model import Order, Photo, Topic
from homespun.album.search import UNSORTED
from homespun.album.web.api import Identifier, Key, existing_topic
from homespun.album.web.language import Language, Speech
from homespun.album.web.learnt_page import learnt_context, refining_context
from homespun.album.web.presentation import Presenter, thumbnail_url, topic_path
from homespun.album.web.query import PAGE_SIZE, OffsetFromUrl, PhotoQuery, QueryFromUrl
from homespun.album.web.rendering import Renderer
from homespun.album.web.visitor import request_speech

ROW_LENGTH = 12
DOUBTS_AT_ONCE = 10
CHANGES_SHOWN = 100
LAST_CHANGES = 4
MOVES_SHOWN = 6
PICTURES_PER_CHANGE = 4
PROBLEMS_SHOWN = 500
# The picture on top of the home page: an old thumbnail drawn across a TV would be all squares.
HERO_CANDIDATES = 12
HERO_WIDTH = 1600
HERO_TOPICS = 5
HERO_LEAST = 3
CHOICES_SHOWN = 24
SUGGESTIONS = 4
WORTH_ASKING = 0.02
ORDERS: tuple[Order, ...] = ("date", "date-ascending", "confidence", "doubt")

PARTS = {"tiles": "tiles.html", "count": "count.html"}
"""Parts of a grid that scripts fetch alone."""

Part = Annotated[str | None, Query(max_length=20, description="Only this part of the page, for scripts.")]


def pages_router(
    album: Album, render: Renderer, explain_problem: Callable[[str, str], str], language: Language | None
) -> APIRouter:
    """The pages' routes over one album."""
    router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

    def speech(request: Request) -> Speech:
        return request_speech(request, language)

    @router.get("/")
    def home(request: Request) -> Response:
        t = speech(request)
        present = Presenter(t)
        topics = album.topics()
        newest = album.photos(limit=ROW_LENGTH)
        rows = []
        if newest.total:
            rows.append(_row(present, t("home.newest"), PhotoQuery(), "/photos", newest.photos, newest.total))
        for topic in sorted((topic for topic in topics if topic.photos), key=lambda topic: -topic.photos):
            query = PhotoQuery(topic=topic.key)
            photos = album.photos(topic=topic.key, limit=ROW_LENGTH).photos
            rows.append(_row(present, present.topic_name(topic), query, topic_path(topic.key), photos, topic.photos))
        unsorted = album.photos(topic=UNSORTED, limit=ROW_LENGTH)
        if unsorted.total:
            query = PhotoQuery(topic=UNSORTED)
            rows.append(_row(present, t("home.unsorted"), query, topic_path(UNSORTED), unsorted.photos, unsorted.total))
        return render(
            request,
            t,
            "home.html",
            here="home",
            empty=not newest.total,
            hero=_hero(present, album, topics),
            rows=rows,
            doubts=len(album.doubts(DOUBTS_AT_ONCE)) if newest.total else 0,
            problems=sum(problem.photo for problem in album.problems()),
        )

    def listing(t: Speech, query: PhotoQuery, path: str, offset: int, facts: str = "") -> dict[str, Any]:
        """What grid.html, search.html and tiles.html need for one page of photos."""
        present = Presenter(t)
        page = album.photos(**query.criteria, offset=offset, limit=PAGE_SIZE)
        in_path = query.in_topic(None) if path.startswith("/topics/") else query
        following = offset + PAGE_SIZE
        return {
            "total": page.total,
            "tiles": [present.photo(photo, query) for photo in page.photos],
            "offset": offset,
            "next_href": in_path.href(path, following) if following < page.total else None,
            "previous_href": in_path.href(path, max(0, offset - PAGE_SIZE)) if offset else None,
            "facts": facts,
        }

    def years(t: Speech, query: PhotoQuery, path: str) -> list[dict[str, Any]]:
        """Links that narrow a grid to one year."""
        seen = dict.fromkeys(month.month[:4] for month in album.timeline())
        if len(seen) < 2:
            return []
        links = [
            {"label": t("grid.all_years"), "href": query.between(None, None).href(path), "here": not query.date_from}
        ]
        for year in seen:
            here = (query.date_from, query.date_to) == (year, year)
            links.append({"label": year, "href": query.between(year, year).href(path), "here": here})
        return links

    @router.get("/photos")
    def photos(request: Request, query: QueryFromUrl, offset: OffsetFromUrl = 0, part: Part = None) -> Response:
        t = speech(request)
        query = PhotoQuery(date_from=query.date_from, date_to=query.date_to, sort=query.sort)
        shown = listing(t, query, "/photos", offset)
        if part in PARTS:
            return render(request, t, PARTS[part], **shown)
        return render(
            request,
            t,
            "grid.html",
            here="photos",
            heading=t("nav.photos"),
            topic=None,
            doubtful=0,
            jumps=years(t, query, "/photos"),
            empty_text=t("search.nothing"),
            all_topics=_choices(album, t),
            **shown,
        )

    @router.get("/topics/{key}")
    def topic_grid(
        request: Request, key: Key, query: QueryFromUrl, offset: OffsetFromUrl = 0, part: Part = None
    ) -> Response:
        t = speech(request)
        query = PhotoQuery(topic=key, date_from=query.date_from, date_to=query.date_to, sort=query.sort)
        topic = None if key == UNSORTED else existing_topic(album, key)
        path = topic_path(key)
        facts = t("topic.confirmed", n=topic.confirmed) if topic and topic.confirmed else ""
        shown = listing(t, query, path, offset, facts)
        if part in PARTS:
            return render(request, t, PARTS[part], **shown)
        within = query.in_topic(None)
        jumps = years(t, within, path)
        if topic is not None:
            jumps += [
                {
                    "label": t(f"order.{order}"),
                    "href": within.ordered(order).href(path),
                    "here": query.sort == order,
                }
                for order in ORDERS
            ]
        return render(
            request,
            t,
            "grid.html",
            here="topic",
            heading=Presenter(t).topic_name(topic) if topic else t("home.unsorted"),
            topic={"key": topic.key, "name": Presenter(t).topic_name(topic)} if topic else None,
            doubtful=topic.doubtful if topic else 0,
            jumps=jumps,
            empty_text=t("topic.empty"),
            all_topics=_choices(album, t),
            **shown,
        )

    @router.get("/search")
    def search(request: Request, query: QueryFromUrl, offset: OffsetFromUrl = 0, part: Part = None) -> Response:
        t = speech(request)
        complaint = None
        try:
            shown = listing(t, query, "/search", offset) if query.restricts else {}
        except SearchError:
            complaint, shown = t("search.bad_date"), {}
        if part in PARTS:
            return render(request, t, PARTS[part], **shown)
        topics = album.topics()
        chosen = next((topic for topic in topics if topic.key == query.topic), None)
        return render(
            request,
            t,
            "search.html",
            here="search",
            query=query,
            searched=bool(shown),
            complaint=complaint,
            heading=query.text or t("search.results"),
            filters=_filters(album, t, query, topics),
            topic={"key": chosen.key, "name": Presenter(t).topic_name(chosen)} if chosen else None,
            all_topics=_choices(album, t),
            **shown,
        )

    @router.get("/photos/{photo_id}")
    def photo(request: Request, photo_id: Identifier, query: QueryFromUrl, part: Part = None) -> Response:
        t = speech(request)
        present = Presenter(t)
        record = album.photo(photo_id)
        try:
            around = album.neighbours(photo_id, **query.criteria)
        except SearchError:
            query = PhotoQuery()
            around = album.neighbours(photo_id, **query.criteria)
        beside = {
            name: present.photo(album.photo(identifier), query) if identifier is not None else None
            for name, identifier in (("previous", around.previous), ("next", around.next))
        }
        hidden = {topic.key for topic in album.topics(include_hidden=True) if topic.hidden}
        visible = [topic for topic in record.topics if topic.key not in hidden]
        absent = [topic for topic in visible if not topic.present]
        rejected = t("list.comma").join(present.topic_name(topic) for topic in absent if topic.source == "human")
        likely = [topic for topic in absent if topic.source == "automatic" and (topic.confidence or 0) >= WORTH_ASKING]
        shown: dict[str, Any] = {
            "photo": present.photo(record, query),
            **beside,
            "position": ""
            if around.position is None
            else t("photo.position", n=around.position + 1, total=around.total),
            "back_href": _back(query, around.position),
            "present": [present.verdict(topic) for topic in visible if topic.present],
            "maybe": [present.verdict(topic) for topic in likely[:SUGGESTIONS]],
            "rejected": rejected,
            "details": present.details(record, album.roots()),
        }
        if part == "viewer":
            return render(request, t, "viewer.html", **shown)
        return render(request, t, "photo.html", here="photo", all_topics=_choices(album, t), **shown)

    @router.get("/doubts")
    def doubts(request: Request, topic: Annotated[str | None, Query(max_length=200)] = None) -> Response:
        t = speech(request)
        present = Presenter(t)
        topics = {record.key: record for record in album.topics(include_hidden=True)}
        # Asked for one topic only, the queue is searched deeper: its doubts may come late in the common order.
        queue = album.doubts(DOUBTS_AT_ONCE * (10 if topic else 1))
        asked = [doubt for doubt in queue if topic is None or doubt.topic == topic][:DOUBTS_AT_ONCE]
        shown = [present.doubt(doubt, topics[doubt.topic]) for doubt in asked]
        return render(request, t, "doubts.html", here="doubts", doubts=shown)

    @router.get("/topics")
    def manage_topics(request: Request) -> Response:
        t = speech(request)
        present = Presenter(t)
        ordered = sorted(album.topics(include_hidden=True), key=lambda topic: (topic.hidden, -topic.photos))
        topics = [_card(album, present, topic) for topic in ordered]
        return render(request, t, "topics.html", here="topics", topics=topics)

    @router.get("/history")
    def history(request: Request) -> Response:
        t = speech(request)
        present = Presenter(t)
        names = {topic.key: present.topic_name(topic) for topic in album.topics(include_hidden=True)}
        changes = [
            present.change(change, names, _existing(album, change.photos[:PICTURES_PER_CHANGE]))
            for change in album.changes(CHANGES_SHOWN)
        ]
        return render(request, t, "history.html", here="history", changes=changes)

    @router.get("/learnt")
    def learnt(request: Request) -> Response:
        t = speech(request)
        present = Presenter(t)
        names = {topic.key: present.topic_name(topic) for topic in album.topics(include_hidden=True)}
        changes: list[dict[str, Any]] = []
        for change in album.changes(LAST_CHANGES):
            moves = [present.move(move, names) for move in change.moved[:MOVES_SHOWN]]
            pictures = _existing(album, change.photos[:PICTURES_PER_CHANGE])
            changes.append({**present.change(change, names, pictures), "moves": moves})
        explained = any(move["example"] for change in changes for move in change["moves"])
        shown = learnt_context(present, album.learnt())
        shown["refining"] = refining_context(present, album.refining.status())
        return render(request, t, "learnt.html", here="learnt", changes=changes, explained=explained, **shown)

    @router.get("/problems")
    def problems(request: Request) -> Response:
        t = speech(request)
        present = Presenter(t)
        every = album.problems()
        lists = []
        for photo in (True, False):
            found = [problem for problem in every if problem.photo is photo]
            shown = [present.problem(one, explain_problem(one.reason, t.language)) for one in found[:PROBLEMS_SHOWN]]
            lists.append({"files": shown, "more": len(found) - len(shown)})
        return render(request, t, "problems.html", here="status", problems=lists[0], others=lists[1])

    @router.get("/status")
    def status(request: Request) -> Response:
        t = speech(request)
        return render(request, t, "status.html", here="status", status=album.status(), present=Presenter(t))

    return router


def _row(
    present: Presenter, title: str, query: PhotoQuery, href: str, photos: Iterable[Photo], total: int
) -> dict[str, Any]:
    tiles = [present.photo(photo, query) for photo in photos]
    return {
        "title": title,
        "href": href,
        "photos": tiles,
        "count": present.t.number(total),
    }


def _hero(present: Presenter, album: Album, topics: list[Topic]) -> dict[str, Any] | None:
    """The large picture on top: each day another topic, and of its surest photos the first that fills the width.

    A topic of small photos only would be a blur, and one of one or two is little to look back on: the next ones are
    tried, and else it is the largest photo of all.
    """
    day = datetime.date.today().toordinal()
    several = [topic for topic in topics if topic.photos >= HERO_LEAST]
    few = [topic for topic in topics if 0 < topic.photos < HERO_LEAST]
    turns = [part[(day + turn) % len(part)] for part in (several, few) for turn in range(len(part))]
    found: list[tuple[Photo, Topic]] = []
    for topic in turns[:HERO_TOPICS]:
        surest = album.photos(topic=topic.key, sort="confidence", limit=HERO_CANDIDATES).photos
        if surest:
            found.append((max(surest, key=lambda photo: min(photo.width, HERO_WIDTH)), topic))
            if found[-1][0].width >= HERO_WIDTH / 2:
                break
    if not found:
        return None
    cover, topic = max(found, key=lambda one: min(one[0].width, HERO_WIDTH // 2))
    return {
        "title": present.topic_name(topic),
        "preview": present.photo(cover, PhotoQuery())["preview"],
        "href": topic_path(topic.key),
        "facts": present.t("grid.count", n=topic.photos),
    }


def _choices(album: Album, t: Speech) -> list[dict[str, str]]:
    return [{"key": topic.key, "name": Presenter(t).topic_name(topic)} for topic in album.topics()]


def _card(album: Album, present: Presenter, topic: Topic) -> dict[str, Any]:
    t = present.t
    facts = [t("grid.count", n=topic.photos)]
    if topic.confirmed:
        facts.append(t("topic.confirmed", n=topic.confirmed))
    if topic.hidden:
        facts.append(t("topics.is_hidden"))
    elif not topic.builtin:
        facts.append(t("topics.own"))
    cover = _existing(album, [topic.cover_photo_id] if topic.cover_photo_id is not None else [])
    return {
        "key": topic.key,
        "name": present.topic_name(topic),
        "name_en": topic.name_en,
        "name_zh": topic.name_zh,
        "builtin": topic.builtin,
        "hidden": topic.hidden,
        "facts": " · ".join(facts),
        "cover": thumbnail_url(cover[0]) if cover else None,
    }


def _existing(album: Album, photo_ids: Iterable[int]) -> list[Photo]:
    photos = []
    for photo_id in photo_ids:
        try:
            photos.append(album.photo(photo_id))
        except PhotoError:  # gone since: the line of the history stays, without its picture
            continue
    return photos


def _back(query: PhotoQuery, position: int | None) -> str:
    """The page of the grid that a photo was opened from."""
    offset = 0 if position is None else position // PAGE_SIZE * PAGE_SIZE
    if query.text or query.place:
        return query.href("/search", offset)
    if query.topic:
        return query.in_topic(None).href(topic_path(query.topic), offset)
    return query.href("/photos", offset)


def _filters(album: Album, t: Speech, query: PhotoQuery, topics: list[Topic]) -> list[dict[str, Any]]:
    """Rows of links that add a restriction to the search, or take it away."""
    present = Presenter(t)
    used = [topic for topic in topics if topic.photos or topic.key == query.topic]

    def link(label: str, here: bool, narrower: PhotoQuery, wider: PhotoQuery) -> dict[str, Any]:
        return {"label": label, "href": (wider if here else narrower).href("/search"), "here": here}

    by_topic = [
        link(present.topic_name(topic), topic.key == query.topic, query.in_topic(topic.key), query.in_topic(None))
        for topic in sorted(used, key=lambda topic: -topic.photos)
    ]
    by_year = [
        link(
            year, (query.date_from, query.date_to) == (year, year), query.between(year, year), query.between(None, None)
        )
        for year in dict.fromkeys(month.month[:4] for month in album.timeline())
    ]
    by_place = [
        link(
            t.pick(place.name, place.name_zh),
            place.key == query.place,
            query.at_place(place.key),
            query.at_place(None),
        )
        for place in album.places()
    ]
    named = ((t("search.topics"), by_topic), (t("search.years"), by_year), (t("search.places"), by_place))
    return [{"name": name, "choices": choices[:CHOICES_SHOWN]} for name, choices in named]
