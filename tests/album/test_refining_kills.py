"""The real process that refines, and the album that adopts what it made, are killed and run into a full disk, again and
again: the album is always one that was told everything and has one network or the other, and ends as if undisturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from homespun.album import Album, refining
from homespun.album.refining_worker import FEATURES, TOPICS
from homespun.album.vision import BACKBONE
from tests.album.refining_albums import made_refinement, make_album, plan, scores

ROOT = Path(__file__).parents[2]
QUICK = "tests.album.quick_worker"

# Refines, and says which process does, how far it is, and that it is done.
ALBUM = """
import sys
from pathlib import Path
from homespun.album import Album, refining_process
from homespun.learning import task
task.FEWEST, refining_process.WORKER = 1, sys.argv[2]
with Album(Path(sys.argv[1])) as album:
    def tell(phase, share):
        print(album.refining._worker.pid, phase, share, flush=True)
    album.refining.refine(tell)
    print(0, "done", 1, flush=True)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_album(tmp_path_factory.mktemp("album"))


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the album, for which three labelled photos are enough."""
    shutil.copytree(prepared, tmp_path / "data")
    monkeypatch.setattr("homespun.learning.task.FEWEST", 1)
    return tmp_path / "data"


def album_process(folder: Path, worker: str, script: str = ALBUM, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", script, str(folder), worker, *more]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def network(folder: Path) -> list[bytes]:
    """The refined network and its topics, byte for byte."""
    return [path.read_bytes() for name in (BACKBONE, TOPICS) for path in (folder / refining.FOLDER).glob(f"*/{name}")]


def consistent(folder: Path, allowed: list[np.ndarray]) -> int:
    """Open the album after whatever happened: which of the allowed scores it has."""
    with Album(folder) as album:
        assert album._store._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert [change.kind for change in album.changes()] == ["label", "add-topic"]
        found = scores(album)
        (which,) = [number for number, one in enumerate(allowed) if np.array_equal(found, one)]
        assert album.refining.status().refined == (which == 1)
        return which


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[np.ndarray], list[bytes]]:
    """Scores before and after a real run that nothing disturbs, and the network that it makes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "data"
    shutil.copytree(prepared, folder)
    with Album(folder) as album:
        before = scores(album)
    with album_process(folder, QUICK) as process:
        assert process.communicate()[0].endswith("done 1\n")
    with Album(folder) as album:
        after = scores(album)
    assert not np.allclose(before, after)
    return [before, after], network(folder)


def test_killed_at_random_it_ends_bit_for_bit_as_if_undisturbed(folder, undisturbed):
    """Process, album or both are killed in each phase; blocks of what was not flushed are lost, as in a power cut."""
    rng = random.Random(11)
    allowed, expected = undisturbed
    moments = ["looking", "training", "training", "training", "features", "features"]
    rng.shuffle(moments)
    for number, moment in enumerate([*moments, "never"]):
        with album_process(folder, QUICK) as process:
            assert process.stdout is not None
            pid = 0
            for line in process.stdout:
                pid, phase = int(line.split()[0]), line.split()[1]
                if phase == moment or (phase != "looking" and moment == "looking"):
                    time.sleep(rng.uniform(0, 0.1 if moment == "features" else 0.3))
                    break
            victims = [[pid], [process.pid], [pid, process.pid]][number % 3] if phase != "done" else []
            with contextlib.suppress(ProcessLookupError):  # it may come to its end before
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
            rest = process.stdout.read()
        for path in (folder / refining.FOLDER).glob(f"*/{FEATURES}"):
            lose_blocks(path, rng)
        if consistent(folder, allowed):  # it came to its end
            break
        assert phase != "done" and " done " not in rest
    assert consistent(folder, allowed) == 1
    assert network(folder) == expected


def lose_blocks(path: Path, rng: random.Random) -> None:
    """As a power cut does to a file that was not flushed: it keeps its length, and some blocks are empty."""
    content = bytearray(path.read_bytes())
    for start in range(0, len(content), 512):
        if rng.random() < 0.1:
            content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


# Adopting, with a stand-in for the process: killed at every write

KILLED_ALBUM = """
import os, signal, sys
from pathlib import Path
from homespun.album import Album, refining_process
from homespun.learning import task
task.FEWEST, refining_process.WORKER = 1, sys.argv[2]
left = int(sys.argv[3])
def write(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(function):
    def call(*arguments, **options):
        write()
        return function(*arguments, **options)
    return call
with Album(Path(sys.argv[1])) as album:
    album.prepare()
    for name in ("fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    def begun(statement):
        if statement.startswith(("COMMIT", "BEGIN")):
            write()
    album._store._writer.set_trace_callback(begun)
    getattr(album.refining, sys.argv[4])()
print("done")
"""


@pytest.mark.parametrize("what", ["refine", "rollback"])
def test_killed_at_any_write_while_a_network_is_adopted_or_taken_back_the_album_has_one_or_the_other(folder, what):
    made_refinement(folder)
    plan(folder, "finish")
    with Album(folder) as album:
        before = scores(album)
    shutil.copytree(folder, folder.parent / "adopted")
    with album_process(folder.parent / "adopted", "tests.album.stand_in_worker") as process:
        process.communicate()
    with Album(folder.parent / "adopted") as album:
        after = scores(album)
        last = album.refining.status().last
    assert last is not None and last.current and not np.allclose(before, after)
    old, new = (0, 1) if what == "refine" else (1, 0)
    start = folder if what == "refine" else folder.parent / "adopted"
    found: list[int] = []
    for at in range(1, 200, 4):  # every fourth write, and others in the run that goes on after it
        copy = folder.parent / f"copy-{at}"
        shutil.copytree(start, copy)
        with album_process(copy, "tests.album.stand_in_worker", KILLED_ALBUM, str(at), what) as process:
            done = process.communicate()[0] == "done\n"
        found.append(consistent(copy, [before, after]))
        if not done and found[-1] == old:  # it can be asked again, and then comes to its end
            with album_process(copy, "tests.album.stand_in_worker", KILLED_ALBUM, "0", what) as process:
                assert process.communicate()[0] == "done\n"
            assert consistent(copy, [before, after]) == new
        with Album(copy) as album:  # what a kill left lying about goes with the next run
            album.refining._tidy()
        kept = [path.name for path in (copy / refining.FOLDER).iterdir() if path.is_dir()]
        assert len(kept) == (1 if what == "refine" else 0)
        shutil.rmtree(copy)
        if done:
            break
    assert done
    assert found == sorted(found, reverse=what == "rollback")  # there is one moment at which it changes
    assert set(found) == {0, 1}


# A disk that is full


def can_mount() -> bool:
    """Whether this user may make a file system that is seen by nobody else."""
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system lets nobody mount a file system of their own")
def test_on_a_full_disk_each_try_says_so_and_the_last_ends_as_if_undisturbed(folder, undisturbed):
    disk = folder.parent / "disk"
    disk.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-m", "tests.album.full_disk", str(folder), str(disk)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    *tries, backbone, topics = [json.loads(line) for line in said.splitlines()]
    assert [one["outcome"] for one in tries] == ["full"] * (len(tries) - 1) + ["done"]
    assert len(tries) > 4 and {"opening", "training"} < {one["phase"] for one in tries}  # full at several moments
    for one in tries[:-1]:
        assert one["phase"] == "opening" or (one["problem"] == "disk full" and one["same"] and one["same_again"])
    assert not tries[-1]["same"]
    assert [backbone, topics] == [hashlib.sha256(content).hexdigest() for content in undisturbed[1]]
