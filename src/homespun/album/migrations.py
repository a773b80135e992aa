"""The library's database schema and the steps that bring an older file up to date.

`store.Store` calls `migrate` on opening. A step is never edited once released: a change of schema is a new
step. The version is SQLite's own `user_version`.
"""

import sqlite3
from collections.abc import Sequence

from homespun.album.errors import LibraryError

# Features are 2,560-byte blobs: 8 KiB pages hold three of them where 4 KiB pages would hold one.
PAGE_SIZE = 8192

FIRST_SCHEMA = """
CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Folders that the family asked to have in the album.
CREATE TABLE root (
    path BLOB PRIMARY KEY
) WITHOUT ROWID;

-- Cities, or squares of the map where no city is near, that have photos.
CREATE TABLE place (
    key       TEXT PRIMARY KEY,
    name_en   TEXT NOT NULL,
    name_zh   TEXT NOT NULL,
    latitude  REAL NOT NULL,
    longitude REAL NOT NULL
) WITHOUT ROWID;

-- A photo is a content; its files may move, multiply or vanish.
CREATE TABLE photo (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    content_hash TEXT NOT NULL UNIQUE,
    path         BLOB NOT NULL,               -- the file that people are shown, even once it has vanished
    byte_size    INTEGER NOT NULL,
    width        INTEGER NOT NULL,
    height       INTEGER NOT NULL,
    format       TEXT NOT NULL,
    taken        TEXT,                        -- local time, ISO 8601, no zone
    sort_date    TEXT NOT NULL,               -- taken, or else the file's time
    latitude     REAL,
    longitude    REAL,
    place        TEXT REFERENCES place,
    camera       TEXT,
    vanished     INTEGER NOT NULL DEFAULT 0,
    added_at     TEXT NOT NULL
);
CREATE INDEX photo_by_date ON photo (vanished, sort_date, id);
CREATE INDEX photo_by_place ON photo (place, vanished, sort_date, id) WHERE place IS NOT NULL;

-- What a text search reads, apart from the wide photo rows so that a full scan stays short.
CREATE TABLE photo_text (
    photo_id INTEGER PRIMARY KEY REFERENCES photo,
    text     TEXT NOT NULL
);

CREATE TABLE file (
    path     BLOB PRIMARY KEY,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    device   INTEGER NOT NULL,
    photo_id INTEGER REFERENCES photo,
    reason   TEXT,                            -- why it is unreadable
    detail   TEXT,
    vanished INTEGER NOT NULL DEFAULT 0,
    CHECK ((photo_id IS NULL) <> (reason IS NULL))
) WITHOUT ROWID;
CREATE INDEX file_by_photo ON file (photo_id) WHERE photo_id IS NOT NULL;
CREATE INDEX file_unreadable ON file (reason) WHERE reason IS NOT NULL;

CREATE TABLE feature (
    photo_id INTEGER NOT NULL REFERENCES photo,
    backbone TEXT NOT NULL,
    vector   BLOB NOT NULL                    -- float16
);
CREATE UNIQUE INDEX feature_of_photo ON feature (backbone, photo_id);

-- Names, hidden and removed follow from the log of changes; kept here for reading.
CREATE TABLE topic (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    key     TEXT NOT NULL UNIQUE,
    builtin INTEGER NOT NULL,
    given_en TEXT NOT NULL,                   -- the names that it began with
    given_zh TEXT NOT NULL,
    name_en TEXT NOT NULL,
    name_zh TEXT NOT NULL,
    hidden  INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0
);

-- The log: everything that a person said. It is only ever added to, or marked undone.
CREATE TABLE change (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      TEXT NOT NULL,
    topic_id  INTEGER REFERENCES topic,
    details   TEXT NOT NULL DEFAULT '{}',
    moved     INTEGER NOT NULL DEFAULT 0,
    made_at   TEXT NOT NULL,
    undone_at TEXT
);

-- What a change said of a photo and a topic: 1 is, -1 is not.
CREATE TABLE change_label (
    photo_id  INTEGER NOT NULL REFERENCES photo,
    topic_id  INTEGER NOT NULL REFERENCES topic,
    change_id INTEGER NOT NULL REFERENCES change,
    value     INTEGER NOT NULL CHECK (value IN (-1, 1)),
    PRIMARY KEY (photo_id, topic_id, change_id)
) WITHOUT ROWID;
CREATE INDEX change_label_by_change ON change_label (change_id);

-- What holds now: per photo and topic, the last change that is not undone.
CREATE TABLE label (
    photo_id INTEGER NOT NULL REFERENCES photo,
    topic_id INTEGER NOT NULL REFERENCES topic,
    value    INTEGER NOT NULL CHECK (value IN (-1, 1)),
    PRIMARY KEY (photo_id, topic_id)
) WITHOUT ROWID;
CREATE INDEX label_by_topic ON label (topic_id, value);

-- Questions that the family has answered or skipped, and by which change.
CREATE TABLE question (
    photo_id  INTEGER NOT NULL REFERENCES photo,
    topic_id  INTEGER NOT NULL REFERENCES topic,
    change_id INTEGER NOT NULL REFERENCES change,
    PRIMARY KEY (photo_id, topic_id, change_id)
) WITHOUT ROWID;

-- Which photos stand in which topic now (labels over scores). Derived; only photos that have a file.
CREATE TABLE membership (
    topic_id  INTEGER NOT NULL REFERENCES topic,
    sort_date TEXT NOT NULL,
    photo_id  INTEGER NOT NULL REFERENCES photo,
    human     INTEGER NOT NULL,
    PRIMARY KEY (topic_id, sort_date, photo_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX membership_by_photo ON membership (photo_id, topic_id);

-- Photos whose membership must be worked out again: new, changed, vanished or returned.
CREATE TABLE pending (
    photo_id INTEGER PRIMARY KEY REFERENCES photo,
    replaces INTEGER REFERENCES photo         -- the photo that its file held before, if it was edited
);
"""

