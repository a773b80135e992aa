"""One index run: brings the library up to date with what lies in its folders.

walk -> skip what is known -> decode (other processes) -> embed in batches -> store. Each stage pulls from the one
before, decoding runs a few photos ahead, and every photo is stored as soon as its batch is embedded.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homespun.album.imaging.photo import PhotoData, SeenBefore, Unreadable
from homespun.album.imaging.reasons import NOT_PHOTOS, REASONS
from homespun.album.scan import FileEntry, Path, ScanProblem, is_within, walk
from homespun.album.store import KnownFile, Store, readable
from homespun.album.workers import DecodePool, Reading

BATCH = 8
RATE_SECONDS = 15.0


class Embedder(Protocol):
    """What turns pixels into features: `album.vision.Embedder`."""

    @property
    def version(self) -> str: ...

    def embed_pixels(self, pixels: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """(N, 224, 224, 3) uint8 RGB to (N, D) float32."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come. `total` is None while folders are searched, `seconds_left` until it can be told."""

    done: int
    total: int | None
    photos_per_second: float
    seconds_left: float | None
    current: str


@dataclass(slots=True)
class IndexReport:
    """What a run found, in files. `stopped` says that it was asked to stop.

    `unreadable` counts those that this run listed, `other_files` the videos, documents and the like that it found.
    `vanished` counts photos of which no file is left. `damaged` photos (among the new and changed ones) are cut short,
    but show enough to be kept. `embedded` are photos that were in the library and lacked features of this backbone.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    duplicates: int = 0
    vanished: int = 0
    returned: int = 0
    unreadable: int = 0
    other_files: int = 0
    unchanged: int = 0
    damaged: int = 0
    embedded: int = 0
    seconds: float = 0.0
    stopped: bool = False


def index(
    store: Store,
    roots: Iterable[Path],
    embedder: Embedder,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    pool: DecodePool | None = None,
) -> IndexReport:
    """Index the files under `roots`; files of the library that lie elsewhere are left as they are.

    A kill at any moment loses at most the batch in hand, which the next run reads again. Raises `LibraryError`
    (`StorageFullError`, if the disk is) when nothing more can be stored; all before that is kept.
    """
    started = time.monotonic()
    run = _Run(store, list(roots), embedder, on_progress or (lambda progress: None), stop or threading.Event())
    run.scan()
    if pool is not None:
        run.read(pool)
    else:
        with DecodePool() as own:
            run.read(own)
    run.finish()
    run.report.seconds = time.monotonic() - started
    return run.report


def embed_missing(store: Store, embedder: Embedder) -> int:
    """Compute features of this backbone for photos of the library that have none; return for how many.

    Raises as `index` does.
    """
    run = _Run(store, [], embedder, lambda progress: None, threading.Event())
    with DecodePool() as pool:
        run.read(pool)
    return run.report.embedded


@dataclass(slots=True)
class _Plan:
    """What a scan found to do."""

    to_read: dict[bytes, FileEntry] = field(default_factory=dict)
    gone: list[bytes] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        store: Store,
        roots: list[Path],
        embedder: Embedder,
        on_progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> None:
        self.report = IndexReport()
        self._store = store
        self._roots = roots
        self._embedder = embedder
        self._stop = stop
        self._plan = _Plan()
        self._known = store.known_files()
        self._contents = _Contents(store, embedder.version, self._known)
        self._pace = _Pace(on_progress)

    # Stage 1: what is there, and which of it is news

    def scan(self) -> None:
        plan, known = self._plan, self._known
        seen: set[bytes] = set()
        hidden: list[bytes] = []
        returned: list[bytes] = []
        for found in walk(self._roots, exclude=[self._store.data_dir]):
            if self._stop.is_set():
                self.report.stopped = True
                return
            problem = found if isinstance(found, ScanProblem) else None
            entry = found.entry if isinstance(found, ScanProblem) else found
            path = entry.path
            seen.add(path)
            self._pace.searching(len(seen), path)
            before = known.get(path)
            if problem is not None:
                if problem.hides_files:
                    hidden.append(path)
                self._note_problem(problem, before)
            elif before is None or not _same(before, entry) or _worth_another_try(before):
                plan.to_read[path] = entry
            elif before.vanished:
                returned.append(path)
            else:
                self.report.unchanged += 1
        if returned:
            self._store.mark_returned(returned)
            self._contents.returned(returned)
            self.report.returned += len(returned)
        tops = [os.path.abspath(os.fsencode(root)) for root in self._roots]  # noqa: PTH100 - pathlib has no bytes
        unknown = tuple(path.rstrip(b"/") + b"/" for path in hidden)
        plan.gone = [
            path
            for path, before in known.items()
            if path not in seen
            and not before.vanished
            and any(is_within(path, top) for top in tops)
            and not path.startswith(unknown)
        ]
        # What a changed file held has left it, until it is read again and found to be the same.
        self._contents.leaving(
            plan.gone + [path for path in plan.to_read if path in known and not known[path].vanished]
        )

    def _note_problem(self, problem: ScanProblem, before: KnownFile | None) -> None:
        if before is not None and before.reason == problem.reason:
            self.report.unchanged += 1
            return
        self._store.mark_unreadable(problem.entry.path, problem.entry, problem.reason, problem.detail)
        self.report.unreadable += 1

    # Stages 2 to 4: decode, embed, store

    def read(self, pool: DecodePool) -> None:
        without_features = {
            path: photo_id
            for photo_id, path in self._store.photos_without_feature(self._embedder.version)
            if path not in self._plan.to_read
        }
        to_read = self._plan.to_read
        self._pace.begin(len(to_read) + len(without_features))
        for batch in self._batches(pool.map(self._until_stopped(to_read), self._seen_contents)):
            self._store_batch(batch)
        for batch in self._batches(pool.map(self._until_stopped(without_features))):
            self._store_features(batch, without_features)
        self.report.stopped |= self._stop.is_set()

    def _batches(self, readings: Iterator[tuple[Path, Reading]]) -> Iterator[list[tuple[bytes, Reading]]]:
        while batch := [(os.fsencode(path), reading) for path, reading in islice(readings, BATCH)]:
            yield batch
            self._pace.advance(len(batch), batch[-1][0])

    def _until_stopped(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        for path in paths:
            if self._stop.is_set():
                return
            yield path

    def _seen_contents(self, path: Path) -> list[str]:
        return self._contents.of_size(self._plan.to_read[os.fsencode(path)].size)

    def _store_batch(self, batch: list[tuple[bytes, Reading]]) -> None:
        photos = [(path, reading) for path, reading in batch if isinstance(reading, PhotoData)]
        if photos:
            features = self._embedder.embed_pixels(np.stack([photo.pixels for _, photo in photos]))
            for (path, photo), feature in zip(photos, features, strict=True):
                self._store_photo(path, photo, feature)
        for path, reading in batch:
            if isinstance(reading, SeenBefore):
                self._store_known_content(path, reading.content_hash)
            elif isinstance(reading, Unreadable):
                self._store_unreadable(path, reading)

    def _store_features(self, batch: list[tuple[bytes, Reading]], photo_of: dict[bytes, int]) -> None:
        """Features for photos of the library; a file that holds something else by now waits for the next run."""
        found = [
            (photo_of[path], reading.pixels)
            for path, reading in batch
            if isinstance(reading, PhotoData) and self._store.photo_with_content(reading.content_hash) == photo_of[path]
        ]
        if found:
            features = self._embedder.embed_pixels(np.stack([pixels for _, pixels in found]))
            for (photo_id, _), feature in zip(found, features, strict=True):
                self._store.add_feature(photo_id, feature, self._embedder.version)
            self.report.embedded += len(found)

    def _store_photo(self, path: bytes, photo: PhotoData, feature: npt.NDArray[np.float32]) -> None:
        entry = self._plan.to_read[path]
        existing = self._store.photo_with_content(photo.content_hash)
        if existing is not None:
            self._count_known_content(path, existing)
        elif (before := self._known.get(path)) is not None and before.photo_id is not None and not before.vanished:
            self.report.changed += 1
        else:
            self.report.new += 1
        self.report.damaged += photo.damaged
        photo_id = self._store.add_photo(path, entry, photo, feature, self._embedder.version)
        self._contents.add(path, photo_id, entry.size, photo.content_hash)

    def _store_known_content(self, path: bytes, content_hash: str) -> None:
        entry = self._plan.to_read[path]
        existing = self._store.photo_with_content(content_hash)
        if existing is not None:
            self._count_known_content(path, existing)
        photo_id = self._store.touch_moved(path, entry, content_hash)
        self._contents.add(path, photo_id, entry.size, content_hash)

    def _count_known_content(self, path: bytes, photo_id: int) -> None:
        before = self._known.get(path)
        if before is not None and before.photo_id == photo_id and not before.vanished:
            self.report.unchanged += 1  # only its time or place on the disk changed
        elif self._contents.is_present(photo_id):
            self.report.duplicates += 1
        elif self._contents.is_leaving(photo_id):
            self.report.moved += 1
        else:
            self.report.returned += 1

    def _store_unreadable(self, path: bytes, reading: Unreadable) -> None:
        if reading.reason == "missing":  # it went between the scan and the reading
            if path in self._known:
                self._plan.gone.append(path)
            return
        before = self._known.get(path)
        if before is not None and before.reason == reading.reason and _same(before, self._plan.to_read[path]):
            self.report.unchanged += 1
            return
        self._store.mark_unreadable(path, self._plan.to_read[path], reading.reason, reading.detail)
        if reading.reason in NOT_PHOTOS:
            self.report.other_files += 1
        else:
            self.report.unreadable += 1

    # Stage 5: what is no more

    def finish(self) -> None:
        """Mark what is gone; only now, so that a photo that was moved has its new file before it loses the old one."""
        if self.report.stopped:
            return
        if self._plan.gone:
            self._store.mark_vanished(self._plan.gone)
        self.report.vanished = self._contents.count_lost(self._plan.gone)
        self._pace.end()


class _Contents:
    """Which contents the library has and where, kept up to date through a run."""

    def __init__(self, store: Store, backbone: str, known: dict[bytes, KnownFile]) -> None:
        self._hashes: dict[int, list[str]] = {}
        with store.reader() as connection:
            # Only a content with features may be passed over: the others have to be decoded for them anyway.
            query = """
                SELECT byte_size, content_hash FROM photo
                WHERE EXISTS (SELECT 1 FROM feature WHERE backbone = ? AND photo_id = photo.id)
            """
            for size, content_hash in connection.execute(query, (backbone,)):
                self._hashes.setdefault(size, []).append(content_hash)
        self._present: dict[int, int] = {}
        self._leaving: dict[int, int] = {}
        self._photo_of: dict[bytes, int] = {}
        for path, file in known.items():
            if file.photo_id is not None:
                self._photo_of[path] = file.photo_id
                if not file.vanished:
                    self._present[file.photo_id] = self._present.get(file.photo_id, 0) + 1

    def of_size(self, size: int) -> list[str]:
        """Hashes of the known contents of this many bytes."""
        return self._hashes.get(size, [])

    def is_present(self, photo_id: int) -> bool:
        """Whether a file has this content that stays."""
        return self._present.get(photo_id, 0) > 0

    def is_leaving(self, photo_id: int) -> bool:
        """Whether a file that had this content turned out to be gone in this run, and none was found to replace it."""
        return self._leaving.get(photo_id, 0) > 0

    def leaving(self, paths: Iterable[bytes]) -> None:
        """These files are gone."""
        for path in paths:
            if (photo_id := self._photo_of.get(path)) is not None:
                self._present[photo_id] -= 1
                self._leaving[photo_id] = self._leaving.get(photo_id, 0) + 1

    def returned(self, paths: Iterable[bytes]) -> None:
        """These files are there again."""
        for path in paths:
            if (photo_id := self._photo_of.get(path)) is not None:
                self._present[photo_id] = self._present.get(photo_id, 0) + 1

    def add(self, path: bytes, photo_id: int, size: int, content_hash: str) -> None:
        """A file was found to have this content."""
        self._photo_of[path] = photo_id
        self._present[photo_id] = self._present.get(photo_id, 0) + 1
        hashes = self._hashes.setdefault(size, [])
        if content_hash not in hashes:
            hashes.append(content_hash)

    def count_lost(self, paths: Iterable[bytes]) -> int:
        """How many photos have no file left, of those that these files had."""
        held = {self._photo_of[path] for path in paths if path in self._photo_of}
        return sum(not self.is_present(photo_id) for photo_id in held)


class _Pace:
    """Tells how far the run is, how fast, and for how long still."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._done = 0
        self._total: int | None = None
        self._marks: deque[tuple[float, int]] = deque()

    def searching(self, found: int, path: bytes) -> None:
        if found % 500 == 0:
            self._on_progress(Progress(found, None, 0.0, None, readable(path)))

    def begin(self, total: int) -> None:
        self._total = total
        self._marks.append((time.monotonic(), 0))
        self._on_progress(Progress(0, total, 0.0, None, ""))

    def advance(self, count: int, path: bytes) -> None:
        assert self._total is not None
        now = time.monotonic()
        self._done += count
        self._marks.append((now, self._done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()
        since, done_then = self._marks[0]
        rate = (self._done - done_then) / max(now - since, 1e-9)
        left = (self._total - self._done) / rate if rate else None
        self._on_progress(Progress(self._done, self._total, rate, left, readable(path)))

    def end(self) -> None:
        if self._total is not None:
            self._on_progress(Progress(self._done, self._total, 0.0, 0.0, ""))


def _same(before: KnownFile, now: FileEntry) -> bool:
    """Whether a file is the one that was read. Devices are numbered anew at each start, so they don't count."""
    return (before.size, before.mtime_ns, before.inode) == (now.size, now.mtime_ns, now.inode)


def _worth_another_try(before: KnownFile) -> bool:
    return before.reason is not None and (before.reason not in REASONS or REASONS[before.reason].transient)
