"""What runs in a decode process: takes a task from a pipe, does it under hard limits, sends back what came of it.

Started by `album.workers`, which watches the time. Imports no more than decoding needs: a new one is quick to have.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from homespun.album.imaging import read  # noqa: F401 - what tasks name, loaded before the memory limit is drawn
from homespun.album.imaging.photo import Limits, Unreadable

# What stands above the limit on decoding: the file's own bytes come on top, and the interpreter's odds and ends.
SLACK = 128 << 20

Task = tuple[Callable[..., Any], tuple[Any, ...]]
# ("done", value), ("unreadable", (reason, detail)) or ("failed", traceback)
Outcome = tuple[str, Any]


def main(descriptor: int) -> None:
    """Serve tasks that arrive on a socket until it closes."""
    connection: Connection = Connection(descriptor)
    limits: Limits = connection.recv()
    _limit_resources(limits)
    connection.send(("ready", None))
    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        # Should the process that watches the clock be gone, this still ends a decoder that never does.
        signal.alarm(int(limits.seconds * 2) + 5)
        outcome = perform(task)
        signal.alarm(0)
        try:
            connection.send(outcome)
        except OSError:
            return


def perform(task: Task) -> Outcome:
    """Do one task; whatever happens in it becomes an outcome."""
    function, arguments = task
    try:
        return "done", function(*arguments)
    except Unreadable as error:
        return "unreadable", (error.reason, error.detail)
    except MemoryError:
        return "unreadable", ("too_large", "out of memory")
    except Exception:  # noqa: BLE001 - one photo's failure is reported as that photo's
        return "failed", traceback.format_exc(limit=8)


def _limit_resources(limits: Limits) -> None:
    """No core files, and no more memory than the limits allow above what the process has now."""
    try:
        import resource
    except ImportError:  # not on Windows: there the limits on size alone must do
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # the address space is limited, so what is mapped already must be known
        mapped = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = mapped + limits.memory + limits.file_bytes + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