MEMBERSHIP_AS_BITS = """
-- Which photos stand in which topic now (labels over scores): bit i of a blob, lowest first, is the photo with id i.
-- Rows for each photo cost more the more a correction moved. What they held is derived, and made again on opening.
DROP TABLE membership;
CREATE TABLE membership (
    topic_id INTEGER PRIMARY KEY REFERENCES topic,
    photos   BLOB NOT NULL
);
"""

BELIEFS_AND_MOVES = """
-- How sure the album was that the photo is in the topic, just before a person spoke: each answer is a test of it.
-- NULL where it had no belief of its own: of a new topic, of a photo that it had not seen or a person had spoken of.
ALTER TABLE change_label ADD COLUMN believed REAL;
-- The most certain of the photos that moved because of a change, and the example that speaks for each (JSON).
ALTER TABLE change ADD COLUMN moves TEXT NOT NULL DEFAULT '[]';
"""

REFINEMENTS = """
-- Runs of refining that ended, whatever they led to. Which one is in use is the setting "refinement".
CREATE TABLE refinement (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    began_at TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    folder   TEXT NOT NULL,                   -- where its network is, below the folder of refinements
    previous INTEGER REFERENCES refinement,   -- what was in use before; null: what ships
    labels   INTEGER NOT NULL,                -- how many there were when it began
    outcome  TEXT NOT NULL,                   -- adopted, kept, outdated, rolled back
    result   TEXT NOT NULL                    -- figures (JSON)
);
"""

STEPS: tuple[str, ...] = (FIRST_SCHEMA, MEMBERSHIP_AS_BITS, BELIEFS_AND_MOVES, REFINEMENTS)


def schema_version(connection: sqlite3.Connection) -> int:
    """The version of the schema in the file; 0 for an empty one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, steps: Sequence[str] = STEPS) -> bool:
    """Run the steps that the file has not seen, each in a transaction of its own; return whether any ran.

    Raises `LibraryError` if the file was made by a newer Homespun.
    """
    version = schema_version(connection)
    if version > len(steps):
        raise LibraryError(
            f"this album was made by a newer Homespun (its format is {version}, this one reads up to "
            f"{len(steps)}); please update Homespun"
        )
    for number, step in enumerate(steps[version:], start=version + 1):
        # One script with its own transaction: a kill in the middle leaves the version before it.
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
    return version < len(steps)
