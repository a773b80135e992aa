"""Replacing a file whole or not at all: what every exporter writes through."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ENDING = ".partial"
#: Seconds without a write after which a partial file is nobody's.
_ORPHANED = 600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path` to write to; when the block ends it is flushed and takes the name `path`.

    If the block raises, the file is removed and whatever `path` was stays. What writers of `path` left that were killed
    on the way is removed too. Raises `OSError` as the disk does.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder to write {path.name} to", str(path.parent))
    _remove_orphans(path)
    partial = path.with_name(f"{_prefix(path)}{secrets.token_hex(6)}{_ENDING}")
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


def _prefix(path: Path) -> str:
    return f".{path.name[:200]}."


def _remove_orphans(path: Path) -> None:
    """Remove partial files of `path` that nobody has written to for so long that their writer must be gone."""
    oldest = time.time() - _ORPHANED
    for entry in path.parent.iterdir():
        if entry.name.startswith(_prefix(path)) and entry.name.endswith(_ENDING):
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < oldest:
                    entry.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
