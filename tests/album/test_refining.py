"""Refining in the life of an album: who replaces whom, what stays meanwhile, and the way back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from homespun.album import Album, refining, refining_process
from homespun.album.errors import LibraryBusyError, RefiningError, StorageFullError
from homespun.album.refining_worker import FEATURES, _Work, feature_records, read_features
from homespun.album.vision import ASSETS, BACKBONE, version_of
from homespun.album.web import create_app
from homespun.commands.served import Served
from homespun.errors import OptionError
from homespun.learning.standstill import Standstill
from homespun.learning.task import Task
from tests.album.refining_albums import made_refinement, make_album, plan, scores, until
from tests.command_line import runner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An album of a few photos, some of which people spoke of."""
    root = tmp_path_factory.mktemp("album")
    make_album(root)
    return root


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which six labelled photos are enough and a stand-in does the work."""
    shutil.copytree(prepared / "data", tmp_path / "data")
    monkeypatch.setattr("homespun.learning.task.FEWEST", 1)
    monkeypatch.setattr(refining_process, "WORKER", "tests.album.stand_in_worker")
    return tmp_path / "data"


def test_a_better_network_takes_over_and_rolling_back_restores_every_score(folder):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        before, old = scores(album), album.status().backbone
        refinement = album.refining.refine()
        assert refinement is not None
        assert (refinement.outcome, refinement.current, refinement.topics[0].after) == ("adopted", True, 0.8)
        assert album.status().without_features == 0
        assert album.status().backbone != old
        after = scores(album)
        assert not np.allclose(after, before)
    with Album(folder) as album:
        np.testing.assert_array_equal(scores(album), after)
        assert album.refining.rollback().outcome == "rolled back"
        np.testing.assert_array_equal(scores(album), before)
        assert album.status().backbone == old
        assert not album.refining.status().refined
        with pytest.raises(RefiningError, match="nothing to go back to"):
            album.refining.rollback()
    with Album(folder) as album:
        np.testing.assert_array_equal(scores(album), before)


def test_what_people_say_goes_on_counting_with_the_refined_network(folder):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        album.refining.refine()
        ids = [photo.id for photo in album.photos().photos]
        standing = scores(album)
        change = album.correct(ids[-1:], positive=["wedding"])
        assert not np.array_equal(scores(album), standing)
        album.undo(change.id)
        np.testing.assert_array_equal(scores(album), standing)


def test_going_back_gives_up_a_run_that_is_under_way(folder):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        before = scores(album)
        album.refining.refine()
        plan(folder, "wait")
        album.refining.start()
        until(lambda: album.refining.status().phase == "training")
        assert album.refining.rollback().outcome == "rolled back"
        status = album.refining.status()
        assert not status.running and not status.interrupted and not status.problem
        np.testing.assert_array_equal(scores(album), before)
        assert [path.name for path in (folder / refining.FOLDER).iterdir()] == ["plan"]


def test_a_run_that_is_asked_for_goes_on_in_the_background_and_can_be_ended(folder):
    plan(folder, "wait")
    with Album(folder) as album:
        assert album.refining.start().running
        with pytest.raises(LibraryBusyError, match="already"):
            album.refining.start()
        until(lambda: album.refining.status().phase == "training")
        assert album.refining.end_run().interrupted
        album.refining.start()
        until(lambda: album.refining.status().phase == "training")
    made_refinement(folder)  # closing the album ended it, too
    plan(folder, "finish")
    with Album(folder) as album:
        album.refining.start()
        until(lambda: not album.refining.status().running)
        assert album.refining.status().refined


def test_a_challenger_that_is_no_better_leaves_no_trace(folder):
    made_refinement(folder, replaces=False)
    plan(folder, "finish")
    with Album(folder) as album:
        before = scores(album)
        refinement = album.refining.refine()
        assert refinement is not None
        assert (refinement.outcome, refinement.reason, refinement.current) == ("kept", "by chance", False)
        np.testing.assert_array_equal(scores(album), before)
        assert [path.name for path in (folder / refining.FOLDER).iterdir()] == ["plan"]
        assert not album.refining.due()


def test_one_that_learnt_from_what_no_longer_holds_is_not_used(folder):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        album.undo()
        refinement = album.refining.refine()
        assert refinement is not None
        assert refinement.outcome == "outdated"
        assert album.status().backbone == version_of(ASSETS / BACKBONE)


def test_a_damaged_network_is_named_and_can_be_taken_back(folder):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        before = scores(album)
        album.refining.refine()
    for path in (folder / refining.FOLDER).glob("run-*/topics.safetensors"):
        path.write_bytes(b"no such thing")
    with Album(folder) as album:
        album.refining.rollback()
        np.testing.assert_array_equal(scores(album), before)


@pytest.mark.parametrize(("word", "message"), [("die", "killed"), ("full", "disk is full")])
def test_a_run_that_fails_says_so_and_the_next_goes_on(folder, word, message):
    made_refinement(folder)
    plan(folder, word)
    with Album(folder) as album:
        before = scores(album)
        with pytest.raises(StorageFullError if word == "full" else RefiningError, match=message):
            album.refining.refine()
        assert album.refining.status().problem == ("disk full" if word == "full" else "failed")
        np.testing.assert_array_equal(scores(album), before)
        assert not album.refining.status().running
    plan(folder, "finish")
    with Album(folder) as album:
        assert album.refining.refine().outcome == "adopted"  # type: ignore[union-attr]


def test_a_run_with_a_damaged_file_is_given_up_and_the_next_begins_anew(folder):
    plan(folder, "damaged")
    with Album(folder) as album:
        with pytest.raises(RefiningError, match="damaged"):
            album.refining.refine()
        assert not album.refining.status().interrupted


# Labels of photos that are gone


@pytest.fixture
def originals(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder of the photos, as it was again afterwards."""
    shutil.copytree(prepared / "photos", tmp_path / "kept")
    yield prepared / "photos"
    shutil.rmtree(prepared / "photos", ignore_errors=True)
    shutil.copytree(tmp_path / "kept", prepared / "photos")


