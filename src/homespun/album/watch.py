"""Notices new, changed and removed photos while the album serves, and has the library brought up to date.

Runs `on_change` (an index run) in a thread of its own after things have settled. Folders may vanish and return, as
drives do; drives that tell nothing of their changes are looked through from time to time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from watchfiles import Change, watch

from homespun.album.scan import is_within
from homespun.errors import HomespunError

logger = logging.getLogger(__name__)

# File systems whose changes on another machine the kernel does not report.
REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "vboxsf", "drvfs", "glusterfs", "ceph"}
)


class Watcher:
    """Calls `on_change` some time after anything changed in the folders; one call at a time.

    A change is acted on once nothing more has happened for `settle_seconds`, or after ten times as long when something
    always does. `poll` forces looking (every `poll_seconds`) instead of being told; None does so for network drives and
    where the limit on watched folders is reached. Every `look_seconds` it is seen whether the folders are there
    still. `exclude` is the album's own data folder. Use as a context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        roots: Iterable[str | bytes | os.PathLike[str]],
        on_change: Callable[[], object],
        *,
        exclude: Iterable[str | bytes | os.PathLike[str]] = (),
        settle_seconds: float = 1.5,
        poll: bool | None = None,
        poll_seconds: float = 20.0,
        look_seconds: float = 5.0,
    ) -> None:
        self._roots = [os.path.abspath(os.fsencode(root)) for root in roots]  # noqa: PTH100
        self._exclude = [os.path.realpath(os.fsencode(path)) for path in exclude]
        self._on_change = on_change
        self._settle_seconds = settle_seconds
        self._poll = poll
        self._poll_seconds = poll_seconds
        self._look_seconds = look_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-photos", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, after an `on_change` that is under way has returned. Safe to call twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        there = self._there()
        missed = False
        while not self._stop.is_set():
            try:
                self._watch(there, missed)
            except OSError as error:
                if self._there() == there:  # not a folder that went, then: the limit on watched folders
                    logger.warning("watching is not possible (%s); the folders are looked through instead", error)
                    self._poll = True
                    self._stop.wait(self._settle_seconds)
            except RuntimeError as error:  # a name in no known encoding, for one, is more than the library can report
                logger.info("a change could not be named (%s)", error)
                self._stop.wait(self._settle_seconds)
            there = self._there()
            missed = True

    def _watch(self, there: dict[bytes, tuple[int, int]], missed: bool) -> None:
        """Watch the folders that are there until one goes or another comes.

        `missed` says that things may have changed unseen: they are acted on once the watch is in place.
        """
        if not there:
            if missed:
                self._act()
            while not self._stop.wait(self._look_seconds) and not self._there():
                pass
            return
        changes = watch(
            *(os.fsdecode(root) for root in there),
            watch_filter=self._concerns_us,
            debounce=round(self._settle_seconds * 10_000),
            step=round(self._settle_seconds * 1000),
            stop_event=self._stop,
            rust_timeout=round(self._look_seconds * 1000),
            yield_on_timeout=True,
            force_polling=self._must_poll(there),
            poll_delay_ms=round(self._poll_seconds * 1000),
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        for changed in changes:
            if self._there() != there:
                return
            if changed or missed:
                missed = False
                self._act()

    def _act(self) -> None:
        try:
            self._on_change()
        except HomespunError as error:  # a full disk, say: the next change, or start, tries again
            logger.warning("the library could not be brought up to date: %s", error)

    def _there(self) -> dict[bytes, tuple[int, int]]:
        """The folders that exist now, and which ones they are: a drive that was plugged in again is another."""
        found = {}
        for root in self._roots:
            try:
                status = os.stat(root)  # noqa: PTH116
            except OSError:
                continue
            found[root] = (status.st_dev, status.st_ino)
        return found

    def _concerns_us(self, _: Change, path: str) -> bool:
        """Hidden files are none of ours, nor is what the album itself writes."""
        name = os.fsencode(path)
        if any(is_within(name, folder) for folder in self._exclude):
            return False
        top = max((root for root in self._roots if is_within(name, root)), key=len, default=b"")
        return b"/." not in name[len(top) :]

    def _must_poll(self, roots: Iterable[bytes]) -> bool:
        if self._poll is not None:
            return self._poll
        mounts = Path("/proc/self/mountinfo")
        table = mounts.read_text(errors="surrogateescape") if mounts.exists() else ""
        return any(is_remote(root, table) for root in roots)


def is_remote(folder: bytes, mountinfo: str) -> bool:
    """Whether a folder lies on a network drive or on a virtual machine's host, by the text of /proc/self/mountinfo."""
    best, kind = -1, ""
    path = os.path.realpath(folder)
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        parts, types = fields.split(), rest.split()
        if len(parts) < 5 or not types:
            continue
        point = os.fsencode(parts[4].encode("utf-8", "surrogateescape").decode("unicode_escape")).rstrip(b"/") or b"/"
        if is_within(path, point) and len(point) >= best:
            best, kind = len(point), types[0]
    return kind in REMOTE or kind.startswith("fuse.")
