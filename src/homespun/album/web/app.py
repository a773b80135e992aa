"""The album as a web application: pages, API and what protects them, put together by `create_app`.

`homespun album serve` runs it with uvicorn on loopback; docs/web.md and docs/security.md say how it behaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

import homespun
from homespun.album import Album
from homespun.album.imaging.reasons import explain
from homespun.album.web import visitor
from homespun.album.web.api import api_router
from homespun.album.web.indexing import Indexing
from homespun.album.web.language import Language, Speech
from homespun.album.web.making_way import MakeWay
from homespun.album.web.openapi_page import describe_api
from homespun.album.web.pages import pages_router
from homespun.album.web.presentation import Presenter
from homespun.album.web.problem_json import problem_response, status_of
from homespun.album.web.rendering import STATIC, renderer
from homespun.album.web.security import LOOPBACK_HOSTS, RESPONSE_HEADERS, RequestGuard
from homespun.errors import HomespunError

API_PREFIX = "/api/"


def create_app(
    album: Album,
    *,
    language: Language | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK_HOSTS,
    indexing: Indexing | None = None,
) -> FastAPI:
    """The web application over an open album, which it does not close.

    `language` is what visitors see who have not chosen one (None: what their browser asks for). `allowed_hosts` are the
    Host names that are answered (`security.hosts_for` makes them from a bind address). Who indexes while the server
    runs passes an `Indexing` and reports to it.
    """
    indexing = indexing or Indexing(album)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        indexing.stop()

    app = FastAPI(
        title="Homespun album",
        version=homespun.__version__,
        summary="A family's photos in topics: everything that the album's own pages use.",
        openapi_url="/api/v1/openapi.json",
        # FastAPI's documentation pages load scripts from a CDN; ours is at /api/docs.
        docs_url=None,
        redoc_url=None,
        # Newer FastAPI can send traces to wherever the environment says; nothing here is to leave the device.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
        lifespan=lifespan,
    )

    def every_page(request: Request, t: Speech) -> dict[str, Any]:
        names = {topic.key: Presenter(t).topic_name(topic) for topic in album.topics(include_hidden=True)}
        return {"other_language": visitor.language_switch(request, t), "topic_names": names}

    render = renderer(every_page)
    app.include_router(api_router(album, indexing))
    app.include_router(pages_router(album, render, explain, language))
    app.include_router(visitor.router)
    app.mount("/static", _StaticFiles(directory=str(STATIC)), name="static")

    @app.get("/api/docs", include_in_schema=False, response_class=HTMLResponse)
    def api_docs(request: Request) -> Response:
        t = visitor.request_speech(request, language)
        return render(request, t, "api.html", here="api", api=describe_api(app.openapi()))

    def failed(request: Request, status: int, detail: str, **more: Any) -> Response:
        """An error as the asker reads it: a problem document for programs, a page for people."""
        if request.url.path.startswith(API_PREFIX):
            return problem_response(status, detail, **more)
        t = visitor.request_speech(request, language)
        kind = "missing" if status == HTTPStatus.NOT_FOUND else "failed" if status >= 500 else "wrong"
        title, text = t(f"error.{kind}.title"), t(f"error.{kind}.text")
        return render(request, t, "error.html", status_code=status, here="", title=title, text=text)

    @app.exception_handler(HomespunError)
    def on_album_error(request: Request, error: HomespunError) -> Response:
        return failed(request, status_of(error), str(error))

    @app.exception_handler(HTTPException)
    def on_http_error(request: Request, error: HTTPException) -> Response:
        return failed(request, error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    def on_malformed(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be large, or markup.
        errors = [{"where": list(e["loc"]), "what": e["msg"]} for e in error.errors()]
        if request.url.path.startswith(API_PREFIX):
            detail = "The request is malformed; see errors."
            return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)
        return failed(request, HTTPStatus.NOT_FOUND, "")

    @app.exception_handler(Exception)
    def on_bug(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback; the asker is told nothing of the inside.
        # This answer is made outside of `RequestGuard`, so it carries the protective headers itself.
        headers = {name.decode(): value.decode() for name, value in RESPONSE_HEADERS}
        detail = "The album made a mistake; its log says more."
        return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers=headers)

    app.add_middleware(MakeWay, album=album)
    app.add_middleware(RequestGuard, allowed_hosts=allowed_hosts)
    app.state.indexing = indexing
    return app


class _StaticFiles(StaticFiles):
    """Our own scripts and styles, kept by browsers for ever when asked for by content hash (`?v=`)."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        pinned = b"v=" in scope["query_string"] and response.status_code == HTTPStatus.OK
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if pinned else "no-cache"
        return response
