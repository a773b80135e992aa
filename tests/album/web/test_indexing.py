"""Indexing while the server runs: how far it is, starting it, one run at a time."""

import threading
from types import SimpleNamespace
from typing import Any, cast

from fastapi.testclient import TestClient

from homespun.album import Album
from homespun.album.errors import LibraryError
from homespun.album.web.indexing import Indexing

from .conftest import make_app
from .fake_album import FakeAlbum


def progress(done: int, total: int | None) -> Any:
    return SimpleNamespace(done=done, total=total, photos_per_second=12.5, seconds_left=8.0, current="x.jpg")


def test_progress_is_shown_while_a_run_lasts(album: FakeAlbum) -> None:
    indexing = Indexing(cast(Album, album))
    client = TestClient(make_app(album, indexing=indexing), base_url="http://localhost")
    assert client.get("/api/v1/indexing").json()["running"] is False
    indexing.on_progress(progress(20, 120))
    state = client.get("/api/v1/indexing").json()
    assert (state["running"], state["done"], state["total"]) == (True, 20, 120)
    assert (state["photos_per_second"], state["seconds_left"]) == (12.5, 8.0)
    indexing.finished("the disk is full")
    state = client.get("/api/v1/indexing").json()
    assert (state["running"], state["error"]) == (False, "the disk is full")


def test_one_run_at_a_time(album: FakeAlbum) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert leave.wait(10)

    album.before_index = wait
    with TestClient(make_app(album), base_url="http://localhost") as client:
        assert client.post("/api/v1/indexing", json={}).json() == {"started": True}
        assert inside.wait(10)
        assert client.get("/api/v1/indexing").json()["running"] is True
        assert client.post("/api/v1/indexing", json={}).json() == {"started": False}
        leave.set()
    # Closing the server waited for the run.
    assert [call for call in album.calls if call[0] == "index"] == [("index", None)]


def test_a_run_that_fails_says_why(album: FakeAlbum) -> None:
    def fail() -> None:
        raise LibraryError("the album has no folder of photos yet")

    album.before_index = fail
    app = make_app(album)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/api/v1/indexing", json={})
        app.state.indexing.stop()
        state = client.get("/api/v1/indexing").json()
    assert state["running"] is False and "no folder" in state["error"]


def test_a_bug_in_a_run_ends_it_without_telling_the_inside(album: FakeAlbum) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    album.before_index = fail
    app = make_app(album)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/api/v1/indexing", json={})
        app.state.indexing.stop()
        state = client.get("/api/v1/indexing").json()
    assert state["running"] is False and "secret" not in state["error"]
