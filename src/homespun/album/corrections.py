"""The log of what people said. Changes are added, undone and put back; labels and topics follow from the log alone.

`Album` calls these inside a write transaction. Because what holds now is always worked out from the changes that are
not undone (per photo and topic the last one counts), changes can be undone in any order, after any restart.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from homespun.album.errors import ChangeError, TopicError
from homespun.album.model import Change, Moved, Reason
from homespun.album.standing import Standing
from homespun.album.store import now
from homespun.album.topics import TopicRow, find_topic, follow_log

# Moves that stay in the log with a change, for the pages that show it later.
MOVES_KEPT = 24


class Label(NamedTuple):
    """What was said of a photo and a topic: `value` is 1 (it is) or -1 (it is not)."""

    photo_id: int
    topic_id: int
    value: int


def add_change(
    connection: sqlite3.Connection,
    kind: str,
    *,
    topic_id: int | None = None,
    details: Mapping[str, str | bool] | None = None,
    labels: Iterable[Label] = (),
) -> int:
    """Write a change to the log, bring labels and its topic up to date, and return its id."""
    cursor = connection.execute(
        "INSERT INTO change (kind, topic_id, details, made_at) VALUES (?, ?, ?, ?)",
        (kind, topic_id, json.dumps(details or {}, ensure_ascii=False), now()),
    )
    change_id = cursor.lastrowid
    assert change_id is not None
    connection.executemany(
        "INSERT INTO change_label (photo_id, topic_id, change_id, value) VALUES (?, ?, ?, ?)",
        ((label.photo_id, label.topic_id, change_id, label.value) for label in labels),
    )
    _follow(connection, change_id)
    return change_id


def set_undone(connection: sqlite3.Connection, change_id: int, undone: bool) -> None:
    """Undo a change or put it back. Raises `ChangeError` if it does not exist or is so already."""
    row = connection.execute("SELECT undone_at FROM change WHERE id = ?", (change_id,)).fetchone()
    if row is None:
        raise ChangeError(f"there is no change {change_id}; `homespun album undo --list` shows what there is")
    if (row[0] is not None) is undone:
        raise ChangeError(f"change {change_id} {'is undone already' if undone else 'holds; it was not undone'}")
    connection.execute("UPDATE change SET undone_at = ? WHERE id = ?", (now() if undone else None, change_id))
    _follow(connection, change_id)


def said_of_topics(
    rows: Sequence[TopicRow], positive: Iterable[str], negative: Iterable[str], none: bool
) -> dict[int, int]:
    """Topic ids and what a correction says of them (1 or -1). Raises `TopicError` if it contradicts itself."""
    is_in = {find_topic(rows, name).id: name for name in positive}
    not_in = {find_topic(rows, name).id: name for name in negative}
    both = [name for topic_id, name in is_in.items() if topic_id in not_in]
    if both:
        raise TopicError(f"a photo can't be said to be in {both[0]} and not in it at once")
    if none and is_in:
        raise TopicError(f"none of the topics, but also {next(iter(is_in.values()))}: that contradicts itself")
    if none:
        return {row.id: -1 for row in rows}
    if not is_in and not not_in:
        raise TopicError("a correction names topics that the photos are in, or not in, or says none")
    return dict.fromkeys(is_in, 1) | dict.fromkeys(not_in, -1)


def carry_labels_of_edited(connection: sqlite3.Connection, alike: Callable[[int, int], bool]) -> None:
    """A file that was edited in place (rotated, tagged) is a new content: give it what was said of the old one.

    Only where `alike(old photo, new photo)` says that it is the same picture; logged, so that it can be undone.
    Questions about the old one are not asked of the new one again, for as long as their answers hold.
    """
    edited = connection.execute("SELECT replaces, photo_id FROM pending WHERE replaces IS NOT NULL").fetchall()
    connection.execute("UPDATE pending SET replaces = NULL")
    for old, new in edited:
        query = "SELECT topic_id, value FROM label WHERE photo_id = ?"
        said = connection.execute(query, (old,)).fetchall()
        asked = connection.execute("SELECT topic_id, change_id FROM question WHERE photo_id = ?", (old,)).fetchall()
        if not (said or asked) or not alike(old, new):
            continue
        connection.executemany(
            "INSERT OR IGNORE INTO question VALUES (?, ?, ?)",
            [(new, topic_id, change_id) for topic_id, change_id in asked],
        )
        if said and connection.execute(query, (new,)).fetchone() is None:
            add_change(connection, "edited", labels=[Label(new, topic_id, value) for topic_id, value in said])


def last_change(connection: sqlite3.Connection) -> int:
    """The id of the last change that holds. Raises `ChangeError` if there is none."""
    row = connection.execute("SELECT max(id) FROM change WHERE undone_at IS NULL").fetchone()
    if row[0] is None:
        raise ChangeError("there is nothing to undo")
    return int(row[0])


def note_beliefs(connection: sqlite3.Connection, change_id: int, standing: Standing) -> None:
    """Keep with what a new change said how sure the album was of it: `standing` is how things stood before."""
    noted = []
    for label in labels_of_change(connection, change_id):
        row, column = standing.row(label.photo_id), standing.column(label.topic_id)
        if row is not None and column is not None and standing.scored[row] and not standing.said[row, column]:
            noted.append((float(standing.confidences[row, column]), label.photo_id, label.topic_id, change_id))
    connection.executemany(
        "UPDATE change_label SET believed = ? WHERE photo_id = ? AND topic_id = ? AND change_id = ?", noted
    )


def note_moves(connection: sqlite3.Connection, change_id: int, moves: Sequence[Moved], total: int) -> None:
    """Keep with a change the first of the photos that it moved, and how many moved in all."""
    kept = json.dumps([asdict(move) for move in moves[:MOVES_KEPT]], ensure_ascii=False)
    connection.execute("UPDATE change SET moved = ?, moves = ? WHERE id = ?", (total, kept, change_id))


def labels_of_change(connection: sqlite3.Connection, change_id: int) -> list[Label]:
    """What a change said, whether it holds or not."""
    query = "SELECT photo_id, topic_id, value FROM change_label WHERE change_id = ? ORDER BY photo_id, topic_id"
    return [Label(*row) for row in connection.execute(query, (change_id,))]


def read_change(connection: sqlite3.Connection, change_id: int) -> Change:
    """A change as the log has it."""
    (change,) = _read(connection, "WHERE change.id = ?", (change_id,))
    return change


def read_changes(connection: sqlite3.Connection, limit: int) -> list[Change]:
    """The newest changes first."""
    return _read(connection, "ORDER BY change.id DESC LIMIT ?", (limit,))


def _read(connection: sqlite3.Connection, condition: str, values: tuple[int, ...]) -> list[Change]:
    query = f"""
        SELECT change.id, kind, details, moved, moves, made_at, undone_at, topic.key
        FROM change LEFT JOIN topic ON topic.id = change.topic_id {condition}
    """
    changes = []
    for change_id, kind, details, moved, moves, made_at, undone_at, key in connection.execute(query, values).fetchall():
        labels = labels_of_change(connection, change_id)
        keys = dict(connection.execute("SELECT id, key FROM topic").fetchall()) if labels else {}
        topics = {keys[label.topic_id] for label in labels} | ({key} if key else set())
        changes.append(
            Change(
                id=change_id,
                kind=kind,
                photos=sorted({label.photo_id for label in labels}),
                topics=sorted(topics),
                made_at=made_at,
                undone=undone_at is not None,
                moved=[_read_move(move) for move in json.loads(moves)],
                moved_total=moved,
                details=json.loads(details),
            )
        )
    return changes


def _read_move(stored: dict[str, Any]) -> Moved:
    because = stored.pop("because")
    return Moved(**stored, because=Reason(**because) if because else None)


def _follow(connection: sqlite3.Connection, change_id: int) -> None:
    """Work out again the labels that a change touches, and its topic."""
    pairs = "SELECT photo_id, topic_id FROM change_label WHERE change_id = :change"
    connection.execute(f"DELETE FROM label WHERE (photo_id, topic_id) IN ({pairs})", {"change": change_id})
    # SQLite takes the other columns of a group from the row that has its max(): here, the last change's value.
    connection.execute(
        f"""
        INSERT INTO label (photo_id, topic_id, value)
        SELECT photo_id, topic_id, value FROM (
            SELECT said.photo_id, said.topic_id, said.value, max(said.change_id)
            FROM ({pairs}) AS touched
            JOIN change_label AS said ON said.photo_id = touched.photo_id AND said.topic_id = touched.topic_id
            JOIN change ON change.id = said.change_id AND change.undone_at IS NULL
            GROUP BY said.photo_id, said.topic_id
        )
        """,
        {"change": change_id},
    )
    topic_id = connection.execute("SELECT topic_id FROM change WHERE id = ?", (change_id,)).fetchone()[0]
    if topic_id is not None:
        follow_log(connection, topic_id)