def looked_at(folder: Path, run: Path) -> Task:
    run.mkdir()
    return _Work(folder, run, None, Standstill())._task()


@pytest.fixture
def one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homespun.learning.task.FEWEST", 1)
    monkeypatch.setattr("homespun.album.refining_worker.FEWEST", 1)


@pytest.mark.parametrize("how", ["deleted", "another photo now", "noise"])
def test_labels_of_photos_that_are_gone_are_learnt_from_their_thumbnails(
    folder, originals, tmp_path, one_is_enough, how
):
    before = looked_at(folder, tmp_path / "before")
    for path in sorted(originals.iterdir()):
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"noise" if how == "noise" else (tmp_path / "kept" / "color.png").read_bytes())
    after = looked_at(folder, tmp_path / "after")
    assert sorted(after.keys) == sorted(before.keys) and len(after) == 3
    for row, key in enumerate(after.keys):
        at = before.keys.index(key)
        assert after.said(row) == before.said(at)
        one, other = (maps.take(place).ravel() for maps, place in ((after.maps, row), (before.maps, at)))
        assert np.corrcoef(one, other)[0, 1] > 0.8, key
    rows = [row.ravel() for row in after.maps.take(slice(None))]
    assert np.corrcoef(rows[0], rows[1])[0, 1] < 0.7  # nor is everything alike


def test_labels_of_photos_without_a_thumbnail_are_left_out_and_too_few_are_named(
    folder, originals, tmp_path, one_is_enough, monkeypatch
):
    whole = looked_at(folder, tmp_path / "before")
    with Album(folder, read_only=True) as album:
        lost = album.photo(int(whole.keys[0]))
        album._store.thumbnail_path(lost.content_hash).unlink()
    shutil.rmtree(originals)
    left = looked_at(folder, tmp_path / "after")
    assert set(left.keys) == set(whole.keys) - {str(lost.id)}
    monkeypatch.setattr("homespun.album.refining_worker.FEWEST", 3)
    with pytest.raises(OptionError, match=r"about 2 photos; refining needs"):
        looked_at(folder, tmp_path / "again")


def test_too_few_labels_are_named(folder, monkeypatch):
    monkeypatch.setattr("homespun.learning.task.FEWEST", 60)
    with Album(folder) as album:
        with pytest.raises(RefiningError, match=r"about 3 photos; refining needs 60"):
            album.refining.refine()
        assert not album.refining.due()


def test_asked_for_a_page_the_server_lets_a_run_stand_still(folder, monkeypatch):
    monkeypatch.setattr(refining_process, "QUIET_SECONDS", 0.5)
    plan(folder, "wait")
    stop = threading.Event()
    with Album(folder) as album:
        result: list[object] = []
        run = threading.Thread(target=lambda: result.append(album.refining.refine(stop=stop)))
        run.start()
        until(lambda: album.refining.status().phase == "training")
        with pytest.raises(LibraryBusyError, match="already"):
            album.refining.refine()
        client = TestClient(create_app(album), base_url="http://127.0.0.1")
        assert client.get("/api/v1/refining").json()["paused"] is False  # pages ask for that by themselves
        worker = album.refining._worker
        assert worker is not None
        for ask in (
            lambda: client.get("/"),
            lambda: client.post("/api/v1/refining/here", json={}, headers={"Origin": "http://127.0.0.1"}),
        ):
            told = len(worker.pause_milliseconds)
            assert ask().status_code < 300
            until(lambda told=told: len(worker.pause_milliseconds) > told)  # type: ignore[misc]
            until(lambda: not album.refining.status().paused)
        stop.set()
        run.join()
        assert result == [None]
        assert album.refining.status().interrupted


