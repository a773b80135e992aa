"""Finds the files of a library: every plain file under its folders, with what tells whether it changed. Opens none.

First step of an index run (`album.indexer`). Paths are bytes throughout, since names may be in any encoding or in none.
"""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from homespun.album.imaging.source import os_error_reason

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# What NAS systems and computers keep beside photos: previews, deleted files, bookkeeping. Compared in lower case.
SKIPPED_FOLDERS = frozenset(
    {b"@eadir", b"@tmp", b"#recycle", b"#snapshot", b"$recycle.bin", b"system volume information", b"lost+found"}
    | {b"__macosx", b"__pycache__", b"node_modules"}
)
SKIPPED_FILES = frozenset({b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"picasa.ini"})
# Companions of a photo that are not pictures themselves: descriptions and edits.
SKIPPED_SUFFIXES = (
    *(b".xmp", b".aae", b".thm", b".pp3", b".dop"),
    # what programmers keep beside pictures; a photo has never had such a name
    *(b".py", b".pyi", b".pyc", b".npy", b".npz"),
)

_KERNEL_FOLDERS = (b"/proc", b"/sys", b"/dev")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A plain file, and what tells whether it is still the one that was read."""

    path: bytes
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    device: int = 0


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """Something that is not a readable file or folder; `reason` is a code of `imaging.reasons`.

    `hides_files` is set for a folder: what lies in it is not known now, so none of it may be taken for gone.
    """

    entry: FileEntry
    reason: str
    detail: str
    hides_files: bool = False


def walk(roots: Iterable[Path], *, exclude: Iterable[Path] = ()) -> Iterator[FileEntry | ScanProblem]:
    """Every file under the roots, folder by folder in the order of their names; each folder once.

    Hidden files and folders, those in `SKIPPED_FOLDERS` and the like, and the folders in `exclude` (the album's own
    data) are left out. Links are followed last: into folders and to files elsewhere, never in circles. A root that does
    not exist yields nothing; one that can't be listed is a `ScanProblem`.
    """
    return _Walk(roots, exclude).entries()


class _Walk:
    def __init__(self, roots: Iterable[Path], exclude: Iterable[Path]) -> None:
        self._roots = [os.path.abspath(os.fsencode(root)) for root in roots]  # noqa: PTH100 - pathlib has no bytes
        self._real_roots = [os.path.realpath(root) for root in self._roots]
        self._seen_folders = {identity for path in exclude if (identity := _identity(os.fsencode(path))) is not None}
        self._links: list[bytes] = []

    def entries(self) -> Iterator[FileEntry | ScanProblem]:
        for root in self._roots:
            yield from self._root(root)
        while self._links:
            yield from self._link(self._links.pop())

    def _root(self, root: bytes) -> Iterator[FileEntry | ScanProblem]:
        try:
            status = os.stat(root)  # noqa: PTH116
        except FileNotFoundError:
            return
        except OSError as error:
            yield _problem(root, error, folder=True)
            return
        if stat_bits.S_ISDIR(status.st_mode):
            yield from self._folder(root, status)
        else:
            yield _file(root, status)

    def _folder(self, top: bytes, status: os.stat_result) -> Iterator[FileEntry | ScanProblem]:
        waiting = [(top, (status.st_dev, status.st_ino))]
        while waiting:
            folder, identity = waiting.pop()
            if identity in self._seen_folders:
                continue
            self._seen_folders.add(identity)
            try:
                with os.scandir(folder) as listing:
                    children = sorted(listing, key=lambda child: child.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield _problem(folder, error, folder=True)
                continue
            below = []
            for child in children:
                try:
                    if child.is_symlink():
                        if not _is_skipped_file(child.name):
                            self._links.append(child.path)
                    elif child.is_dir(follow_symlinks=False):
                        if not _is_skipped_folder(child.name):
                            found = child.stat(follow_symlinks=False)
                            below.append((child.path, (found.st_dev, found.st_ino)))
                    elif not _is_skipped_file(child.name):
                        yield _file(child.path, child.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError as error:
                    yield _problem(child.path, error, folder=False)
            waiting.extend(reversed(below))

    def _link(self, path: bytes) -> Iterator[FileEntry | ScanProblem]:
        try:
            target = os.path.realpath(path, strict=True)
            status = os.stat(target)  # noqa: PTH116
        except FileNotFoundError:
            yield ScanProblem(FileEntry(path), "broken_link", "")
            return
        except OSError as error:
            yield _problem(path, error, folder=False)
            return
        if any(is_within(target, root) for root in self._real_roots):
            return  # it is found where it really is
        if any(is_within(target, folder) for folder in _KERNEL_FOLDERS):
            yield ScanProblem(FileEntry(path), "not_a_file", "")
        elif not stat_bits.S_ISDIR(status.st_mode):
            yield _file(path, status)
        elif any(is_within(root, target) for root in self._real_roots):
            yield ScanProblem(FileEntry(path), "link_circle", "")
        elif not _is_skipped_folder(os.path.basename(path)):  # noqa: PTH119
            yield from self._folder(path, status)


def _file(path: bytes, status: os.stat_result) -> FileEntry | ScanProblem:
    if not stat_bits.S_ISREG(status.st_mode):
        return ScanProblem(FileEntry(path), "not_a_file", "")
    return FileEntry(path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _problem(path: bytes, error: OSError, *, folder: bool) -> ScanProblem:
    reason = os_error_reason(error)
    code = "folder_permission" if folder and reason.reason == "permission" else reason.reason
    return ScanProblem(FileEntry(path), code, reason.detail, hides_files=folder)


def _identity(folder: bytes) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_skipped_folder(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in SKIPPED_FOLDERS


def _is_skipped_file(name: bytes) -> bool:
    lower = name.lower()
    return name.startswith(b".") or lower in SKIPPED_FILES or lower.endswith(SKIPPED_SUFFIXES)


def is_within(path: bytes, folder: bytes) -> bool:
    """Whether a path is a folder or lies in it, going by their names."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
