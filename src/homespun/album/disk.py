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
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from homespun.album.errors import LibraryBusyError, LibraryError, StorageFullError

LOCK = "lock"


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

    Raises as `write_file` does. `durable` waits until the disk has it.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise explain_os_error(error, target) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def explain_os_error(error: OSError, path: Path) -> LibraryError:
    """The album's error for a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage_full(path.parent)
    return LibraryError(f"cannot write {path}: {error.strerror}")


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
        holder = os.read(descriptor, 200)
        os.close(descriptor)
        raise LibraryBusyError(
            f"another program is changing the album in {folder}{_name_holder(holder)}; "
            "stop it, or make this change there"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"process": os.getpid()}).encode(), 0)
    return descriptor


def _name_holder(content: bytes) -> str:
    try:
        return f" (process {int(json.loads(content)['process'])})"
    except (ValueError, KeyError, TypeError):
        return ""
