"""Pages are as cheap in a library of 50,000 photos as in a small one: counted in statements and rows, not seconds."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pytest
from fastapi.testclient import TestClient

from homespun.album import Album
from homespun.album.store import Store
from homespun.album.web import create_app

from ..small_library import BACKBONE, COLOURS, feature, open_album

SMALL, LARGE = 500, 50_000
STEPS_PER_TICK = 1000


def fill(album: Album, count: int) -> None:
    """`count` photos over twenty years, written straight into the database: so many files would take an hour."""
    shades = {
        colour: [feature(colour, shade).astype(np.float16).tobytes() for shade in range(50)] for colour in COLOURS
    }
    photos, texts, files, features = [], [], [], []
    for number in range(1, count + 1):
        taken = (datetime(2004, 1, 1) + timedelta(minutes=10_000_000 // count * number)).isoformat(timespec="seconds")
        path = f"/photos/{taken[:4]}/IMG_{number:06}.JPG"
        photos.append((number, f"{number:064x}", path.encode(), 4_000_000, 4032, 3024, "JPEG", taken, taken))
        texts.append((number, path.lower()))
        files.append((path.encode(), 4_000_000, number, number))
        features.append((number, BACKBONE, shades[COLOURS[number % 3]][number % 50]))
    insert_photo = (
        "INSERT INTO photo (id, content_hash, path, byte_size, width, height, format, taken, sort_date, added_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '')"
    )
    insert_file = "INSERT INTO file (path, size, mtime_ns, inode, device, photo_id) VALUES (?, ?, 0, ?, 0, ?)"
    with album._store.transaction() as connection:
        connection.executemany(insert_photo, photos)
        connection.executemany("INSERT INTO photo_text VALUES (?, ?)", texts)
        connection.executemany(insert_file, files)
        connection.executemany("INSERT INTO feature VALUES (?, ?, ?)", features)
    album.sort_new()


@dataclass
class Work:
    """What the database did: statements, and steps of its virtual machine (rows visited cost a few each)."""

    statements: list[str] = field(default_factory=list)
    ticks: int = 0

    @property
    def steps(self) -> int:
        return self.ticks * STEPS_PER_TICK

    def tick(self) -> int:
        self.ticks += 1
        return 0


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, TestClient]]:
    folder = tmp_path_factory.mktemp("libraries")
    with open_album(folder / "small") as small, open_album(folder / "large") as large:
        fill(small, SMALL)
        fill(large, LARGE)
        yield {
            SMALL: TestClient(create_app(small), base_url="http://localhost"),
            LARGE: TestClient(create_app(large), base_url="http://localhost"),
        }


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    reader = Store.reader

    @contextmanager
    def counting(self: Store) -> Iterator[sqlite3.Connection]:
        with reader(self) as connection:
            connection.set_trace_callback(work.statements.append)
            connection.set_progress_handler(work.tick, STEPS_PER_TICK)
            try:
                yield connection
            finally:
                connection.set_trace_callback(None)
                connection.set_progress_handler(None, 0)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "reader", counting)
        yield work


def visit(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Work, str]:
    client.get(path)  # what is loaded once is not counted
    with counted(monkeypatch) as work:
        answer = client.get(path)
    assert answer.status_code == 200
    return work, answer.text


@pytest.mark.parametrize("path", ["/", "/photos", "/topics/red", "/topics", "/photos/250", "/search?text=img_000250"])
def test_a_page_of_a_large_library_asks_no_more_questions(
    clients: dict[int, TestClient], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = visit(clients[SMALL], path, monkeypatch)
    large, page = visit(clients[LARGE], path, monkeypatch)
    assert small.statements
    # Pages list years, of which both have twenty; nothing else may grow.
    assert len(large.statements) <= len(small.statements) + 5
    assert len(page) < 100_000


@pytest.mark.parametrize("offset", [0, 6000, 15_000])
def test_a_page_of_a_grid_has_sixty_photos_wherever_it_is(
    clients: dict[int, TestClient], offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, part = visit(clients[LARGE], f"/topics/red?part=tiles&offset={offset}", monkeypatch)
    assert len(re.findall('class="tile"', part)) == 60
    assert len(part) < 40_000
    # The library has 50,000 photos and red has a third of them: an index is walked, no table is read.
    assert work.steps < 400_000
    assert not [
        statement for statement in work.statements if "LIMIT" not in statement and "FROM photo_text" in statement
    ]


def test_leafing_reads_one_photo_at_a_time(clients: dict[int, TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    work, part = visit(clients[LARGE], "/photos/25000?part=viewer", monkeypatch)
    assert 'data-previous="/photos/25001"' in part and 'data-next="/photos/24999"' in part
    assert work.steps < 1_000_000


def test_the_last_page_is_reached(clients: dict[int, TestClient]) -> None:
    offset = LARGE - LARGE % 60
    page = clients[LARGE].get(f"/photos?offset={offset}").text
    assert len(re.findall('class="tile"', page)) == LARGE % 60 and "data-next" not in page
    assert clients[LARGE].get(f"/photos?offset={LARGE + 60}").status_code == 200
