"""Index runs: the library always ends up as its folders are, whatever happened to them, or to the run before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from homespun.album import workers
from homespun.album.errors import StorageFullError
from homespun.album.indexer import IndexReport, Progress, index
from homespun.album.store import Store
from homespun.album.workers import DecodePool
from tests.album import hostile_decoders
from tests.album.made_photos import encoded, noise, write_photo

SHARED = Path(__file__).parents[3] / "shared" / "data" / "messy"


class MeanColours:
    """Stands in for the network: a photo's feature is the mean colour of its quarters."""

    version = "means-1"

    def __init__(self) -> None:
        self.embedded = 0
        self.largest_batch = 0

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (224, 224, 3)
        self.embedded += len(pixels)
        self.largest_batch = max(self.largest_batch, len(pixels))
        return (
            pixels.reshape(len(pixels), 2, 112, 2, 112, 3).mean(axis=(2, 4)).reshape(len(pixels), 12).astype(np.float32)
        )


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(2) as opened:
        yield opened


class Library:
    """A folder of photos with an album, and what one run after another makes of it."""

    def __init__(self, folder: Path, pool: DecodePool) -> None:
        self.photos = folder / "photos"
        self.photos.mkdir()
        self.data = folder / "data"
        self.pool = pool
        self.embedder = MeanColours()
        self.store = Store.open(self.data)

    def write(self, name: str, seed: int, **options: object) -> Path:
        return write_photo(self.photos / name, seed, size=(64, 48), **options)

    def index(self, *roots: Path, **options: object) -> IndexReport:
        options.setdefault("pool", self.pool)
        return index(self.store, roots or [self.photos], self.embedder, **options)

    def query(self, sql: str) -> list[tuple]:
        with self.store.reader() as connection:
            return [tuple(row) for row in connection.execute(sql).fetchall()]

    def shown(self) -> set[str]:
        """The names of the files of the photos that are in the album."""
        rows = self.query(
            "SELECT file.path FROM file JOIN photo ON photo.id = photo_id"
            " WHERE file.vanished = 0 AND photo.vanished = 0"
        )
        return {os.path.relpath(os.fsdecode(path), self.photos) for (path,) in rows}

    def unreadable(self) -> dict[str, str]:
        rows = self.query("SELECT path, reason FROM file WHERE reason IS NOT NULL")
        return {os.path.relpath(os.fsdecode(path), self.photos): reason for path, reason in rows}

    def photo_id(self, name: str) -> int:
        ((photo_id,),) = self.query(f"SELECT photo_id FROM file WHERE path = CAST('{self.photos / name}' AS BLOB)")
        return photo_id


@pytest.fixture
def library(tmp_path: Path, pool: DecodePool) -> Iterator[Library]:
    made = Library(tmp_path, pool)
    yield made
    made.store.close()


def counts(report: IndexReport) -> dict[str, int]:
    """What a report says happened."""
    names = (
        "new",
        "changed",
        "moved",
        "duplicates",
        "vanished",
        "returned",
        "unreadable",
        "other_files",
        "unchanged",
        "embedded",
    )
    return {name: value for name in names if (value := getattr(report, name))}


def test_new_photos_are_stored_with_thumbnail_and_feature(library: Library) -> None:
    for seed in range(20):
        library.write(f"{seed % 3}/{seed}.jpg", seed)
    assert counts(library.index()) == {"new": 20}
    assert len(library.shown()) == 20
    ids, features = library.store.features("means-1")
    assert len(ids) == 20 and features.shape == (20, 12)
    for (content_hash,) in library.query("SELECT content_hash FROM photo"):
        assert library.store.thumbnail_path(content_hash).read_bytes().startswith(b"\xff\xd8")
    assert library.embedder.largest_batch == 8


def test_a_second_run_reads_nothing(library: Library) -> None:
    for seed in range(5):
        library.write(f"{seed}.jpg", seed)
    (library.photos / "letter.txt").write_text("hello")
    library.index()
    embedded = library.embedder.embedded
    assert counts(library.index()) == {"unchanged": 6}
    assert library.embedder.embedded == embedded


