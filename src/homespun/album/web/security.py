"""What stands before every request: whose name it was sent to, which page sent it, how large it is.

Pure ASGI middleware, outermost in the application (see app.py), so that a refused request reaches neither the album nor
the disk. docs/security.md explains the rules; tests/album/web/test_security.py asserts what must stay hidden.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = "any-ip-address"
"""Entry of `allowed_hosts` that stands for every Host that is an IP address. Rebinding needs a name, so an address
in the Host header means that someone typed that address."""

MAX_BODY_BYTES = 1 << 20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
RESPONSE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not `no-referrer`: with it browsers send `Origin: null` from our own pages too.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


def hosts_for(bind: str, names: Iterable[str] = ()) -> tuple[str, ...]:
    """The Host names to answer to when the server listens on `bind`, plus any `names` that the owner adds.

    On loopback: only loopback's own names. On another address: also that address or, for a wildcard such as 0.0.0.0,
    any IP address, and this machine's host name (with and without `.local`).
    """
    hosts = [*LOOPBACK_HOSTS, *(name.lower() for name in names)]
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        hosts.append(bind.lower())
    else:
        if not address.is_loopback:
            machine = socket.gethostname().lower().split(".")[0]
            hosts += [machine, f"{machine}.local"]
            hosts.append(ANY_ADDRESS if address.is_unspecified else str(address))
    return tuple(dict.fromkeys(hosts))


def host_name(host_header: str) -> str | None:
    """The name or address in a Host header, lower case, without port and brackets; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host_header}")
        port = parts.port  # raises on a port that is no number
    except ValueError:
        return None
    malformed = parts.path or parts.query or parts.fragment or "@" in parts.netloc or port == 0
    return None if malformed or not parts.hostname else parts.hostname.rstrip(".")


class RequestGuard:
    """Refuses foreign Hosts (DNS rebinding), foreign origins (CSRF) and large bodies; adds protective headers."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str], max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here, so nobody needs one
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in RESPONSE_HEADERS if header[0] not in present),
                ]
            await send(message)

        headers = _headers(scope)
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            await _refuse(send_protected, *refusal)
            return

        await self.app(scope, receive, send_protected)

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[HTTPStatus, str] | None:
        if not self._host_allowed(headers.get("host", "")):
            return HTTPStatus.MISDIRECTED_REQUEST, (
                "This album does not answer to that host name. Open it by the address that it printed, or start it "
                "with --allow-host NAME."
            )
        if method in SAFE_METHODS:
            if _embedded_elsewhere(headers):
                return HTTPStatus.FORBIDDEN, "Other pages may link to this album, but not show parts of it."
            return None
        if not _same_origin(headers):
            return HTTPStatus.FORBIDDEN, "Changes are accepted only from the album's own pages."
        # The server enforces an announced length; a body without one could go on for ever.
        if "transfer-encoding" in headers:
            return HTTPStatus.LENGTH_REQUIRED, "Send a Content-Length."
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return HTTPStatus.BAD_REQUEST, "Content-Length is not a number."
        if int(length) > self.max_body_bytes:
            return (
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"A request may have {self.max_body_bytes} bytes at most.",
            )
        # A foreign page can POST forms and plain text unasked, but JSON (and every other method) only after a
        # preflight, which is never granted. This holds even in a browser too old to send Origin or Sec-Fetch-Site.
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if method == "POST" and media_type != "application/json":
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send changes as application/json."
        return None

    def _host_allowed(self, header: str) -> bool:
        name = host_name(header)
        if name is None:
            return False
        if name in self.allowed_hosts:
            return True
        if ANY_ADDRESS not in self.allowed_hosts:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _headers(scope: Scope) -> dict[str, str]:
    """Header values by lower-case name. One sent twice becomes a joined value, which no check below accepts."""
    values: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        values[key] = f"{values[key]},{text}" if key in values else text
    return values


def _embedded_elsewhere(headers: dict[str, str]) -> bool:
    """Whether another site's page asks for a part of the album (a picture, a script), rather than linking to a page.

    It could not look at what it gets, but could see whether it gets something. Fetch Metadata, W3C 2021.
    """
    if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
        return False
    return headers.get("sec-fetch-mode") != "navigate" or headers.get("sec-fetch-dest") != "document"


def _same_origin(headers: dict[str, str]) -> bool:
    """Whether what the browser says about the sender, if it says anything, names this very server."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers["host"].lower()


async def _refuse(send: Send, status: HTTPStatus, detail: str) -> None:
    body = json.dumps({"title": status.phrase, "status": status.value, "detail": detail}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status.value,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                # What was sent may not have been read: this connection cannot be used again.
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
