"""A process that is killed at any moment leaves a library that opens and holds all that was acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.album.small_library import COLOURS, Picture, add, open_album

ROOT = Path(__file__).parents[2]

# Indexes, corrects, adds topics and undoes for ever, and says each thing that is done once it holds.
WORK = """
import sys
from pathlib import Path
from tests.album.small_library import COLOURS, Picture, add, open_album

album = open_album(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    colour = COLOURS[number % len(COLOURS)]
    (photo,) = add(album, Picture(colour, number, f"{colour}/{number}.jpg"), sort=number % 3 == 0)
    print("photo", number, photo, flush=True)
    change = album.correct([photo], positive=["red"], negative=["green"])
    print("change", change.id, photo, flush=True)
    if number % 5 == 0:
        album.undo(change.id)
        print("undone", change.id, photo, flush=True)
    if number % 7 == 0:
        topic = album.add_topic(f"Topic {number}", [photo])
        print("topic", topic.key, photo, flush=True)
"""


def test_killed_again_and_again(tmp_path):
    rng = random.Random(7)
    photos: dict[int, int] = {}
    changes: dict[int, int] = {}
    undone: set[int] = set()
    topics: dict[str, int] = {}
    for _ in range(8):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path), str(1000 * len(photos))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        assert worker.stdout is not None
        lines = [worker.stdout.readline()]  # it has begun
        time.sleep(rng.uniform(0.0, 0.6))
        worker.send_signal(signal.SIGKILL)
        lines += worker.stdout.readlines()
        worker.wait()
        for line in lines:
            if not line.endswith("\n"):
                continue  # cut off while it was being said
            kind, name, photo = line.split()
            if kind == "photo":
                photos[int(name)] = int(photo)
            elif kind == "change":
                changes[int(name)] = int(photo)
            elif kind == "undone":
                undone.add(int(name))
            else:
                topics[name] = int(photo)

        with open_album(tmp_path) as album:
            album.sort_new()
            assert album._store._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            log = {change.id: change for change in album.changes(100_000)}
            assert set(changes) <= set(log)
            assert all(log[change].undone for change in undone)
            assert set(topics) <= {topic.key for topic in album.topics()}
            for number, photo_id in photos.items():
                colour = COLOURS[number % len(COLOURS)]
                assert album.photo(photo_id).name == f"{number}.jpg"
                # Adding it again finds it whole: nothing was half-stored.
                assert add(album, Picture(colour, number, f"{colour}/{number}.jpg"), sort=False) == [photo_id]
            for change, photo_id in changes.items():
                said = {topic.key: topic for topic in album.photo(photo_id).topics}
                holds = not log[change].undone
                # Not among the likeliest topics, it is one of which nobody said anything.
                assert ("red" in said and said["red"].source == "human") == holds
                assert not holds or (said["red"].present and not said["green"].present)
    assert len(changes) > 8  # it did get something done between the kills


def test_what_was_learnt_is_the_same_whether_saved_or_learnt_again(tmp_path):
    with open_album(tmp_path) as album:
        ids = add(album, *(Picture(colour, 0, f"{colour}.jpg") for colour in COLOURS))
        album.correct(ids[2:4], positive=["red"])
        album.add_topic("Ours", ids[4:5])
        expected = [album.photo(photo_id) for photo_id in ids]
    saved = tmp_path / "learner" / "current.json"
    with open_album(tmp_path) as album:
        assert [album.photo(photo_id) for photo_id in ids] == expected
    for damage in (
        saved.unlink,
        lambda: saved.write_text("{"),
        lambda: _flip(next(saved.parent.glob("*.safetensors"))),
    ):
        damage()
        with open_album(tmp_path) as album:
            assert [album.photo(photo_id) for photo_id in ids] == expected
            album.correct(ids[:1], positive=["green"])
            album.undo()
        assert saved.exists()


def test_rows_that_were_cut_off_are_made_again(tmp_path):
    with open_album(tmp_path) as album:
        ids = add(album, *(Picture(colour, 0, f"{colour}.jpg") for colour in COLOURS))
        album.prepare()
        album._sorting.flush()
        expected = [album.photo(photo_id) for photo_id in ids]
    rows, numbers = (next((tmp_path / "features").glob(f"*.{kind}")) for kind in ("rows", "ids"))
    for damage in (
        lambda: os.truncate(numbers, 8 * len(ids) - 5),
        lambda: os.truncate(rows, rows.stat().st_size // 2),
        lambda: rows.write_bytes(bytes(rows.stat().st_size)),
        numbers.unlink,
        lambda: numbers.write_bytes(b"\x07" * 8 * len(ids)),
    ):
        damage()
        with open_album(tmp_path) as album:
            assert [album.photo(photo_id) for photo_id in ids] == expected
        with open_album(tmp_path, read_only=True) as album:
            assert [album.photo(photo_id) for photo_id in ids] == expected


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
