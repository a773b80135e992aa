"""The visitor's language: read from a request, and changed by the link in the bar, which app.py puts on every page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse

from homespun.album.web.language import COOKIE, LANGUAGES, Language, Speech, choose_language

YEAR = 365 * 24 * 3600

router = APIRouter(include_in_schema=False)


@router.get("/language/{chosen}")
def set_language(chosen: Language, back: Annotated[str, Query(max_length=2000)] = "/") -> RedirectResponse:
    """Remember a language, and show the page where the link was."""
    response = RedirectResponse(_local_path(back), status_code=HTTPStatus.SEE_OTHER)
    response.set_cookie(COOKIE, chosen, max_age=YEAR, path="/", httponly=True, samesite="lax")
    return response


def request_speech(request: Request, default: Language | None) -> Speech:
    """The words for one request: the visitor's cookie, the server's setting, the browser's wish."""
    return Speech(choose_language(request.cookies.get(COOKIE), request.headers.get("accept-language"), default))


def language_switch(request: Request, t: Speech) -> dict[str, str]:
    """The link in the bar that changes to the other language and comes back to this page."""
    other = next(language for language in LANGUAGES if language != t.language)
    query = urlencode([(k, v) for k, v in parse_qsl(request.url.query) if k != "part"])
    # The path as the browser sent it: decoded, a topic key with a slash would lead elsewhere.
    raw: bytes = request.scope.get("raw_path") or quote(request.url.path).encode()
    here = raw.decode("ascii", "replace").split("?")[0]
    back = f"{here}?{query}" if query else here
    return {
        "href": f"/language/{other}?{urlencode({'back': back})}",
        "name": {"en": "English", "zh": "中文"}[other],
        "tag": {"en": "en", "zh": "zh-CN"}[other],
    }


def _local_path(back: str) -> str:
    """`back` if it is a path on this server, else the home page: a language link must not lead elsewhere."""
    parts = urlsplit(back)
    local = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return back if local and not parts.scheme and not parts.netloc else "/"
