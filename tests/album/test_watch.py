"""Watching: whatever changes is acted on, folders may go and come back, and stopping stops."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homespun.album import watch
from homespun.album.errors import StorageFullError
from homespun.album.watch import Watcher, is_remote

PATIENCE = 20.0


class Calls:
    """Counts what a watcher calls, and waits for more."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count = 0
        self._more = threading.Condition()
        self._error = error

    def __call__(self) -> None:
        with self._more:
            self.count += 1
            self._more.notify_all()
        if self._error is not None:
            raise self._error

    def next_after(self, act: Callable[[], object]) -> None:
        with self._more:
            before = self.count
        act()
        with self._more:
            assert self._more.wait_for(lambda: self.count > before, PATIENCE), "the change was not noticed"

    def settled(self) -> int:
        """The count once nothing has happened for a while."""
        while True:
            before = self.count
            time.sleep(1.0)
            if self.count == before:
                return before


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture(params=[False, True], ids=["told", "polling"])
def watched(request: pytest.FixtureRequest, library: Path) -> Iterator[Calls]:
    calls = Calls()
    with Watcher(
        [library],
        calls,
        exclude=[library / "album"],
        settle_seconds=0.1,
        look_seconds=0.3,
        poll=request.param,
        poll_seconds=0.2,
    ):
        time.sleep(1.0)  # until the watch is in place
        yield calls


def test_new_changed_moved_and_removed_files_are_noticed(watched: Calls, library: Path) -> None:
    photo = library / "a.jpg"
    watched.next_after(lambda: photo.write_bytes(b"1"))
    watched.settled()
    watched.next_after(lambda: photo.write_bytes(b"22"))
    watched.settled()
    watched.next_after(lambda: (library / "2020" / "may").mkdir(parents=True))
    watched.settled()
    watched.next_after(lambda: photo.rename(library / "2020" / "may" / "a.jpg"))
    watched.settled()
    watched.next_after((library / "2020" / "may" / "a.jpg").unlink)


def test_a_folder_that_goes_and_returns(watched: Calls, library: Path) -> None:
    watched.next_after(lambda: shutil.rmtree(library))
    watched.settled()
    watched.next_after(library.mkdir)
    watched.settled()
    watched.next_after(lambda: (library / "a.jpg").write_bytes(b"1"))


def test_a_name_that_the_watching_library_cannot_say(watched: Calls, library: Path) -> None:
    def write() -> None:
        with open(os.fsencode(library) + b"/\xff\xfe.jpg", "wb") as stream:  # noqa: PTH123
            stream.write(b"1")

    watched.next_after(write)
    watched.settled()
    watched.next_after(lambda: (library / "a.jpg").write_bytes(b"1"))


def test_many_changes_at_once_are_one(library: Path) -> None:
    calls = Calls()
    with Watcher([library], calls, settle_seconds=0.5, poll=False):
        time.sleep(1.0)
        for number in range(200):
            (library / f"{number}.jpg").write_bytes(b"1")
        assert 1 <= calls.settled() <= 2


def test_hidden_files_and_the_albums_own_are_none_of_its_business(tmp_path: Path) -> None:
    library = tmp_path / ".hidden" / "photos"
    (library / "album").mkdir(parents=True)
    calls = Calls()
    with Watcher([library], calls, exclude=[library / "album"], settle_seconds=0.1, poll=False):
        time.sleep(1.0)
        (library / ".a.jpg.part").write_bytes(b"1")
        (library / "album" / "album.sqlite3").write_bytes(b"1")
        assert calls.settled() == 0
        calls.next_after(lambda: (library / "a.jpg").write_bytes(b"1"))


def test_a_folder_that_comes_later(tmp_path: Path) -> None:
    calls = Calls()
    with Watcher([tmp_path / "drive"], calls, settle_seconds=0.1, look_seconds=0.2):
        time.sleep(0.5)
        assert calls.count == 0
        calls.next_after((tmp_path / "drive").mkdir)


def test_a_run_that_fails_does_not_end_the_watch(library: Path) -> None:
    calls = Calls(StorageFullError("the disk is full"))
    with Watcher([library], calls, settle_seconds=0.1):
        time.sleep(1.0)
        calls.next_after(lambda: (library / "a.jpg").write_bytes(b"1"))
        calls.settled()
        calls.next_after(lambda: (library / "b.jpg").write_bytes(b"1"))


def test_the_limit_on_watched_folders_leads_to_polling(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, polled = watch.watch, []

    def limited(*paths: str, force_polling: bool, **options: object) -> object:
        polled.append(force_polling)
        if not force_polling:
            raise OSError(28, "OS file watch limit reached.")
        return real(*paths, force_polling=True, **options)

    monkeypatch.setattr(watch, "watch", limited)
    calls = Calls()
    with Watcher([library], calls, settle_seconds=0.1, look_seconds=0.3, poll_seconds=0.2):
        calls.next_after(lambda: (library / "a.jpg").write_bytes(b"1"))
    assert polled[:2] == [False, True]


def test_stopping_is_quick_and_final(library: Path) -> None:
    calls = Calls()
    watcher = Watcher([library], calls, settle_seconds=0.1)
    watcher.start()
    time.sleep(0.5)
    started = time.monotonic()
    watcher.stop()
    watcher.stop()
    assert time.monotonic() - started < PATIENCE / 2
    (library / "a.jpg").write_bytes(b"1")
    assert calls.settled() == 0
    Watcher([library], calls).stop()  # one that never started


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/nas rw - nfs4 nas:/photos rw
31 22 0:41 / /mnt/nas/local rw - ext4 /dev/sdb1 rw
32 22 0:42 / /mnt/with\\040space rw shared:1 - cifs //nas/share rw
33 22 0:43 / /mnt/ssh rw - fuse.sshfs me@host: rw
nonsense
"""


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        (b"/home/us/Pictures", False),
        (b"/mnt/nas/2019", True),
        (b"/mnt/nas", True),
        (b"/mnt/nas2", False),
        (b"/mnt/nas/local/2019", False),
        (b"/mnt/with space/2019", True),
        (b"/mnt/ssh/x", True),
    ],
)
def test_network_drives_are_known_by_their_mount(folder: bytes, remote: bool) -> None:
    assert is_remote(folder, MOUNTS) is remote
    assert is_remote(folder, "") is False
