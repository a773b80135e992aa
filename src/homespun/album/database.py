"""Connections to the library's SQLite database, and what its errors mean for an album.

`store.Store` opens its writer and its readers here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homespun.album.disk import no_room, storage_full
from homespun.album.errors import LibraryBusyError, LibraryError
from homespun.album.migrations import PAGE_SIZE

DATABASE = "album.sqlite3"


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "")
    # Transactions are opened by hand; threads hand connections to each other but never share one at a time.
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0)
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    else:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into the album's, with what to do about them."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and no_room(folder)):
            raise storage_full(folder) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise LibraryError(f"{folder / DATABASE} is damaged or is not an album: {error}") from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LibraryBusyError(f"another program keeps {folder / DATABASE} locked: {error}") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            raise LibraryError(f"cannot read or write {folder / DATABASE}: {error}") from error
        raise
