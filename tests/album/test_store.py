"""The store: ingest, one writer, readers, and what a photo keeps when its files move, multiply or vanish."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from homespun.album.errors import LibraryBusyError, LibraryError, StorageFullError
from homespun.album.store import KnownFile, Store
from tests.album.small_library import BACKBONE, Picture, add, feature, in_topic, new_learner, open_album


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path / "data") as album:
        yield album


def status(album, photo_id: int) -> str:
    return album.photo(photo_id).status


def test_a_photo_is_a_content_and_its_files_share_labels(album):
    (photo,) = add(album, Picture("red", 1, "a/one.jpg"))
    album.correct([photo], positive=["green"])
    (copy,) = add(album, Picture("red", 1, "b/copy.jpg"))
    assert copy == photo
    assert album.photo(photo).paths == ["/photos/a/one.jpg", "/photos/b/copy.jpg"]
    assert album.status().photos == 1
    assert album.status().files == 2
    album._store.mark_vanished([b"/photos/a/one.jpg"])
    album.sort_new()
    assert status(album, photo) == "ok"
    assert album.photo(photo).name == "copy.jpg"
    assert photo in in_topic(album, "green")


def test_a_vanished_photo_keeps_its_labels_and_returns(album):
    (photo,) = add(album, Picture("red", 1, "one.jpg"))
    album.correct([photo], positive=["green"], negative=["red"])
    album._store.mark_vanished([b"/photos/one.jpg"])
    album.sort_new()
    assert status(album, photo) == "vanished"
    assert album.photos().total == 0
    assert in_topic(album, "green") == set()
    assert album._store.known_files()[b"/photos/one.jpg"].vanished
    # The same content under another name brings it back.
    (again,) = add(album, Picture("red", 1, "moved/one.jpg"))
    assert again == photo
    assert status(album, photo) == "ok"
    assert in_topic(album, "green") == {photo}
    assert in_topic(album, "red") == set()


def test_a_file_that_returns_unchanged_needs_no_reading(album):
    picture = Picture("red", 1, "one.jpg")
    (photo,) = add(album, picture)
    album._store.mark_vanished([picture.path])
    album._store.mark_returned([picture.path])
    album.sort_new()
    assert status(album, photo) == "ok"
    assert in_topic(album, "red") == {photo}


def test_a_path_with_new_content_is_another_photo(album):
    (old,) = add(album, Picture("red", 1, "one.jpg"))
    album.correct([old], positive=["green"])
    (new,) = add(album, Picture("blue", 1, "one.jpg"))
    assert new != old
    assert status(album, old) == "vanished"
    assert in_topic(album, "green") == set()  # it is another picture: what was said of the old one is not carried over


@pytest.mark.parametrize("reopened", [False, True])
def test_an_edited_file_keeps_what_was_said_of_it(album, monkeypatch, reopened):
    (old,) = add(album, Picture("red", 1, "one.jpg"))
    album.correct([old], positive=["green"], negative=["red"])
    # The same picture, rotated or tagged by another program: other bytes, nearly the same features.
    edited = Picture("red", 2, "one.jpg")
    with monkeypatch.context() as patched:
        patched.setattr("tests.album.small_library.feature", lambda colour, shade: feature("red", 1) * 1.01)
        (new,) = add(album, edited, sort=not reopened)
    if reopened:  # killed before it was sorted
        album.close()
        album = open_album(album.data_dir)
    assert new != old
    assert in_topic(album, "green") == {new}
    change = album.changes(1)[0]
    assert (change.kind, change.photos) == ("edited", [new])
    album.undo(change.id)
    assert in_topic(album, "green") == set()
    album.close()


def test_unreadable_files_are_listed_and_forgotten_when_gone(album):
    entry = Picture("red", 1, "bad.jpg").entry
    album._store.mark_unreadable(entry.path, entry, "truncated", "after 12 bytes")
    (problem,) = album.problems()
    assert (problem.path, problem.reason, problem.detail) == ("/photos/bad.jpg", "truncated", "after 12 bytes")
    album._store.mark_vanished([entry.path])
    assert album.problems() == []
    assert album._store.known_files() == {}


def test_a_photo_whose_file_became_unreadable_vanishes(album):
    (photo,) = add(album, Picture("red", 1, "one.jpg"))
    entry = Picture("red", 1, "one.jpg").entry
    album._store.mark_unreadable(entry.path, entry, "truncated", "")
    album.sort_new()
    assert status(album, photo) == "vanished"


def test_names_in_any_encoding(album):
    pictures = [
        Picture("red", 1, "caf\udce9.jpg"),
        Picture("red", 2, "家庭/春节.jpg"),
        Picture("red", 3, "new\nline.jpg"),
    ]
    ids = add(album, *pictures)
    assert album._store.known_files().keys() == {picture.path for picture in pictures}
    assert album.photo(ids[0]).name == "caf\ufffd.jpg"
    assert [photo.id for photo in album.photos(text="春节").photos] == [ids[1]]
    album.photo(ids[0]).name.encode()  # what people are shown can always be written


def test_known_files_has_what_tells_whether_one_changed(album):
    picture = Picture("red", 7, "one.jpg")
    (photo,) = add(album, picture)
    entry = picture.entry
    expected = KnownFile(entry.size, entry.mtime_ns, entry.inode, entry.device, photo, None, False)
    assert album._store.known_files() == {picture.path: expected}


def test_features_by_backbone(album):
    ids = add(album, *(Picture("red", shade, f"{shade}.jpg") for shade in range(3)))
    found, vectors = album._store.features(BACKBONE)
    assert found.tolist() == ids
    np.testing.assert_array_equal(vectors, np.stack([feature("red", shade) for shade in range(3)]).astype(np.float16))
    assert album._store.features("another")[0].tolist() == []
    assert [photo for photo, _ in album._store.photos_without_feature("another")] == ids
    assert album._store.photos_without_feature(BACKBONE) == []


def test_touch_moved_wants_a_known_content(album):
    entry = Picture("red", 1, "one.jpg").entry
    with pytest.raises(LibraryError, match="add_photo"):
        album._store.touch_moved(entry.path, entry, "0" * 64)


def test_one_writer_and_any_number_of_readers(tmp_path, album):
    (photo,) = add(album, Picture("red", 1, "one.jpg"))
    with pytest.raises(LibraryBusyError, match=rf"another program is changing the album.*process {os.getpid()}"):
        Store.open(tmp_path / "data")
    with open_album(tmp_path / "data", read_only=True) as reader:
        assert in_topic(reader, "red") == {photo}
        with pytest.raises(LibraryError, match="reading only"):
            reader.correct([photo], positive=["green"])
        assert in_topic(reader, "green") == set()
    album.close()
    Store.open(tmp_path / "data").close()


def _hold(folder: Path, held, release) -> None:
    with Store.open(folder):
        held.set()
        release.wait()


def test_the_lock_goes_with_the_process_that_held_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(LibraryBusyError, match=f"process {other.pid}"):
            Store.open(tmp_path)
    finally:
        other.kill()
        other.join()
    Store.open(tmp_path).close()


def test_a_missing_or_foreign_library_is_named(tmp_path):
    with pytest.raises(LibraryError, match=r"no album in .*album index"):
        Store.open(tmp_path / "nothing", read_only=True)
    (tmp_path / "album.sqlite3").write_bytes(b"this is a letter, not a database" * 400)
    with pytest.raises(LibraryError, match="damaged or is not an album"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryError, match="data folder"):
        Store.open(tmp_path / "file")


def test_a_full_disk_is_an_error_that_loses_nothing(album):
    ids = add(album, *(Picture("red", shade, f"{shade}.jpg") for shade in range(4)))
    writer = album._store._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match=r"full; free some space"):
        for shade in range(100, 400):
            add(album, Picture("blue", shade, f"more/{shade}.jpg"), sort=False)

    def everything() -> tuple[object, ...]:
        return album.topics(), [album.photo(photo_id) for photo_id in ids], album.changes(1000)

    said = [{"positive": ["green"]}, {"none": True}]
    with pytest.raises(StorageFullError):
        for number in range(1000):
            before = everything()
            album.correct(ids, **said[number % 2])
    assert everything() == before
    writer.execute("PRAGMA max_page_count = 1000000")
    album.correct(ids, positive=["green"], negative=["red"])
    assert in_topic(album, "green") == set(ids)
    while any(not change.undone for change in album.changes(1000)):
        album.undo()
    # The learner forgot all of it, exactly: not even the correction that failed left a trace.
    fresh = new_learner()
    expected = fresh.confidences(np.stack([feature("red", shade) for shade in range(4)]))
    for row, photo_id in enumerate(ids):
        shown = {topic.key: topic.confidence for topic in album.photo(photo_id).topics}
        assert shown == pytest.approx(dict(zip(fresh.topics, expected[row].tolist(), strict=True)), abs=1e-6)


def test_many_threads_read_while_one_writes(album):
    ids = add(album, *(Picture("red", shade, f"{shade}.jpg") for shade in range(20)))
    errors: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                page = album.photos(topic="red", limit=50)
                assert len(page.photos) == page.total
                album.topics()
                album.photo(ids[0])
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for photo_id in ids:
        album.correct([photo_id], negative=["red"], positive=["green"])
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert in_topic(album, "green") == set(ids)


def test_using_a_closed_album_says_so(tmp_path):
    album = open_album(tmp_path)
    album.close()
    album.close()
    with pytest.raises(LibraryError, match="closed"):
        album.photos()
    with pytest.raises(LibraryError, match="closed"):
        album.correct([1], positive=["red"])