@pytest.mark.skipif(not refining_process.CAN_STOP, reason="only Linux wakes a stopped process whose parent dies")
def test_a_process_that_does_not_stand_still_by_itself_is_stopped_and_goes_on_later(folder, monkeypatch):
    monkeypatch.setattr(refining_process, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(refining_process, "SECONDS_BETWEEN_TURNS", 30.0)
    plan(folder, "deaf")
    stop = threading.Event()
    with Album(folder) as album:
        run = threading.Thread(target=lambda: album.refining.refine(stop=stop))
        run.start()
        until(lambda: album.refining.status().phase == "training")
        pid = album.refining._worker.pid  # type: ignore[union-attr]
        assert state(pid) != "T"
        album.refining.make_way()
        until(lambda: state(pid) == "T")
        monkeypatch.setattr(refining_process, "SECONDS_BETWEEN_TURNS", 0.01)
        stop.set()
        album.refining.close()
        run.join()
        assert album.refining.status().interrupted


KEEPER = """
import sys, threading, time
from pathlib import Path
from homespun.album import Album, refining_process
from homespun.learning import task
task.FEWEST, refining_process.WORKER = 1, "tests.album.stand_in_worker"
album = Album(Path(sys.argv[1]))
threading.Thread(target=album.refining.refine, daemon=True).start()
while album.refining.status().phase != "training":
    time.sleep(0.01)
album.refining.make_way()
print(album.refining._worker.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not refining_process.CAN_STOP, reason="only Linux wakes a stopped process whose parent dies")
def test_stopped_it_does_not_outlive_an_album_that_is_killed(folder):
    plan(folder, "wait")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", KEEPER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        pid = int(keeper.stdout.readline())
        until(lambda: state(pid) == "T")
        keeper.kill()
    until(lambda: state(pid) in ("", "Z"))


def state(pid: int) -> str:
    """The kernel's letter for what a process does, T where it is stopped; "" for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.fixture
def served(folder: Path) -> Iterator[Album]:
    """The album, open in a server that said where it is."""
    with Album(folder) as album:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(album), log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        album.announce(f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield album
        server.should_exit = True
        thread.join()
        listener.close()


def test_the_command_line_has_a_served_album_refined_by_its_server(served, folder, capfd):
    run = runner(capfd)
    made_refinement(folder)
    plan(folder, "finish")
    refined = run("album", "learn", "refine", "--data", folder)
    assert refined.code == 0 and "The refined network is in use" in refined.out and "refined there" in refined.err
    assert served.refining.status().refined
    back = run("album", "learn", "rollback", "--data", folder, "--json")
    assert (back.code, json.loads(back.out)["outcome"]) == (0, "rolled back")
    assert not served.refining.status().refined
    refused = run("album", "learn", "rollback", "--data", folder)
    assert (refused.code, "nothing to go back to" in refused.err) == (1, True)
    assert run("album", "learn", "automatic", "--off", "--data", folder).code == 0
    assert not served.refining.automatic
    plan(folder, "full")
    full = run("album", "learn", "refine", "--data", folder)
    assert (full.code, "disk full" in full.err) == (1, True)


def test_asked_through_its_server_a_run_is_stopped_as_by_ctrl_c(served, folder):
    plan(folder, "wait")
    with pytest.raises(LibraryBusyError) as busy:
        Album(folder)
    stop = threading.Event()
    told: list[str] = []

    def on_progress(phase: str, share: float) -> None:
        told.append(phase)
        if phase == "training":
            stop.set()

    assert Served.of(busy.value).refine(on_progress, stop) is None
    assert served.refining.status().interrupted and "training" in told


def test_where_no_server_holds_the_album_the_command_line_says_so(folder, capfd):
    with Album(folder):
        refused = runner(capfd)("album", "learn", "refine", "--data", folder)
    assert (refused.code, "another program is changing the album" in refused.err) == (1, True)


def test_the_switch_is_kept(folder):
    with Album(folder) as album:
        assert album.refining.due()
        client = TestClient(create_app(album), base_url="http://127.0.0.1")
        said = client.post("/api/v1/refining/automatic", json={"on": False}, headers={"Origin": "http://127.0.0.1"})
        assert said.json()["automatic"] is False
        assert not album.refining.due()
        refused = client.post("/api/v1/refining/rollback", json={}, headers={"Origin": "http://127.0.0.1"})
        assert (refused.status_code, "nothing to go back to" in refused.json()["detail"]) == (409, True)
    with Album(folder) as album:
        assert not album.refining.status().automatic


def test_a_record_of_features_that_was_cut_off_is_left_out(tmp_path):
    content = feature_records([5, 6, 7], np.ones((3, 1280))).tobytes()
    (tmp_path / FEATURES).write_bytes(content[:-7])
    assert read_features(tmp_path / FEATURES)[0].tolist() == [5, 6]


@pytest.mark.parametrize("empty", [slice(0, 12), slice(20, 40), slice(2000, None)])
def test_records_that_a_power_cut_left_empty_are_left_out(tmp_path, empty):
    """The file has its length, but some of its blocks were never written, and nothing after them is trusted."""
    one, two, three = (record.tobytes() for record in feature_records([5, 6, 7], np.ones((3, 1280))))
    holed = bytearray(two)
    holed[empty] = bytes(len(holed[empty]))
    (tmp_path / FEATURES).write_bytes(one + bytes(holed) + three)
    ids, vectors = read_features(tmp_path / FEATURES)
    assert ids.tolist() == [5] and (vectors == 1).all()
