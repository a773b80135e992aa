"""The topics of an album: built-in ones and those that a family makes; their keys, names and how the log changes them.

`corrections` keeps each topic in step with the log; `Album` looks topics up here by key or by name.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from homespun.album.errors import TopicError

NAMES = Path(__file__).parent / "assets" / "builtin_topics.json"

LONGEST_NAME = 60

# Words that mean something else where a topic's key is expected.
RESERVED_KEYS = frozenset({"unsorted", "none", "new", "all"})


class TopicRow(NamedTuple):
    """A topic as stored."""

    id: int
    key: str
    builtin: bool
    name_en: str
    name_zh: str
    hidden: bool
    removed: bool


def read_topics(connection: sqlite3.Connection) -> list[TopicRow]:
    """The topics that are not removed, built-in ones first, each group in the order in which it came."""
    query = """
        SELECT id, key, builtin, name_en, name_zh, hidden, removed FROM topic
        WHERE removed = 0 ORDER BY builtin DESC, id
    """
    return [
        TopicRow(id_, key, bool(builtin), name_en, name_zh, bool(hidden), bool(removed))
        for id_, key, builtin, name_en, name_zh, hidden, removed in connection.execute(query)
    ]


def find_topic(topics: Sequence[TopicRow], name: str) -> TopicRow:
    """The topic with this key or (in either language, in any case) this name. Raises `TopicError`."""
    wanted = _folded(name)
    for topic in topics:
        if topic.key == name:
            return topic
    for topic in topics:
        if wanted in (_folded(topic.key), _folded(topic.name_en), _folded(topic.name_zh)):
            return topic
    known = ", ".join(topic.key for topic in topics)
    raise TopicError(f"there is no topic {name!r}; the topics are: {known or 'none yet'}")


def install_builtin(connection: sqlite3.Connection, names: Mapping[str, tuple[str, str]]) -> None:
    """Make the built-in topics exactly those of `names` (key: English and Chinese name).

    One that is no longer built in is kept as removed, so that its labels count again if it returns.
    """
    for key, (english, chinese) in names.items():
        connection.execute(
            """
            INSERT INTO topic (key, builtin, given_en, given_zh, name_en, name_zh) VALUES (?1, 1, ?2, ?3, ?2, ?3)
            ON CONFLICT (key) DO UPDATE SET builtin = 1, given_en = ?2, given_zh = ?3
            """,
            (key, english, chinese),
        )
    for (topic_id,) in connection.execute("SELECT id FROM topic WHERE builtin = 1").fetchall():
        follow_log(connection, topic_id)
    marks = ", ".join("?" * len(names))
    connection.execute(f"UPDATE topic SET removed = 1 WHERE builtin = 1 AND key NOT IN ({marks})", tuple(names))


def builtin_names(keys: Iterable[str]) -> dict[str, tuple[str, str]]:
    """English and Chinese names of the topics that ship, for these keys."""
    known = json.loads(NAMES.read_text(encoding="utf-8")) if NAMES.exists() else {}
    names = {}
    for key in keys:
        plain = key.replace("_", " ").capitalize()
        found = known.get(key, {})
        names[key] = (found.get("en", plain), found.get("zh", plain))
    return names


def insert_topic(connection: sqlite3.Connection, name_en: str, name_zh: str) -> int:
    """A new family topic; returns its id. Raises `TopicError` for a name that is taken or cannot be one."""
    refuse_taken_names(connection, (name_en, name_zh))
    taken = {key for (key,) in connection.execute("SELECT key FROM topic")}
    cursor = connection.execute(
        """
        INSERT INTO topic (key, builtin, given_en, given_zh, name_en, name_zh) VALUES (?1, 0, ?2, ?3, ?2, ?3)
        """,
        (key_for(name_en, taken), name_en, name_zh),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def refuse_taken_names(
    connection: sqlite3.Connection, names: Iterable[str], *, except_topic: int | None = None
) -> None:
    """Raise `TopicError` if another topic has one of these names."""
    wanted = {_folded(name) for name in names}
    for topic in read_topics(connection):
        if topic.id != except_topic and wanted & {_folded(topic.name_en), _folded(topic.name_zh)}:
            raise TopicError(
                f"there is a topic called {topic.name_en} ({topic.name_zh}) already; "
                f"add the photos to it (its key is {topic.key}) or choose another name"
            )


def clean_name(name: str) -> str:
    """A name as it is stored: one line, no spaces around it. Raises `TopicError` for an empty or endless one."""
    words = " ".join(unicodedata.normalize("NFC", name).split())
    if not words or not any(character.isalnum() for character in words):
        raise TopicError("a topic needs a name with at least one letter or digit")
    if len(words) > LONGEST_NAME:
        raise TopicError(f"a topic's name has at most {LONGEST_NAME} characters; this one has {len(words)}")
    if not all(character.isprintable() for character in words):
        raise TopicError("a topic's name can't hold control characters")
    return words


def key_for(name: str, taken: Iterable[str]) -> str:
    """A key that is not taken: the name in lower case with dashes, and a number if need be.

    >>> key_for("Grandma's garden", {"wedding"})
    'grandmas-garden'
    >>> key_for("外婆的花园", ())
    '外婆的花园'
    >>> key_for("Wedding", {"wedding"})
    'wedding-2'
    """
    kept = "".join(c if c.isalnum() else "-" for c in name.casefold() if c not in "'’")
    key = "-".join(part for part in kept.split("-") if part)
    not_free = set(taken) | RESERVED_KEYS
    if key not in not_free:
        return key
    number = 2
    while f"{key}-{number}" in not_free:
        number += 1
    return f"{key}-{number}"


def follow_log(connection: sqlite3.Connection, topic_id: int) -> None:
    """Work out a topic's names, and whether it is hidden or removed, from the changes that are not undone."""
    builtin, name_en, name_zh = connection.execute(
        "SELECT builtin, given_en, given_zh FROM topic WHERE id = ?", (topic_id,)
    ).fetchone()
    hidden, exists = False, bool(builtin)
    query = "SELECT kind, details FROM change WHERE topic_id = ? AND undone_at IS NULL ORDER BY id"
    for kind, stored in connection.execute(query, (topic_id,)).fetchall():
        details = json.loads(stored)
        if kind == "add-topic":
            exists = True
        elif kind == "rename-topic":
            name_en, name_zh = details.get("name_en", name_en), details.get("name_zh", name_zh)
        elif kind == "hide-topic":
            hidden = details["hidden"]
        elif kind == "remove-topic":
            exists = False
    connection.execute(
        "UPDATE topic SET name_en = ?, name_zh = ?, hidden = ?, removed = ? WHERE id = ?",
        (name_en, name_zh, hidden, not exists, topic_id),
    )


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
