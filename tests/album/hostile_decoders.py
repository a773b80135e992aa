"""Stand-ins for a decoder that goes wrong. Run in the decode processes, which import this module by its name."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

from homespun.album.imaging import Limits, PhotoData, SeenBefore, Unreadable
from homespun.album.imaging.read import read_unless_seen


def misbehave(path: bytes, seen: tuple[str, ...], limits: Limits) -> PhotoData | SeenBefore:
    """Does as the file's name says, and reads it like any photo where that says nothing."""
    name = os.fsdecode(os.path.basename(path))  # noqa: PTH119
    if "exit" in name:
        os._exit(3)
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "oom-killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in name:
        while True:
            time.sleep(1)
    if "spin" in name:
        while True:
            pass
    if "hoard" in name:
        hoard = []
        while True:
            hoard.append(bytearray(32 << 20))
    if "babble" in name:
        for descriptor in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"\0\0\0\x04what")
        time.sleep(1)
    if "bug" in name:
        raise KeyError("a bug in the reader")
    if "refused" in name:
        raise Unreadable("permission")
    return read_unless_seen(path, seen, limits)


def process_id() -> int:
    return os.getpid()


def address_space_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def loaded_modules() -> list[str]:
    import sys

    return sorted(sys.modules)


def write_marker_and_hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)


def refuse() -> None:
    raise Unreadable("damaged", "as asked")
