"""Errors as the API tells them: problem documents (RFC 9457), never a stack trace and never a path of this machine."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from homespun.album.errors import (
    AlbumError,
    ChangeError,
    LibraryError,
    PhotoError,
    RefiningError,
    SearchError,
    StorageFullError,
    TopicError,
)
from homespun.errors import HomespunError, OptionError


class UnknownTopicError(TopicError):
    """A URL names a topic that does not exist."""


STATUS_OF_ERROR: tuple[tuple[type[HomespunError], HTTPStatus], ...] = (
    (PhotoError, HTTPStatus.NOT_FOUND),
    (UnknownTopicError, HTTPStatus.NOT_FOUND),
    (TopicError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (SearchError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (OptionError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ChangeError, HTTPStatus.CONFLICT),
    (RefiningError, HTTPStatus.CONFLICT),
    (StorageFullError, HTTPStatus.INSUFFICIENT_STORAGE),
    (LibraryError, HTTPStatus.SERVICE_UNAVAILABLE),
    (AlbumError, HTTPStatus.UNPROCESSABLE_ENTITY),
)
"""First match wins: subclasses stand before their bases."""


class ProblemDocument(BaseModel):
    """What went wrong (RFC 9457)."""

    title: str = Field(description="The kind of problem, in English.")
    status: int = Field(description="The HTTP status again.")
    detail: str = Field(description="What happened and what would help, in English.")
    errors: list[dict[str, Any]] | None = Field(default=None, description="Per field, where the request is malformed.")


def status_of(error: HomespunError) -> HTTPStatus:
    """The HTTP status that says best what an error of ours means."""
    for kind, status in STATUS_OF_ERROR:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem_response(
    status: int, detail: str, *, errors: list[dict[str, Any]] | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    problem = ProblemDocument(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )
