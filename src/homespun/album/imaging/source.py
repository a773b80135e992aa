"""A file's bytes, read once and bounded: opened without waiting, checked to be a plain file, hashed.

First step of `read_photo`; nothing here knows about pictures except how many bytes tell one from something else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat as stat_bits
from collections.abc import Callable
from dataclasses import dataclass

from homespun.album.imaging.photo import Unreadable

HEAD = 4096

# O_NONBLOCK: a pipe without a writer must not hold up the run.
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Source:
    """The whole content of a file and what identified it when it was read."""

    data: bytes
    content_hash: str
    mtime_ns: int


def read_source(
    path: str | bytes | os.PathLike[str], most_bytes: int, check_head: Callable[[bytes], object] | None = None
) -> Source:
    """Read a plain file of at most `most_bytes` bytes.

    `check_head` sees the first bytes and may raise, so that a four-hour video is not read to learn
    that it is none of ours. A file that changes while it is read is read once more.
    Raises `Unreadable`: permission, missing, not_a_file, empty, file_too_large, changed_while_read or read_error.
    """
    try:
        return _read_once(path, most_bytes, check_head)
    except Unreadable as first:
        if first.reason != "changed_while_read":
            raise
        return _read_once(path, most_bytes, check_head)


def _read_once(
    path: str | bytes | os.PathLike[str], most_bytes: int, check_head: Callable[[bytes], object] | None
) -> Source:
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError as error:
        raise os_error_reason(error) from error
    except ValueError as error:  # a NUL in the name
        raise Unreadable("missing", str(error)) from error
    try:
        before = os.fstat(descriptor)
        if not stat_bits.S_ISREG(before.st_mode):
            raise Unreadable("not_a_file")
        if before.st_size == 0:
            raise Unreadable("empty")
        if check_head is not None:
            check_head(os.pread(descriptor, HEAD, 0))
        if before.st_size > most_bytes:
            raise Unreadable("file_too_large", f"{before.st_size:,} bytes, at most {most_bytes:,}")
        data = _read_all(descriptor, before.st_size)
        after = os.fstat(descriptor)
    except OSError as error:
        raise os_error_reason(error) from error
    finally:
        os.close(descriptor)
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise Unreadable(
            "changed_while_read", f"{before.st_size:,} bytes at first, then {max(after.st_size, len(data)):,}"
        )
    return Source(data, hashlib.sha256(data).hexdigest(), before.st_mtime_ns)


def _read_all(descriptor: int, size: int) -> bytes:
    """The whole file; one byte more than `size` if it has grown. Local drives give it in one piece."""
    pieces, missing = [], size + 1
    while missing and (piece := os.read(descriptor, missing)):
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def os_error_reason(error: OSError) -> Unreadable:
    """The reason that people are given for an error of the operating system."""
    if isinstance(error, PermissionError):
        code = "permission"
    elif isinstance(error, FileNotFoundError | NotADirectoryError):
        code = "missing"
    elif isinstance(error, IsADirectoryError) or error.errno in (errno.ENXIO, errno.ENODEV):
        code = "not_a_file"
    elif error.errno == errno.ELOOP:
        code = "link_circle"
    elif error.errno == errno.ENAMETOOLONG:
        code = "name_too_long"
    else:
        code = "read_error"
    return Unreadable(code, error.strerror or str(error))
