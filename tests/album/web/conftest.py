"""An album in memory behind the web application, for a client without a network and for a real browser."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from homespun.album import Album
from homespun.album.model import Doubt, Problem
from homespun.album.web import create_app

from .fake_album import FakeAlbum, make_photo

BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def album(tmp_path: Path) -> FakeAlbum:
    """150 photos, newest first by number: 1-100 are food, 3 and 4 are cats, the rest is in no topic."""
    album = FakeAlbum(tmp_path, [make_photo(number) for number in range(1, 151)])
    album.members["food"] = set(range(1, 101))
    album.members["cats"] = {3, 4}
    album.queue = [Doubt(album.photo(number), "cats", 0.6, True, "unsure") for number in (3, 4, 5)]
    album.unreadable = [
        Problem("/pictures/<b>bad.jpg", "truncated", ""),
        Problem("/pictures/letter.pdf", "other_kind", "", photo=False),
    ]
    return album


def make_app(album: FakeAlbum, **options: Any) -> FastAPI:
    return create_app(cast(Album, album), **options)


class _Current:
    """Stands for the album of the test that runs, so that all tests can share one application."""

    album: FakeAlbum

    def __getattr__(self, name: str) -> Any:
        return getattr(self.album, name)


SharedApp = tuple[_Current, FastAPI]


@pytest.fixture(scope="session")
def shared_app() -> SharedApp:
    current = _Current()
    return current, make_app(cast(FakeAlbum, current))


@pytest.fixture
def client(album: FakeAlbum, shared_app: SharedApp) -> TestClient:
    """Requests to pages and API over `album`, without a network."""
    current, app = shared_app
    current.album = album
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an application on a free port of loopback; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Or else each answer's body waits 40 ms for its head to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def shared_address(shared_app: SharedApp) -> Iterator[str]:
    with serving(shared_app[1]) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = find_browser()
    assert path, "the browser tests need Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens pages of a small TV or of what else is asked for; an error in a script fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_(address: str, width: int = 1280, height: int = 720, **options: Any) -> Page:
        options.setdefault("locale", "en-GB")
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors
