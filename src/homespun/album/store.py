"""The library on disk: one data folder with a SQLite database and thumbnails.

The indexer brings photos in through `Store`'s ingest methods; the facade (`album.Album`) reads and writes the
rest through its transactions. One process may write (a lock file says which), any number may read.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from homespun.album.database import DATABASE, connect, explained
from homespun.album.disk import describe_holder, take_lock, write_file
from homespun.album.errors import LibraryError
from homespun.album.migrations import STEPS, migrate, schema_version
from homespun.album.places import NamedPlace, nearest_place

if TYPE_CHECKING:
    from homespun.album.imaging import PhotoData

THUMBNAILS = "thumbnails"

# Readers are shared by the threads of a web server; more of them than cores would only hold page caches.
MOST_IDLE_READERS = 4


class FileStat(Protocol):
    """What tells whether a file is still the one that was read (`scan.FileEntry` has these)."""

    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def device(self) -> int: ...


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the library knows of a path. Exactly one of `photo_id` and `reason` is set.

    A vanished file that returns with the same size and time needs no new reading: `Store.mark_returned`.
    """

    size: int
    mtime_ns: int
    inode: int
    device: int
    photo_id: int | None
    reason: str | None
    vanished: bool


class Store:
    """A library opened for writing (`Store.open`) or for reading (`Store.open(..., read_only=True)`).

    Safe to use from several threads: writes take turns, each in a transaction; readers never wait for them.
    """

    def __init__(self, data_dir: Path, *, read_only: bool, lock: int | None) -> None:
        self.data_dir = data_dir
        self.read_only = read_only
        self._lock_file = lock
        self._turn = threading.RLock()
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._closed = False
        self._writer: sqlite3.Connection | None = None

    @classmethod
    def open(cls, data_dir: str | os.PathLike[str], *, read_only: bool = False) -> Store:
        """Open the library in `data_dir`, made new if there is none (unless `read_only`).

        Raises `LibraryBusyError` if another process writes to it, `LibraryError` if it is missing, damaged or
        made by a newer Homespun.
        """
        folder = Path(data_dir)
        if read_only:
            return cls._open_for_reading(folder)
        try:
            (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryError(f"cannot use {folder} as the album's data folder: {error.strerror}") from error
        store = cls(folder, read_only=False, lock=take_lock(folder))
        try:
            with explained(folder):
                store._writer = connect(folder / DATABASE)
                migrate(store._writer)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _open_for_reading(cls, folder: Path) -> Store:
        if not (folder / DATABASE).is_file():
            raise LibraryError(
                f"there is no album in {folder}; run `homespun album index FOLDER` first, "
                "or name the album's own folder with --data"
            )
        store = cls(folder, read_only=True, lock=None)
        with explained(folder), store.reader() as connection:
            version = schema_version(connection)
        if version != len(STEPS):
            store.close()
            cls.open(folder).close()  # brings an older file up to date, or says that it is too new or busy
            return cls._open_for_reading(folder)
        return store

    def close(self) -> None:
        """Close every connection and give up the write lock. Safe to call twice."""
        with self._turn:
            self._closed = True
            while not self._readers.empty():
                self._readers.get().close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def announce(self, address: str) -> None:
        """Let programs that want to write know at which address this one serves the album (`LibraryBusyError`)."""
        if self._lock_file is not None:
            describe_holder(self._lock_file, address)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Transactions

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it holds, or nothing.

        Survives a kill of the process either way; `durable` waits for the disk, so that it survives a power cut
        too (what a person said is durable; a photo that is lost to a power cut is only read again). Raises
        `StorageFullError` when the disk is, `LibraryError` when the library is read-only.
        """
        with self._turn, explained(self.data_dir):
            if self._writer is None:
                state = "closed" if self._closed else "open for reading only"
                raise LibraryError(f"the album in {self.data_dir} is {state}")
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, in one consistent view of the library for as long as it is held."""
        if self._closed:
            raise LibraryError(f"the album in {self.data_dir} is closed")
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            with explained(self.data_dir):
                connection = connect(self.data_dir / DATABASE, read_only=True)
        try:
            with explained(self.data_dir):
                connection.execute("BEGIN")
                yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._closed or self._readers.qsize() >= MOST_IDLE_READERS:
                connection.close()
            else:
                self._readers.put(connection)

    # Settings and roots

    def setting(self, key: str) -> str | None:
        """The stored value of a setting, or None."""
        with self.reader() as connection:
            row = connection.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, key: str, value: str, *, durable: bool = False) -> None:
        """Store a setting; `durable` as for `transaction`."""
        with self.transaction(durable=durable) as connection:
            connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, value))

    def roots(self) -> list[bytes]:
        """The folders that belong to the album, sorted."""
        with self.reader() as connection:
            return [row[0] for row in connection.execute("SELECT path FROM root ORDER BY path")]

    def add_roots(self, paths: Iterable[bytes]) -> None:
        """Remember folders for this and later runs."""
        with self.transaction(durable=True) as connection:
            connection.executemany("INSERT OR IGNORE INTO root VALUES (?)", [(path,) for path in paths])

    # Ingest: what the indexer calls

    def known_files(self) -> dict[bytes, KnownFile]:
        """Every path that was ever read, vanished ones included."""
        with self.reader() as connection:
            columns = "path, size, mtime_ns, inode, device, photo_id, reason, vanished"
            rows = connection.execute(f"SELECT {columns} FROM file")
            return {
                path: KnownFile(size, mtime_ns, inode, device, photo_id, reason, bool(vanished))
                for path, size, mtime_ns, inode, device, photo_id, reason, vanished in rows
            }

    def photo_with_content(self, content_hash: str) -> int | None:
        """The id of the photo with this content, or None."""
        with self.reader() as connection:
            row = connection.execute("SELECT id FROM photo WHERE content_hash = ?", (content_hash,)).fetchone()
        return None if row is None else int(row[0])

    def add_photo(
        self,
        path: bytes,
        stat: FileStat,
        photo: PhotoData,
        feature: npt.NDArray[np.float32] | None,
        backbone: str,
    ) -> int:
        """Store what was read from a file and return the photo's id.

        A content that is known already gains the file (and the feature, if it had none of this backbone); labels
        belong to the content, so they hold for each of its files. A path that held another content leaves it.
        `feature` has shape (D,) or is None (computed later: `photos_without_feature`).
        """
        self._write_thumbnail(photo.content_hash, photo.thumbnail)
        place = nearest_place(photo.latitude, photo.longitude)
        with self.transaction() as connection:
            left = _photo_of(connection, path)
            photo_id = _photo_with(connection, photo.content_hash)
            if photo_id is None:
                photo_id = _insert_photo(connection, path, stat, photo, place)
            if feature is not None:
                _insert_feature(connection, photo_id, backbone, feature)
            _put_file(connection, path, stat, photo_id=photo_id)
            _refresh_photos(connection, {photo_id, left})
            if left is not None and left != photo_id:
                connection.execute("UPDATE pending SET replaces = ? WHERE photo_id = ?", (left, photo_id))
        return photo_id

    def add_feature(self, photo_id: int, feature: npt.NDArray[np.float32], backbone: str) -> None:
        """Store a photo's feature, shape (D,)."""
        with self.transaction() as connection:
            _insert_feature(connection, photo_id, backbone, feature)

    def touch_moved(self, path: bytes, stat: FileStat, content_hash: str) -> int:
        """A file turned out to hold a known content (moved, copied, or only its time changed).

        Returns the photo's id. Raises `LibraryError` if no photo has that content.
        """
        with self.transaction() as connection:
            photo_id = _photo_with(connection, content_hash)
            if photo_id is None:
                raise LibraryError(f"no photo has the content {content_hash}; read the file and call add_photo")
            left = _photo_of(connection, path)
            _put_file(connection, path, stat, photo_id=photo_id)
            _refresh_photos(connection, {photo_id, left})
        return photo_id

    def mark_unreadable(self, path: bytes, stat: FileStat, reason: str, detail: str) -> None:
        """List a file as unreadable, with a reason code and a detail; a photo that it held loses it."""
        with self.transaction() as connection:
            left = _photo_of(connection, path)
            _put_file(connection, path, stat, reason=reason, detail=detail)
            _refresh_photos(connection, {left})

    def mark_vanished(self, paths: Iterable[bytes]) -> None:
        """Files are gone. A photo without any file left leaves the pages and keeps its labels."""
        self._set_vanished(paths, vanished=True)

    def mark_returned(self, paths: Iterable[bytes]) -> None:
        """Vanished files are back, with the size and time that they had."""
        self._set_vanished(paths, vanished=False)

    def _set_vanished(self, paths: Iterable[bytes], *, vanished: bool) -> None:
        with self.transaction() as connection:
            affected = set()
            for path in paths:
                affected.add(_photo_of(connection, path))
                connection.execute("UPDATE file SET vanished = ? WHERE path = ?", (vanished, path))
            if vanished:
                # An unreadable file that is gone has nothing worth keeping.
                connection.execute("DELETE FROM file WHERE vanished = 1 AND reason IS NOT NULL")
            _refresh_photos(connection, affected)

    def photos_without_feature(self, backbone: str) -> list[tuple[int, bytes]]:
        """(id, a present file) of each photo that has no feature of this backbone yet."""
        query = """
            SELECT id, path FROM photo WHERE vanished = 0
            AND NOT EXISTS (SELECT 1 FROM feature WHERE backbone = ? AND photo_id = photo.id)
            ORDER BY id
        """
        with self.reader() as connection:
            return [(int(photo_id), path) for photo_id, path in connection.execute(query, (backbone,))]

    # Features and thumbnails

    def feature_ids(self, backbone: str) -> npt.NDArray[np.int64]:
        """Ids (N,) of the photos that have a feature of this backbone, ascending."""
        query = "SELECT photo_id FROM feature WHERE backbone = ? ORDER BY photo_id"
        with self.reader() as connection:
            return np.fromiter((row[0] for row in connection.execute(query, (backbone,))), dtype=np.int64)

    def features(
        self, backbone: str, ids: Iterable[int] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
        """Ids (N,) and features (N, D) of the given photos, or of all by ascending id.

        Photos that have no feature of this backbone are left out. D is 0 where there are none at all.
        """
        with self.reader() as connection:
            return read_features(connection, backbone, ids)

    def thumbnail_path(self, content_hash: str) -> Path:
        """Where the thumbnail of a content is (or would be)."""
        return self.data_dir / THUMBNAILS / content_hash[:2] / f"{content_hash}.jpg"

    def _write_thumbnail(self, content_hash: str, thumbnail: bytes) -> None:
        target = self.thumbnail_path(content_hash)
        if not target.exists():
            write_file(target, thumbnail)


def read_features(
    connection: sqlite3.Connection, backbone: str, ids: Iterable[int] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
    """`Store.features`, within a transaction that is open already."""
    query = "SELECT photo_id, vector FROM feature WHERE backbone = ?"
    if ids is None:
        rows = connection.execute(f"{query} ORDER BY photo_id", (backbone,)).fetchall()
    else:
        wanted = (connection.execute(f"{query} AND photo_id = ?", (backbone, int(i))).fetchone() for i in ids)
        rows = [row for row in wanted if row is not None]
    found = np.array([row[0] for row in rows], dtype=np.int64)
    vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float16)
    return found, vectors.reshape(len(rows), -1 if rows else 0)


def now() -> str:
    """The local time as the library stores it: ISO 8601 with seconds and the zone's offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _photo_of(connection: sqlite3.Connection, path: bytes) -> int | None:
    row = connection.execute("SELECT photo_id FROM file WHERE path = ?", (path,)).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def _photo_with(connection: sqlite3.Connection, content_hash: str) -> int | None:
    row = connection.execute("SELECT id FROM photo WHERE content_hash = ?", (content_hash,)).fetchone()
    return None if row is None else int(row[0])


def _put_file(
    connection: sqlite3.Connection,
    path: bytes,
    stat: FileStat,
    *,
    photo_id: int | None = None,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (path, stat.size, stat.mtime_ns, stat.inode, stat.device, photo_id, reason, detail),
    )


def _insert_photo(
    connection: sqlite3.Connection, path: bytes, stat: FileStat, photo: PhotoData, place: NamedPlace | None
) -> int:
    if place is not None:
        connection.execute(
            "INSERT OR IGNORE INTO place VALUES (?, ?, ?, ?, ?)",
            (place.key, place.name_en, place.name_zh, place.latitude, place.longitude),
        )
    values = {
        "content_hash": photo.content_hash,
        "path": path,
        "byte_size": photo.byte_size,
        "width": photo.width,
        "height": photo.height,
        "format": photo.format,
        "taken": photo.taken,
        "sort_date": photo.taken or datetime.fromtimestamp(stat.mtime_ns / 1e9).isoformat(timespec="seconds"),
        "latitude": photo.latitude,
        "longitude": photo.longitude,
        "place": None if place is None else place.key,
        "camera": photo.camera,
        "added_at": now(),
    }
    columns = ", ".join(values)
    marks = ", ".join("?" * len(values))
    cursor = connection.execute(f"INSERT INTO photo ({columns}) VALUES ({marks})", tuple(values.values()))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _insert_feature(
    connection: sqlite3.Connection, photo_id: int, backbone: str, feature: npt.NDArray[np.float32]
) -> None:
    vector = np.ascontiguousarray(feature, dtype=np.float16).tobytes()
    connection.execute("INSERT OR IGNORE INTO feature VALUES (?, ?, ?)", (photo_id, backbone, vector))
    connection.execute("INSERT OR IGNORE INTO pending (photo_id) VALUES (?)", (photo_id,))


def _refresh_photos(connection: sqlite3.Connection, ids: Iterable[int | None]) -> None:
    """Bring what follows from photos' files up to date: shown path, vanished, text for searches."""
    for photo_id in ids:
        if photo_id is None:
            continue
        connection.execute("INSERT OR IGNORE INTO pending (photo_id) VALUES (?)", (photo_id,))
        query = "SELECT path FROM file WHERE photo_id = ? AND vanished = 0 ORDER BY length(path), path"
        paths = [path for (path,) in connection.execute(query, (photo_id,))]
        if not paths:
            connection.execute("UPDATE photo SET vanished = 1 WHERE id = ?", (photo_id,))
            continue
        connection.execute("UPDATE photo SET vanished = 0, path = ? WHERE id = ?", (paths[0], photo_id))
        query = """
            SELECT camera, name_en, name_zh FROM photo LEFT JOIN place ON place.key = photo.place
            WHERE photo.id = ?
        """
        words = connection.execute(query, (photo_id,)).fetchone()
        text = searchable("\n".join([*map(readable, paths), *filter(None, words)]))
        connection.execute("INSERT OR REPLACE INTO photo_text VALUES (?, ?)", (photo_id, text))


def readable(path: bytes) -> str:
    """A path for people to read: bytes that are no text become replacement characters."""
    return path.decode("utf-8", "replace")


def searchable(text: str) -> str:
    """A text as searches compare it: without case, and however its characters were composed."""
    return unicodedata.normalize("NFKC", text).casefold()
