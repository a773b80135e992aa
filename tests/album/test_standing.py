"""What is kept of a standing between runs: which photos are in which topic, whatever their numbers."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.album import standing
from homespun.album.migrations import migrate
from tests.album.small_library import Picture, add, add_colours, in_topic, open_album

TOPICS = 3


def library(ids: list[int]) -> sqlite3.Connection:
    """A database with photos of these ids, each dated by its id, and topics."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    for i in range(TOPICS):
        connection.execute("INSERT INTO topic VALUES (?, ?, 0, '', '', '', '', 0, 0)", (i + 5, f"topic {i}"))
    add_rows(connection, ids)
    return connection


def add_rows(connection: sqlite3.Connection, ids: list[int]) -> None:
    connection.executemany(
        "INSERT INTO photo VALUES (?1, ?1, x'', 0, 0, 0, '', NULL, ?2, NULL, NULL, NULL, NULL, 0, '')",
        [(photo_id, f"2020-01-01T00:00:{photo_id % 60:02}") for photo_id in ids],
    )


some_ids = st.lists(st.integers(1, 300), min_size=1, max_size=40, unique=True)


@settings(max_examples=60, deadline=None)
@given(ids=some_ids, later=some_ids, seed=st.integers(0, 999))
def test_what_is_stored_is_what_is_read(ids, later, seed):
    rng = np.random.default_rng(seed)
    connection = library(ids)
    before = standing.read(connection)
    assert not before.member.any()
    for more in ([], sorted(set(later) - set(ids))):
        add_rows(connection, more)
        dates = standing.as_dates(f"2020-01-01T00:00:{photo_id % 60:02}" for photo_id in more)
        before = before.with_photos(np.array(more, dtype=np.int64), dates)
        after = replace(before, member=np.asfortranarray(rng.random(before.member.shape) < 0.3))
        standing.write(connection, before, after)
        again = standing.read(connection)
        assert np.array_equal(again.ids, after.ids)
        assert np.array_equal(again.member, after.member)
        assert np.array_equal(again.by_date, after.by_date)
        before = after
    # Oldest first; of the same date, the lower number.
    assert before.ids[before.by_date].tolist() == sorted(before.ids.tolist(), key=lambda i: (i % 60, i))
    # A topic that is removed leaves nothing behind.
    connection.execute("UPDATE topic SET removed = 1 WHERE id = 6")
    fewer = standing.read(connection)
    standing.write(connection, fewer, fewer)
    assert {row[0] for row in connection.execute("SELECT topic_id FROM membership")} <= {5, 7}


def test_photos_keep_their_topics_while_another_backbone_has_not_seen_them(tmp_path):
    with open_album(tmp_path) as album:
        said = add_colours(album)["blue"][0]
        album.correct([said], positive=["red"])
        red = in_topic(album, "red")
        assert len(red) > 4
    with open_album(tmp_path) as album:
        album._sorting.use_backbone("colours-2")
        assert in_topic(album, "red") == red
        album.undo()
        assert in_topic(album, "red") == red - {said}
        add(album, Picture("red", 77, "late.jpg"))
        assert in_topic(album, "red") == red - {said}
