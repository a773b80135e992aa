"""Lets a refinement stand still whenever somebody asks for a page, a picture or a change (see `album.refining`).

Inside `RequestGuard`, so that what it refuses disturbs nobody.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from homespun.album import Album

UNATTENDED = frozenset({"/api/v1/indexing", "/api/v1/refining"})
"""What open pages ask for by themselves, again and again."""


class MakeWay:
    """Pure ASGI middleware: the word is given before the request is answered, and nothing waits for it."""

    def __init__(self, app: ASGIApp, *, album: Album) -> None:
        self.app, self.album = app, album

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (scope["method"] == "GET" and scope["path"] in UNATTENDED):
            self.album.refining.make_way()
        await self.app(scope, receive, send)
