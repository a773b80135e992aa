"""Finding files: all of them, once each, whatever folders, links, names and permissions are like."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.album.scan import SKIPPED_FILES, SKIPPED_SUFFIXES, FileEntry, ScanProblem, walk


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(*roots: Path, **options: list[Path]) -> list[str]:
    """Paths of the files found, relative to the first root."""
    entries = [entry for entry in walk(roots, **options) if isinstance(entry, FileEntry)]
    return [os.path.relpath(os.fsdecode(entry.path), roots[0]) for entry in entries]


def problems(*roots: Path) -> dict[str, str]:
    entries = [entry for entry in walk(roots) if isinstance(entry, ScanProblem)]
    return {os.path.relpath(os.fsdecode(entry.entry.path), roots[0]): entry.reason for entry in entries}


def test_nested_folders_in_the_order_of_their_names(library: Path) -> None:
    for name in ("b.jpg", "a.jpg", "2019/summer/c.jpg", "2019/d", "2020/e.heic"):
        put(library / name)
    assert found(library) == ["a.jpg", "b.jpg", "2019/d", "2019/summer/c.jpg", "2020/e.heic"]


def test_what_tells_whether_a_file_changed(library: Path) -> None:
    path = put(library / "a.jpg", b"12345")
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    (entry,) = walk([library])
    status = path.stat()
    assert entry == FileEntry(os.fsencode(path), 5, 1_600_000_000_123_456_789, status.st_ino, status.st_dev)


def test_hidden_files_and_what_computers_keep_beside_photos(library: Path) -> None:
    kept = ["a.jpg", "a.mov", "noname", "letter.txt", "folder/@eaDir.jpg"]
    left = [
        ".hidden.jpg", "._a.jpg", ".trash/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/a.jpg",
        "$RECYCLE.BIN/a.jpg", "System Volume Information/a", "__MACOSX/a.jpg", "Thumbs.db", "DESKTOP.INI",
        "a.xmp", "a.AAE", "lost+found/a.jpg", "a.py", "a.npz", "__pycache__/a.jpg",
    ]  # fmt: skip
    for name in kept + left:
        put(library / name)
    assert sorted(found(library)) == sorted(kept)


def test_a_hidden_root_is_what_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path / ".photos" / "a.jpg")
    assert found(tmp_path / ".photos") == ["a.jpg"]


def test_a_single_file_and_nothing_at_all(library: Path) -> None:
    assert found(put(library / "a.jpg")) == ["."]
    assert list(walk([library / "none"])) == []
    assert list(walk([])) == []


def test_roots_in_each_other_give_each_file_once(library: Path) -> None:
    put(library / "a.jpg")
    put(library / "in" / "b.jpg")
    assert sorted(found(library, library / "in", library)) == ["a.jpg", "in/b.jpg"]
    assert sorted(found(library, library / "in" / "..")) == ["a.jpg", "in/b.jpg"]


def test_relative_roots_become_absolute(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(library / "a.jpg")
    monkeypatch.chdir(library.parent)
    (entry,) = walk(["photos"])
    assert entry.path == os.fsencode(library / "a.jpg")


def test_the_album_does_not_index_its_own_thumbnails(library: Path) -> None:
    put(library / "a.jpg")
    put(library / "album" / "thumbnails" / "00" / "b.jpg")
    assert found(library, exclude=[library / "album"]) == ["a.jpg"]
    assert found(library, exclude=[library / "not-there-yet"]) == ["a.jpg", "album/thumbnails/00/b.jpg"]


def test_names_in_any_encoding(library: Path) -> None:
    names = [b"caf\xe9.jpg", "生日.jpg".encode("gbk"), "生日.jpg".encode(), b"line\nbreak", b"\xff\xfe", b" ", b"-rf *"]
    for name in names:
        with open(os.fsencode(library) + b"/" + name, "wb"):  # noqa: PTH123
            pass
    folder = os.fsencode(library) + b"/\xfc\xfd"
    os.mkdir(folder)  # noqa: PTH102
    with open(folder + b"/\x80", "wb"):  # noqa: PTH123
        pass
    entries = list(walk([library]))
    assert {os.path.basename(entry.path) for entry in entries} == {*names, b"\x80"}  # noqa: PTH119
    assert all(os.path.exists(entry.path) for entry in entries)  # noqa: PTH110


@settings(max_examples=30, deadline=None)
@given(
    st.sets(
        st.binary(min_size=1, max_size=40).filter(lambda raw: not set(raw) & {0, 47} and raw[:1] != b"."), max_size=5
    )
)
def test_any_name_that_the_system_takes_is_found(tmp_path_factory: pytest.TempPathFactory, names: set[bytes]) -> None:
    folder = os.fsencode(tmp_path_factory.mktemp("names"))
    taken = set()
    for name in names:
        if name.lower().endswith((*SKIPPED_SUFFIXES, *SKIPPED_FILES)):
            continue
        with open(folder + b"/" + name, "wb"):  # noqa: PTH123
            taken.add(name)
    assert {os.path.basename(entry.path) for entry in walk([folder])} == taken  # noqa: PTH119


# Links


def test_links_in_circles_end(library: Path) -> None:
    put(library / "a.jpg")
    (library / "self").symlink_to(library)
    (library / "up").symlink_to("..")
    (library / "in").mkdir()
    (library / "in" / "back").symlink_to(library / "in")
    (library / "one").symlink_to(library / "two")
    (library / "two").symlink_to(library / "one")
    (library / "root").symlink_to("/")
    assert found(library) == ["a.jpg"]
    assert problems(library) == {"one": "link_circle", "two": "link_circle", "up": "link_circle", "root": "link_circle"}


def test_links_to_other_places_are_followed_once(tmp_path: Path, library: Path) -> None:
    other = tmp_path / "other"
    put(other / "b.jpg")
    put(other / "deep" / "c.jpg")
    (other / "loop").symlink_to(other)
    (other / "home").symlink_to(library)
    put(library / "a.jpg")
    (library / "elsewhere").symlink_to(other)
    (library / "elsewhere-again").symlink_to(other / "deep")
    (library / "file.jpg").symlink_to(other / "b.jpg")
    files = found(library)
    assert files[0] == "a.jpg"  # what is really there comes first
    assert len(files) == 4 and "file.jpg" in files
    assert {Path(name).name for name in files} == {"a.jpg", "b.jpg", "c.jpg", "file.jpg"}
    assert problems(library) == {}


def test_links_within_the_library_are_not_second_photos(library: Path) -> None:
    put(library / "2019" / "a.jpg")
    (library / "favourite.jpg").symlink_to(library / "2019" / "a.jpg")
    (library / "1st").symlink_to(library / "2019")
    assert found(library) == ["2019/a.jpg"]


def test_links_to_nothing_and_to_the_kernel(library: Path) -> None:
    (library / "gone.jpg").symlink_to(library / "none.jpg")
    (library / "zero.jpg").symlink_to("/dev/zero")
    (library / "proc").symlink_to("/proc")
    assert found(library) == []
    assert problems(library) == {"gone.jpg": "broken_link", "zero.jpg": "not_a_file", "proc": "not_a_file"}


def test_a_linked_root(tmp_path: Path, library: Path) -> None:
    put(library / "a.jpg")
    (library / "loop").symlink_to(tmp_path / "link")
    (tmp_path / "link").symlink_to(library)
    assert found(tmp_path / "link") == ["a.jpg"]


# What is no file


def test_pipes_sockets_and_devices_are_listed_not_opened(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(library / "pipe.jpg")
    monkeypatch.chdir(library)
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("socket.jpg")
        assert problems(library) == {"pipe.jpg": "not_a_file", "socket.jpg": "not_a_file"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "folder_permission"),
        (OSError(5, "Input/output error"), "read_error"),
        (OSError(116, "Stale file handle"), "read_error"),
        (OSError(36, "File name too long"), "name_too_long"),
    ],
)
def test_a_folder_that_cannot_be_listed_hides_its_files(
    library: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    put(library / "a.jpg")
    put(library / "locked" / "b.jpg")
    put(library / "open" / "c.jpg")
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"locked"):
            raise error
        return real(path)

    monkeypatch.setattr("homespun.album.scan.os.scandir", scandir)
    assert found(library) == ["a.jpg", "open/c.jpg"]
    (problem,) = [entry for entry in walk([library]) if isinstance(entry, ScanProblem)]
    assert (problem.reason, problem.hides_files) == (reason, True)
    assert problem.entry.path == os.fsencode(library / "locked")


def test_things_that_go_while_they_are_listed(library: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "c/3.jpg", "d.jpg"):
        put(library / name)
    walking: Iterator[FileEntry | ScanProblem] = walk([library])
    next(walking)
    (library / "b" / "2.jpg").unlink()
    (library / "b").rmdir()
    assert [os.path.basename(entry.path) for entry in walking] == [b"1.jpg", b"3.jpg"]  # noqa: PTH119


def test_folders_nested_deeper_than_a_path_can_say(library: Path) -> None:
    put(library / "a.jpg")
    here = os.getcwd()  # noqa: PTH109
    os.chdir(library)
    try:
        for _ in range(60):
            os.mkdir("d" * 100)  # noqa: PTH102
            os.chdir("d" * 100)
    finally:
        os.chdir(here)
    assert "a.jpg" in found(library)
    assert list(problems(library).values()) == ["name_too_long"]
