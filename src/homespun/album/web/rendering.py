"""Templates to responses: the Jinja environment, addresses of static files, and what every page needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from homespun.album.web.language import Speech

STATIC = resources.files(__package__) / "static"


class Renderer(Protocol):
    """Renders a template for a request, with everything that base.html needs."""

    def __call__(
        self, request: Request, t: Speech, template: str, *, status_code: int = 200, **context: Any
    ) -> HTMLResponse: ...


@cache
def static_url(name: str) -> str:
    """The address of a static file with its content's hash, so that browsers may keep it for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("homespun.album.web"),
        autoescape=True,  # names of files, EXIF and topics are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static_url
    return environment


def renderer(every_page: Callable[[Request, Speech], dict[str, Any]]) -> Renderer:
    """A `Renderer` that adds what `every_page` gives to each template's context."""

    def render(request: Request, t: Speech, template: str, *, status_code: int = 200, **context: Any) -> HTMLResponse:
        text = _environment().get_template(template).render(t=t, **every_page(request, t), **context)
        return HTMLResponse(
            text, status_code=status_code, headers={"Cache-Control": "no-cache", "Vary": "Cookie, Accept-Language"}
        )

    return render
