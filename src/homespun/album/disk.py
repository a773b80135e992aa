"""Files that are never seen half-written, the lock of a data folder, and what the system's errors mean for an album.

`store` uses it for the library itself; exports, thumbnails and what was learnt are written through it, too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from homespun.album.errors import LibraryBusyError, LibraryError, StorageFullError

LOCK = "lock"
HOLDER_BYTES = 500
LEAST_ROOM = 64 * 1024
"""SQLite keeps an index of 32 KB beside a database, and says no more than "disk I/O error" where there is no room."""


def write_file(target: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file beside its place and rename it there, so that it is never seen half-written.

    Raises `StorageFullError` if the disk is, `LibraryError` if it cannot be written otherwise.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, target) from error
    with replacing(target, durable=durable) as stream:
        stream.write(content)


@contextmanager
def replacing(target: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """A stream into a file beside `target`, which takes its place when the block ends, and is gone if the block raises.

    Raises as `write_file` does. `durable` waits until the disk has it, and its name.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        beside.replace(target)
        if durable:
            flush_folder(target.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise explain_os_error(error, target) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a file that was flushed can still lose its own in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_os_error(error: OSError, path: Path) -> LibraryError:
    """The album's error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage_full(path.parent)
    return LibraryError(f"cannot write {path}: {error.strerror}")


def no_room(folder: Path) -> bool:
    """Whether what SQLite needs beside a database, were it only to read it, does not fit on the disk any more."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize < LEAST_ROOM


def storage_full(folder: Path) -> StorageFullError:
    return StorageFullError(
        f"the disk that holds {folder} is full; free some space and try again (nothing that was stored is lost)"
    )


def take_lock(folder: Path) -> int:
    """Take the write lock of a data folder; it goes with the process, however that ends."""
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LibraryError(f"cannot write to the album's data folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        process, address = _holder(os.read(descriptor, HOLDER_BYTES))
        os.close(descriptor)
        raise LibraryBusyError(
            f"another program is changing the album in {folder}{process and f' (process {process})'}; "
            "stop it, or make this change there",
            address=address,
        ) from error
    describe_holder(descriptor)
    return descriptor


def describe_holder(lock: int, address: str = "") -> None:
    """Write into a lock that is held who holds it, and the address at which it serves the album, if it does."""
    content = json.dumps({"process": os.getpid(), "address": address})
    with suppress(OSError):  # on a full disk it says nothing, and still holds
        os.pwrite(lock, content.ljust(HOLDER_BYTES).encode(), 0)  # always as long: what was there is gone


def _holder(content: bytes) -> tuple[str, str]:
    """Process number and address as text, "" for what is not known."""
    try:
        said = json.loads(content)
        return str(int(said["process"])), str(said.get("address", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
