"""Replacing a file whole or not at all: what every exporter writes through."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to; when the block ends it is flushed and takes the name `path`.

    If the block raises, the file is removed and whatever `path` was stays. Raises `OSError` as the disk does.
    """
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.partial")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = partial.stat().st_mode & 0o777  # as the user's umask has it; a library may create the file anew with another
    try:
        yield partial
        partial.chmod(mode)
        _flush(partial)
        partial.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
