"""Libraries of every released format open, with all that they held; one from the future is left alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from homespun.album.database import DATABASE
from homespun.album.errors import LibraryError
from homespun.album.migrations import STEPS, migrate, schema_version
from tests.album.small_library import in_topic, open_album

LIBRARIES = Path(__file__).parent / "libraries"


def restore(version: int, folder: Path) -> None:
    """A data folder as that version left it, from its dump."""
    connection = sqlite3.connect(folder / DATABASE)
    connection.executescript((LIBRARIES / f"version-{version}.sql").read_text())
    connection.close()


@pytest.mark.parametrize("version", range(1, len(STEPS) + 1))
def test_old_libraries_keep_everything(version, tmp_path):
    restore(version, tmp_path)
    with open_album(tmp_path) as album:
        one, two, gone = (album.photo(number) for number in (1, 2, 3))
        assert (one.taken, one.camera, one.place) == ("2019-02-05T18:00:00", "Nikon D70", "Zürich, Switzerland")
        assert (two.name, gone.status) == ("caf\ufffd.jpg", "vanished")
        assert [(topic.key, topic.name_zh) for topic in album.topics()] == [
            ("red", "红色"),
            ("green", "绿色"),
            ("ours", "我们"),
        ]
        assert in_topic(album, "green") == {2}
        assert in_topic(album, "red") == {1}
        assert [(change.kind, change.undone) for change in album.changes()] == [
            ("answer", False),
            ("label", True),
            ("add-topic", False),
            ("label", False),
        ]
        assert [problem.path for problem in album.problems()] == ["/photos/bad.jpg"]
        assert album.status().roots == ["/photos"]
        assert album.photo(2).topics[0].source == "human"
        album._store.mark_returned([b"/photos/gone.jpg"])
        album.sort_new()
        assert in_topic(album, "ours") == {3}
        album.undo(1)
        assert in_topic(album, "green") == set()


def test_a_library_is_brought_up_to_date_for_reading_too(tmp_path):
    restore(1, tmp_path)
    with open_album(tmp_path, read_only=True) as album:
        assert in_topic(album, "green") == {2}


def test_a_library_from_the_future_is_left_alone(tmp_path):
    restore(len(STEPS), tmp_path)
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(LibraryError, match=r"newer Homespun .*99.* please update"):
            open_album(tmp_path, read_only=read_only)
    connection = sqlite3.connect(tmp_path / DATABASE)
    assert schema_version(connection) == 99
    assert connection.execute("SELECT count(*) FROM photo").fetchone() == (3,)


STEPS_OF_A_TEST = (
    "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1);",
    "ALTER TABLE a ADD COLUMN y INTEGER; UPDATE a SET y = x + 1;",
    "INSERT INTO a VALUES (5, 6); INSERT INTO no_such_table VALUES (1);",
)


def test_steps_run_once_each_and_all_or_nothing():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    assert migrate(connection, STEPS_OF_A_TEST[:1])
    assert migrate(connection, STEPS_OF_A_TEST[:2])
    assert not migrate(connection, STEPS_OF_A_TEST[:2])
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, STEPS_OF_A_TEST)
    connection.execute("ROLLBACK")
    assert schema_version(connection) == 2
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
