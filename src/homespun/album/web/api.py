"""The REST API under /api/v1: what the pages' scripts use and what a TV maker's own interface would.

Every answer is one of `album.model`'s records; every change goes through here. Handlers are plain functions, so that
FastAPI runs them in threads beside its event loop.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from homespun.album import Album
from homespun.album.errors import TopicError
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
    Refinement,
    RefiningStatus,
    Status,
    Topic,
)
from homespun.album.web.indexing import Indexing, IndexingState
from homespun.album.web.problem_json import ProblemDocument, UnknownTopicError
from homespun.album.web.query import LARGEST_OFFSET, LONGEST_TEXT, PAGE_SIZE

MOST_PHOTOS_AT_ONCE = 5000
MOST_PER_PAGE = 500
PREVIEW_SIDES = (1280, 1920, 3840)
DEFAULT_PREVIEW_SIDE = 1920

Identifier = Annotated[int, Path(ge=1, le=2**63 - 1, description="Number of the photo or change.")]
Key = Annotated[str, Path(max_length=200, description="Key of the topic.")]
PhotoIds = Annotated[
    list[Annotated[int, Field(ge=1, le=2**63 - 1)]], Field(min_length=1, max_length=MOST_PHOTOS_AT_ONCE)
]
TopicKey = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
SearchText = Annotated[str | None, Query(max_length=LONGEST_TEXT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Correction(_Body):
    """What a person says of some photos."""

    photo_ids: PhotoIds
    positive: list[TopicKey] = Field(default=[], max_length=100, description="Topics that they are in.")
    negative: list[TopicKey] = Field(default=[], max_length=100, description="Topics that they are not in.")
    none: bool = Field(default=False, description="They are in no topic at all.")


class NewTopic(_Body):
    """A topic that a family invents, with the photos to learn it from."""

    name: Name
    name_zh: Name | None = None
    photo_ids: PhotoIds


class TopicEdit(_Body):
    """What to change of a topic; what is left out stays."""

    name: Name | None = None
    name_zh: Name | None = None
    hidden: bool | None = None


class DoubtAnswer(_Body):
    """An answer to a question of the doubts queue."""

    photo_id: Annotated[int, Field(ge=1, le=2**63 - 1)]
    topic: TopicKey
    answer: Answer


class Automatic(_Body):
    """Whether refinements begin by themselves."""

    on: bool


class Here(_Body):
    """Nothing to say but that somebody is here."""


class IndexingStarted(BaseModel):
    """Whether a run began (false: one was under way)."""

    started: bool


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    return {int(status): {"model": ProblemDocument, "description": status.phrase} for status in statuses}


_NOT_FOUND = _problems(HTTPStatus.NOT_FOUND)
_IMAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, 304: {"description": "Not modified"}}
_REFUSED = _problems(HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY)


def api_router(album: Album, indexing: Indexing) -> APIRouter:
    """The API's routes over one album."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/status", tags=["library"], summary="The library in numbers")
    def status() -> Status:
        return album.status()

    @router.get("/problems", tags=["library"], summary="Files that could not be read, with reasons")
    def problems() -> list[Problem]:
        return album.problems()

    @router.get("/indexing", tags=["library"], summary="How far an index run is")
    def indexing_state() -> IndexingState:
        return indexing.state

    @router.post("/indexing", tags=["library"], summary="Read new and changed photos now", status_code=202)
    def start_indexing() -> IndexingStarted:
        return IndexingStarted(started=indexing.start())

    @router.get("/topics", tags=["topics"], summary="All topics with their numbers")
    def topics(include_hidden: bool = False) -> list[Topic]:
        return album.topics(include_hidden=include_hidden)

    @router.post("/topics", tags=["topics"], summary="Add a topic from photos", status_code=201, responses=_REFUSED)
    def add_topic(new: NewTopic) -> Topic:
        return album.add_topic(new.name, new.photo_ids, name_zh=new.name_zh)

    @router.get("/topics/{key}", tags=["topics"], summary="One topic", responses=_NOT_FOUND)
    def topic(key: Key) -> Topic:
        return existing_topic(album, key)

    @router.patch(
        "/topics/{key}", tags=["topics"], summary="Rename, hide or show a topic", responses=_NOT_FOUND | _REFUSED
    )
    def edit_topic(key: Key, edit: TopicEdit) -> Topic:
        existing_topic(album, key)
        if edit.name is not None or edit.name_zh is not None:
            album.rename_topic(key, name=edit.name, name_zh=edit.name_zh)
        if edit.hidden is not None:
            album.hide_topic(key, hidden=edit.hidden)
        return album.topic(key)

    @router.delete(
        "/topics/{key}", tags=["topics"], summary="Remove a topic of the family's own", responses=_NOT_FOUND | _REFUSED
    )
    def remove_topic(key: Key) -> Change:
        existing_topic(album, key)
        return album.remove_topic(key)

    @router.get("/photos", tags=["photos"], summary="Search photos", responses=_REFUSED)
    def photos(
        topic: SearchText = None,
        text: SearchText = None,
        date_from: SearchText = None,
        date_to: SearchText = None,
        place: SearchText = None,
        sort: Order = "date",
        offset: Annotated[int, Query(ge=0, le=LARGEST_OFFSET)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_PER_PAGE)] = PAGE_SIZE,
    ) -> Page:
        return album.photos(topic, text, date_from, date_to, place, sort, offset, limit)

    @router.get("/photos/{photo_id}", tags=["photos"], summary="One photo", responses=_NOT_FOUND)
    def photo(photo_id: Identifier) -> Photo:
        return album.photo(photo_id)

    @router.get(
        "/photos/{photo_id}/neighbours",
        tags=["photos"],
        summary="The photos before and after one in a search",
        responses=_NOT_FOUND,
    )
    def neighbours(
        photo_id: Identifier,
        topic: SearchText = None,
        text: SearchText = None,
        date_from: SearchText = None,
        date_to: SearchText = None,
        place: SearchText = None,
        sort: Order = "date",
    ) -> Neighbours:
        return album.neighbours(photo_id, topic, text, date_from, date_to, place, sort)

    @router.get(
        "/photos/{photo_id}/thumbnail",
        tags=["photos"],
        summary="A small JPEG (480 pixels long)",
        response_class=Response,
        responses=_IMAGE | _NOT_FOUND,
    )
    def thumbnail(photo_id: Identifier, request: Request, v: SearchText = None) -> Response:
        path = album.thumbnail_path(photo_id)
        # The store names a thumbnail after the hash of the photo's content: the best tag there is.
        return _image(request, f"{path.stem}-480", v, path.read_bytes)

    @router.get(
        "/photos/{photo_id}/preview",
        tags=["photos"],
        summary="A large JPEG for a screen, without metadata",
        response_class=Response,
        responses=_IMAGE | _NOT_FOUND | _REFUSED,
    )
    def preview(
        photo_id: Identifier,
        request: Request,
        v: SearchText = None,
        side: Annotated[
            int,
            Query(
                description="Longest side in pixels: 1280, 1920 or 3840.", json_schema_extra={"enum": [*PREVIEW_SIDES]}
            ),
        ] = DEFAULT_PREVIEW_SIDE,
    ) -> Response:
        # Few sizes, so that nobody can fill the cache with thousands of them.
        long_side = min((known for known in PREVIEW_SIDES if known >= side), default=PREVIEW_SIDES[-1])
        tag = f"{album.photo(photo_id).content_hash}-{long_side}"
        return _image(request, tag, v, lambda: album.render(photo_id, long_side))

    @router.get("/places", tags=["photos"], summary="Places that have photos")
    def places() -> list[Place]:
        return album.places()

    @router.get("/timeline", tags=["photos"], summary="Months that have photos")
    def timeline() -> list[Month]:
        return album.timeline()

    @router.post("/corrections", tags=["corrections"], summary="Say what photos show, or do not", responses=_REFUSED)
    def correct(correction: Correction) -> Change:
        return album.correct(
            correction.photo_ids, positive=correction.positive, negative=correction.negative, none=correction.none
        )

    @router.get("/changes", tags=["corrections"], summary="What was changed, newest first")
    def changes(limit: Annotated[int, Query(ge=1, le=MOST_PER_PAGE)] = 50) -> list[Change]:
        return album.changes(limit)

    @router.post(
        "/changes/{change_id}/undo",
        tags=["corrections"],
        summary="Take a change back, in any order",
        responses=_problems(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    )
    def undo(change_id: Identifier) -> Change:
        return album.undo(change_id)

    @router.post(
        "/changes/{change_id}/redo",
        tags=["corrections"],
        summary="Put back a change that was taken back",
        responses=_problems(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    )
    def redo(change_id: Identifier) -> Change:
        return album.redo(change_id)

    @router.get("/learnt", tags=["corrections"], summary="What the album has learnt, and what would help most")
    def learnt() -> Learnt:
        return album.learnt()

    @router.get("/refining", tags=["refining"], summary="How refining the network stands")
    def refining() -> RefiningStatus:
        return album.refining.status()

    @router.get("/refining/history", tags=["refining"], summary="Refinements that ended, newest first")
    def refinements() -> list[Refinement]:
        return album.refining.history()

    @router.post("/refining/automatic", tags=["refining"], summary="Let refinements begin by themselves, or not")
    def refining_automatic(wanted: Automatic) -> RefiningStatus:
        album.refining.set_automatic(wanted.on)
        return album.refining.status()

    @router.post(
        "/refining/run",
        tags=["refining"],
        summary="Refine now, or go on with a run that was cut off",
        responses=_problems(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE),
    )
    def refine() -> RefiningStatus:
        """Returns at once; `GET /refining` says how it goes. It stands still while anybody uses the album."""
        return album.refining.start()

    @router.post("/refining/stop", tags=["refining"], summary="End a run; the next goes on from there")
    def end_refining() -> RefiningStatus:
        return album.refining.end_run()

    @router.post(
        "/refining/rollback",
        tags=["refining"],
        summary="Go back to the network before the last refinement",
        responses=_problems(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    )
    def rollback() -> Refinement:
        return album.refining.rollback()

    @router.post("/refining/here", tags=["refining"], summary="Somebody is here: a run stands still for a while")
    def here(_: Here) -> RefiningStatus:
        """Pages send this when a key is pressed on a remote; every other request does as much."""
        return album.refining.status()

    @router.get("/doubts", tags=["doubts"], summary="Photos that the album would like to ask about")
    def doubts(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[Doubt]:
        return album.doubts(limit)

    @router.post("/doubts/answers", tags=["doubts"], summary="Answer a question", responses=_REFUSED)
    def answer(given: DoubtAnswer) -> Change:
        return album.answer_doubt(given.photo_id, given.topic, given.answer)

    return router


def existing_topic(album: Album, key: str) -> Topic:
    """The topic of exactly this key. Raises `UnknownTopicError`, which becomes a 404."""
    try:
        topic = album.topic(key)
    except TopicError as error:
        raise UnknownTopicError(f"there is no topic {key!r}") from error
    if topic.key != key:  # `Album.topic` also finds names; a URL has one spelling
        raise UnknownTopicError(f"there is no topic {key!r}")
    return topic


def _image(request: Request, tag: str, version: str | None, read: Any) -> Response:
    """A JPEG under its content's tag. Read only if the browser does not have it yet."""
    etag = f'"{tag}"'
    # An address that names the content can be kept for ever; one that does not must be asked about again.
    pinned = version is not None and len(version) >= 12 and tag.startswith(version)
    headers = {
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable" if pinned else "private, no-cache",
    }
    known = (entry.strip().removeprefix("W/") for entry in request.headers.get("if-none-match", "").split(","))
    if etag in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(read(), media_type="image/jpeg", headers=headers)