def test_a_moved_photo_stays_the_same_photo(library: Library) -> None:
    library.write("a.jpg", 1)
    library.index()
    photo = library.photo_id("a.jpg")
    (library.photos / "2020").mkdir()
    (library.photos / "a.jpg").rename(library.photos / "2020" / "b.jpg")
    embedded = library.embedder.embedded
    assert counts(library.index()) == {"moved": 1}
    assert library.shown() == {"2020/b.jpg"}
    assert library.photo_id("2020/b.jpg") == photo
    assert library.embedder.embedded == embedded  # hashed, not decoded


def test_a_renamed_folder(library: Library) -> None:
    for seed in range(12):
        library.write(f"old/{seed}.jpg", seed)
    library.index()
    (library.photos / "old").rename(library.photos / "new")
    assert counts(library.index()) == {"moved": 12}
    assert library.shown() == {f"new/{seed}.jpg" for seed in range(12)}


def test_a_moved_photo_whose_old_name_holds_another_now(library: Library) -> None:
    library.write("a.jpg", 1)
    library.index()
    photo = library.photo_id("a.jpg")
    (library.photos / "a.jpg").rename(library.photos / "z.jpg")
    library.write("a.jpg", 2)
    assert counts(library.index()) == {"changed": 1, "moved": 1}
    assert library.photo_id("z.jpg") == photo != library.photo_id("a.jpg")


def test_copies_are_files_of_one_photo(library: Library) -> None:
    library.write("a.jpg", 1)
    shutil.copy(library.photos / "a.jpg", library.photos / "b.jpg")
    assert counts(library.index()) == {"new": 1, "duplicates": 1}
    shutil.copy(library.photos / "a.jpg", library.photos / "c.jpg")
    assert counts(library.index()) == {"duplicates": 1, "unchanged": 2}
    assert len({library.photo_id(f"{name}.jpg") for name in "abc"}) == 1
    (library.photos / "a.jpg").unlink()
    assert counts(library.index()) == {"unchanged": 2}  # the photo is still there
    assert library.shown() == {"b.jpg", "c.jpg"}


def test_a_changed_file_is_read_again(library: Library) -> None:
    library.write("a.jpg", 1)
    library.index()
    before = library.photo_id("a.jpg")
    library.write("a.jpg", 2)
    assert counts(library.index()) == {"changed": 1}
    assert library.photo_id("a.jpg") != before
    assert len(library.query("SELECT id FROM photo WHERE vanished = 0")) == 1


def test_a_change_that_keeps_size_and_time_is_noticed(library: Library) -> None:
    path = library.write("a.jpg", 1)
    library.index()
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    edited = library.photos / ".edited"
    edited.write_bytes(data)
    os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    edited.replace(path)
    assert path.stat().st_mtime_ns == status.st_mtime_ns and path.stat().st_size == status.st_size
    assert counts(library.index()) == {"changed": 1}


def test_a_touched_file_is_the_same_photo(library: Library) -> None:
    path = library.write("a.jpg", 1)
    library.index()
    os.utime(path, (1, 1))
    assert counts(library.index()) == {"unchanged": 1}
    assert library.embedder.embedded == 1
    assert counts(library.index()) == {"unchanged": 1}


def test_a_vanished_photo_is_marked_and_brought_back(library: Library) -> None:
    path = library.write("a.jpg", 1)
    library.write("b.jpg", 2)
    library.index()
    photo, data, status = library.photo_id("a.jpg"), path.read_bytes(), path.stat()
    path.unlink()
    assert counts(library.index()) == {"vanished": 1, "unchanged": 1}
    assert library.shown() == {"b.jpg"}
    assert counts(library.index()) == {"unchanged": 1}
    (library.photos / "c.jpg").write_bytes(data)
    assert counts(library.index()) == {"returned": 1, "unchanged": 1}
    assert library.photo_id("c.jpg") == photo
    assert library.embedder.embedded == 2
    del status


def test_a_drive_that_is_taken_out_and_put_back_is_not_read_again(library: Library) -> None:
    for seed in range(6):
        library.write(f"{seed}.jpg", seed)
    library.index()
    away = library.photos.with_name("away")
    library.photos.rename(away)
    assert counts(library.index()) == {"vanished": 6}
    assert library.shown() == set()
    away.rename(library.photos)
    assert counts(library.index()) == {"returned": 6}
    assert len(library.shown()) == 6 and library.embedder.embedded == 6


def test_other_roots_are_left_alone(library: Library, tmp_path: Path) -> None:
    library.write("a.jpg", 1)
    other = write_photo(tmp_path / "photos-of-granny" / "b.jpg", 2)
    library.index(library.photos, other.parent)
    (library.photos / "a.jpg").unlink()
    assert counts(library.index(other.parent)) == {"unchanged": 1}
    assert "a.jpg" in library.shown()
    assert counts(library.index(library.photos)) == {"vanished": 1}


def test_a_locked_folder_hides_its_photos_and_loses_none(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.write("a.jpg", 1)
    library.write("locked/b.jpg", 2)
    library.write("locked/deep/c.jpg", 3)
    library.write("locked-not/d.jpg", 4)
    library.index()
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"/locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr("homespun.album.scan.os.scandir", scandir)
        (library.photos / "locked-not" / "d.jpg").unlink()
        assert counts(library.index()) == {"unreadable": 1, "unchanged": 1, "vanished": 1}
        assert library.unreadable() == {"locked": "folder_permission"}
        assert library.shown() == {"a.jpg", "locked/b.jpg", "locked/deep/c.jpg"}
        assert counts(library.index()) == {"unchanged": 2}
    library.index()
    assert library.unreadable() == {}
    assert len(library.shown()) == 3


def test_files_that_are_no_photos_are_listed_once(library: Library) -> None:
    library.write("good.jpg", 1)
    (library.photos / "empty.jpg").touch()
    (library.photos / "letter.txt").write_text("hello")
    os.mkfifo(library.photos / "pipe.jpg")
    (library.photos / "zero.jpg").symlink_to("/dev/zero")
    whole = encoded(noise(300, 200))
    (library.photos / "cut.jpg").write_bytes(whole[: len(whole) // 5])
    (library.photos / "damaged.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    report = library.index()
    assert counts(report) == {"new": 2, "unreadable": 4, "other_files": 1} and report.damaged == 1
    assert library.unreadable() == {
        "empty.jpg": "empty",
        "letter.txt": "other_kind",
        "pipe.jpg": "not_a_file",
        "zero.jpg": "not_a_file",
        "cut.jpg": "truncated",
    }
    assert counts(library.index()) == {"unchanged": 7}
    (library.photos / "cut.jpg").write_bytes(whole)
    (library.photos / "empty.jpg").unlink()
    assert counts(library.index()) == {"new": 1, "unchanged": 5}
    assert "cut.jpg" in library.shown() and "empty.jpg" not in library.unreadable()


def test_a_photo_that_is_overwritten_with_nonsense(library: Library) -> None:
    path = library.write("a.jpg", 1)
    library.index()
    path.write_text("nothing")
    assert counts(library.index()) == {"unreadable": 1}
    assert library.shown() == set() and library.unreadable() == {"a.jpg": "not_an_image"}


def test_reasons_that_may_pass_are_tried_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.write("a.jpg", 1)
    path.rename(library.photos / "a-refused.jpg")
    monkeypatch.setattr(workers.read, "read_unless_seen", hostile_decoders.misbehave)
    assert counts(library.index()) == {"unreadable": 1}
    assert library.unreadable() == {"a-refused.jpg": "permission"}
    assert counts(library.index()) == {"unchanged": 1}  # tried again, and refused again
    monkeypatch.undo()
    assert counts(library.index()) == {"new": 1}
    assert library.unreadable() == {}


def test_crashing_files_do_not_disturb_the_run(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        library.write(f"{seed}{'-segfault' if seed % 7 == 3 else ''}.jpg", seed)
    monkeypatch.setattr(workers.read, "read_unless_seen", hostile_decoders.misbehave)
    assert counts(library.index()) == {"new": 17, "unreadable": 3}
    assert set(library.unreadable().values()) == {"crashed"}


def test_the_album_in_the_folder_of_photos_does_not_index_itself(tmp_path: Path, pool: DecodePool) -> None:
    write_photo(tmp_path / "a.jpg", 1)
    with Store.open(tmp_path / "album") as store:
        for expected in ({"new": 1}, {"unchanged": 1}):
            assert counts(index(store, [tmp_path], MeanColours(), pool=pool)) == expected


def test_names_in_any_encoding(library: Library) -> None:
    names = [b"caf\xe9.jpg", "生日.jpg".encode("gbk"), "生日.jpg".encode(), b"line\nbreak.jpg", b"\xff\xfe"]
    for seed, name in enumerate(names):
        with open(os.fsencode(library.photos) + b"/" + name, "wb") as stream:  # noqa: PTH123
            stream.write(encoded(noise(64, 48, seed=seed)))
    told: list[Progress] = []
    assert counts(library.index(on_progress=told.append)) == {"new": 5}
    assert library.shown() == {os.fsdecode(name) for name in names}
    assert all(progress.current.encode("utf-8") is not None for progress in told)  # fit to be shown
    assert counts(library.index()) == {"unchanged": 5}


def test_a_file_that_never_stops_growing_does_not_stop_the_run(library: Library) -> None:
    library.write("good.jpg", 1)
    growing, stop = library.write("growing.jpg", 2), threading.Event()

    def grow() -> None:
        with growing.open("ab", buffering=0) as stream:
            while not stop.is_set():
                stream.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        report = library.index()
    finally:
        stop.set()
        thread.join()
    assert report.new + report.unreadable == 2 and "good.jpg" in library.shown()
    assert library.unreadable().get("growing.jpg", "changed_while_read") == "changed_while_read"
    library.index()
    assert library.shown() == {"good.jpg", "growing.jpg"}  # a JPEG with something behind its end is a JPEG


def test_another_backbone_gets_its_features(library: Library) -> None:
    for seed in range(10):
        library.write(f"{seed}.jpg", seed)
    library.index()
    library.embedder.version = "means-2"
    library.write("new.jpg", 99)
    assert counts(library.index()) == {"new": 1, "unchanged": 10, "embedded": 10}
    assert len(library.store.features("means-2")[0]) == 11
    assert counts(library.index()) == {"unchanged": 11}


def test_progress_tells_how_far_and_how_long(library: Library) -> None:
    for seed in range(30):
        library.write(f"{seed:02d}.jpg", seed)
    told: list[Progress] = []
    library.index(on_progress=told.append)
    reading = [progress for progress in told if progress.total is not None]
    assert {progress.total for progress in reading} == {30}
    done = [progress.done for progress in reading]
    assert done == sorted(done) and (done[0], done[-1]) == (0, 30) and len(set(done)) >= 4
    assert all(progress.photos_per_second > 0 and progress.seconds_left is not None for progress in reading[1:-1])
    assert reading[-1].seconds_left == 0
    assert any(progress.current.endswith(".jpg") for progress in reading)


def test_stopping_keeps_what_was_done_and_marks_nothing(library: Library) -> None:
    for seed in range(60):
        library.write(f"{seed:02d}.jpg", seed)
    library.index()
    for seed in range(60):
        (library.photos / f"{seed:02d}.jpg").unlink()
        library.write(f"new-{seed:02d}.jpg", 100 + seed)
    stop = threading.Event()
    report = library.index(stop=stop, on_progress=lambda progress: stop.set() if progress.done else None)
    assert report.stopped and 0 < report.new < 60 and report.vanished == 0
    rest = library.index()
    assert not rest.stopped
    assert counts(rest) == {"new": 60 - report.new, "unchanged": report.new, "vanished": 60}
    stop.set()
    assert library.index(stop=stop).stopped


def test_a_full_disk_stops_the_run_and_loses_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    means = library.embedder.embed_pixels
    monkeypatch.setattr(library.embedder, "embed_pixels", lambda pixels: np.tile(means(pixels), 100))
    for seed in range(60):
        library.write(f"{seed:02d}.jpg", seed)
    with library.store.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    library.store._writer.execute(f"PRAGMA max_page_count = {pages + 8}")
    with pytest.raises(StorageFullError, match="full"):
        library.index()
    kept = len(library.shown())
    assert 0 < kept < 60
    library.store._writer.execute("PRAGMA max_page_count = 1000000")
    assert counts(library.index()) == {"new": 60 - kept, "unchanged": kept}


def test_a_kill_at_any_moment_loses_nothing_that_was_stored(tmp_path: Path, pool: DecodePool) -> None:
    for seed in range(80):
        write_photo(tmp_path / "photos" / f"{seed}.jpg", seed, size=(64, 48))
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from tests.album.test_indexer import MeanColours\n"
        "from homespun.album.store import Store\n"
        "from homespun.album.indexer import index\n"
        f"with Store.open({str(tmp_path / 'data')!r}) as store:\n"
        f"    roots = [{str(tmp_path / 'photos')!r}]\n"
        "    index(store, roots, MeanColours(), on_progress=lambda p: print(p.done, flush=True))\n"
    )
    stored = 0
    for killed_after in (8, 24, 48):
        run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        for line in run.stdout:
            if int(line) >= killed_after - stored:
                break
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        with Store.open(tmp_path / "data") as store:
            now = len(store.features("means-1")[0])
        assert now >= min(killed_after, 80) > 0 and now >= stored
        stored = now
    with Store.open(tmp_path / "data") as store:
        report = index(store, [tmp_path / "photos"], MeanColours(), pool=pool)
        assert report.new == 80 - stored and len(store.features("means-1")[0]) == 80


def test_known_files_are_looked_at_but_not_opened(library: Library) -> None:
    for folder in range(20):
        (library.photos / str(folder)).mkdir()
        for number in range(50):
            (library.photos / str(folder) / f"{number}.jpg").touch()
    assert counts(library.index()) == {"unreadable": 1000}
    opened: list[object] = []

    class NoPool:
        def map(self, paths: Iterator[bytes], seen: object = None) -> Iterator[object]:
            opened.extend(paths)
            return iter(())

    assert counts(library.index(pool=NoPool())) == {"unchanged": 1000}
    assert opened == []


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development photos are not here")
def test_every_messy_file_is_indexed_or_listed(library: Library) -> None:
    started = time.monotonic()
    report = library.index(SHARED)
    assert time.monotonic() - started < 120
    files = sum(1 for path in SHARED.rglob("*") if path.is_file())
    assert report.new + report.duplicates + report.unreadable + report.other_files == files
    assert len(library.shown()) + len(library.unreadable()) == files
    assert counts(library.index(SHARED)) == {"unchanged": files}


class Changes(RuleBasedStateMachine):
    """Any sequence of changes to a folder, with runs between: the album shows what is there, as the photos they are."""

    pool: DecodePool
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        place = Path(self.folder) / f"{time.monotonic_ns()}"
        place.mkdir()
        self.library = Library(place, self.pool)
        self.contents: dict[str, int] = {}
        self.ids: dict[int, int] = {}

    names = st.sampled_from(["a.jpg", "b.jpg", "c/d.jpg", "c/e.jpg"])

    @rule(name=names, seed=st.integers(0, 4))
    def write(self, name: str, seed: int) -> None:
        self.library.write(name, seed)
        self.contents[name] = seed

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.contents:
            (self.library.photos / name).unlink()
            del self.contents[name]

    @rule(name=names, to=names)
    def move(self, name: str, to: str) -> None:
        if name in self.contents:
            (self.library.photos / to).parent.mkdir(exist_ok=True)
            (self.library.photos / name).rename(self.library.photos / to)
            self.contents[to] = self.contents.pop(name)

    @rule(name=names)
    def spoil(self, name: str) -> None:
        if name in self.contents:
            (self.library.photos / name).write_text("spoilt")
            self.contents[name] = -1

    @rule()
    def index(self) -> None:
        report = self.library.index()
        assert self.library.shown() == {name for name, seed in self.contents.items() if seed >= 0}
        assert set(self.library.unreadable()) == {name for name, seed in self.contents.items() if seed < 0}
        for name, seed in self.contents.items():
            if seed >= 0:
                assert self.ids.setdefault(seed, self.library.photo_id(name)) == self.library.photo_id(name)
        seen = report.new + report.changed + report.moved + report.duplicates + report.returned
        assert seen + report.unreadable + report.unchanged == len(self.contents)

    @invariant()
    def features_are_kept(self) -> None:
        assert len(self.library.store.features("means-1")[0]) == len(self.library.query("SELECT id FROM photo"))

    def teardown(self) -> None:
        self.library.store.close()


def test_any_sequence_of_changes(tmp_path: Path, pool: DecodePool) -> None:
    class Here(Changes):
        pass

    Here.pool, Here.folder = pool, tmp_path
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        ),
    )
