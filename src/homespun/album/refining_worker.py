"""The process that refines: `python -m homespun.album.refining_worker DATA FOLDER [CHAMPION]`, started by `refining`.

Reads the library and writes nothing but FOLDER: `task` (what was labelled when it began), networks, and at the end
`backbone.hsp`, `topics.safetensors`, `features` of all photos and `result.json`. It obeys "pause N", "resume" and
"stop" on standard input, ends when that ends, and tells what it does in lines of JSON on standard output. It runs at
the lowest priority, and may be killed at any moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import homespun as hs
from homespun.album.disk import LOCK, explain_os_error, flush_folder, write_file
from homespun.album.imaging import PhotoData
from homespun.album.refining_process import go_on_when_abandoned
from homespun.album.scoring import read_examples
from homespun.album.store import Store
from homespun.album.topics import read_topics
from homespun.album.vision import ASSETS, BACKBONE, network_input, version_of
from homespun.album.workers import DecodePool
from homespun.errors import HomespunError, OptionError
from homespun.learning.exemplars import Exemplars
from homespun.learning.map_file import MapWriter
from homespun.learning.refine import Refined, Refiner
from homespun.learning.standstill import Standstill, Stopped
from homespun.learning.tail import Tail
from homespun.learning.task import FEWEST, Foundation, Task, divide, maps_of, too_few

TASK, RESULT, FEATURES, TOPICS, LOG = "task.safetensors", "result.json", "features", "topics.safetensors", "time.json"
BATCH = 8
MOST = 4000
"""Labelled photos that are learnt from, at most: the last ones. Their maps take 9 KB each, on the disk."""


def main(arguments: list[str]) -> int:
    """Run, and return the exit code: 0 done, 3 stopped, 1 failed (a line on standard output says why)."""
    go_on_when_abandoned()
    os.nice(19)
    data, folder = Path(arguments[0]), Path(arguments[1])
    champion = Path(arguments[2]) if len(arguments) > 2 else None
    standstill = Standstill()
    threading.Thread(target=_obey, args=(standstill,), daemon=True).start()
    try:
        _Work(data, folder, champion, standstill).run()
    except (Stopped, BrokenPipeError):  # or nobody listens any more
        return 3
    except OSError as error:
        explained = explain_os_error(error, folder / RESULT)
        _tell(error=str(explained), kind=type(explained).__name__)
        return 1
    except HomespunError as error:
        _tell(error=str(error), kind=type(error).__name__)
        return 1
    return 0


def _obey(standstill: Standstill) -> None:
    try:
        for line in sys.stdin:
            word, *number = line.split()
            if word == "pause":
                standstill.pause()
                _tell(paused=int(number[0]))
            elif word == "resume":
                standstill.resume()
            else:
                break
    except BrokenPipeError:
        pass  # the album is gone
    finally:
        standstill.stop()


def _tell(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class _Work:
    def __init__(self, data: Path, folder: Path, champion: Path | None, standstill: Standstill) -> None:
        self._store = Store.open(data, read_only=True)
        self._folder, self._champion, self._standstill = folder, champion, standstill
        self._backbone = hs.load(ASSETS / BACKBONE)
        self._tail = Tail(self._backbone)
        self._began = time.monotonic()
        self._before = _read_json(folder / LOG) or {"seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}

    def run(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in (self._folder.parent, self._folder.parent.parent):
                flush_folder(folder)
            self._wait_for_others()
            refined = self._refine(self._task())
            if refined.verdict.replaces:
                hs.save(self._tail.backbone_with(refined.weights), self._folder / BACKBONE, weights="int8")
                refined.foundation.learner().save(self._folder / TOPICS)
                self._compute_features()
        finally:
            self._note_time()
        verdict = asdict(refined.verdict) | {
            "chance": refined.verdict.family.chance,
            "replaces": refined.verdict.replaces,
        }
        content = {"verdict": verdict, "version": self._version(), **self._spent()}
        write_file(self._folder / RESULT, json.dumps(content).encode(), durable=True)

    def _wait_for_others(self) -> None:
        """Until no other process works in the folder: one whose album was killed takes a moment to end."""
        self._held = (self._folder / LOCK).open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def _version(self) -> str | None:
        path = self._folder / BACKBONE
        return version_of(path) if path.exists() else None

    # What people said, and maps of those photos

    def _task(self) -> Task:
        path = self._folder / TASK
        if path.exists():
            return Task.load(path)
        with self._store.reader() as connection:
            topics = read_topics(connection)
            examples = read_examples(connection, topics)
            rows = {str(row[0]): row[1:] for row in connection.execute("SELECT id, content_hash, sort_date FROM photo")}
        keys = [key for key in examples if key in rows][-MOST:]
        if len(keys) < FEWEST:
            raise OptionError(too_few(len(keys)))
        keys.sort(key=lambda key: str(rows[key][0]))  # by content: the first of them are a sample of all
        found: list[str] = []
        with MapWriter(maps_of(path)) as writer:
            for number, values in self._maps([int(key) for key in keys]):
                writer.add(values)
                found.append(str(number))
        keys = found
        if len(keys) < FEWEST:
            raise OptionError(too_few(len(keys)))
        said = [examples[key] for key in keys]
        builtin = list(Foundation.shipped().statistics)
        names = builtin + sorted({name for example in said for name in (*example[0], *example[1])} - set(builtin))
        positive, negative = (
            np.array([[name in example[side] for name in names] for example in said], np.bool_) for side in (0, 1)
        )
        task = Task(
            tuple(keys),
            tuple(names),
            writer.maps(),
            positive,
            negative,
            divide([rows[key][0] for key in keys], [rows[key][1][:10] for key in keys]),
        )
        task.save(path)
        return task

    def _maps(self, ids: list[int]) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
        network = self._standstill.predictor(self._tail.trunk())
        for done, (numbers, pixels) in enumerate(self._pixels(ids)):
            for number, values in zip(numbers, network(network_input(pixels, self._backbone)), strict=True):
                yield number, values.astype(np.float16)
            _tell(phase="looking", share=min(1.0, (done + 1) * BATCH / len(ids)))

    def _pixels(self, ids: list[int]) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Photos in batches: from their files or, where those are gone or hold something else, from thumbnails."""
        with self._store.reader() as connection:
            row_of = {
                row[0]: row[1:] for row in connection.execute("SELECT id, path, content_hash, vanished FROM photo")
            }
        waiting: list[tuple[int, npt.NDArray[np.uint8]]] = []
        with DecodePool(1) as pool:
            files = {row_of[number][0]: number for number in ids if not row_of[number][2]}
            found: set[int] = set()
            for path, reading in pool.map(files):
                self._standstill.breathe()
                number = files[os.fsencode(path)]
                if isinstance(reading, PhotoData) and reading.content_hash == row_of[number][1]:
                    found.add(number)
                    waiting.append((number, reading.pixels))
                    if len(waiting) == BATCH:
                        yield _stacked(waiting)
                        waiting = []
            gone = {
                os.fsencode(self._store.thumbnail_path(row_of[number][1])): number
                for number in ids
                if number not in found
            }
            for path, reading in pool.map(gone):
                self._standstill.breathe()
                if isinstance(reading, PhotoData):
                    waiting.append((gone[os.fsencode(path)], reading.pixels))
                    if len(waiting) == BATCH:
                        yield _stacked(waiting)
                        waiting = []
        if waiting:
            yield _stacked(waiting)

    # Training, and features of all photos for the new network

    def _refine(self, task: Task) -> Refined:
        return Refiner(
            self._backbone,
            Foundation.shipped(),
            Exemplars.read(),
            task,
            self._folder,
            champion=self._champion,
            standstill=self._standstill,
            on_progress=lambda share: _tell(phase="training", share=share),
        ).run()

    def _compute_features(self) -> None:
        """Features of every photo, added to a file of records; from the first that is not whole on, anew."""
        network = self._standstill.predictor(hs.load(self._folder / BACKBONE))
        path = self._folder / FEATURES
        known = read_features(path)[0].tolist() if path.exists() else []
        with self._store.reader() as connection:
            ids = [row[0] for row in connection.execute("SELECT id FROM photo ORDER BY id")]
        missing = sorted(set(ids) - set(known))
        done = len(ids) - len(missing)
        with path.open("r+b" if path.exists() else "w+b") as stream:
            stream.seek(len(known) * RECORD.itemsize)
            stream.truncate()
            for numbers, pixels in self._pixels(missing):
                stream.write(
                    feature_records(numbers, np.asarray(network(network_input(pixels, self._backbone)))).tobytes()
                )
                stream.flush()
                done += len(numbers)
                _tell(phase="features", share=done / max(len(ids), 1))
            os.fsync(stream.fileno())

    # What it took

    def _spent(self) -> dict[str, float]:
        usage, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime
        return {
            "seconds": self._before["seconds"] + time.monotonic() - self._began,
            "cpu_seconds": self._before["cpu_seconds"] + cpu,
            "peak_bytes": max(self._before["peak_bytes"], usage.ru_maxrss * 1024),
        }

    def _note_time(self) -> None:
        write_file(self._folder / LOG, json.dumps(self._spent()).encode())


RECORD = np.dtype([("check", "<u4"), ("id", "<i8"), ("vector", "<f2", (1280,))])


def feature_records(ids: Sequence[int], vectors: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Records (N,) of features (N, D), each with a checksum: a power cut can leave a file long and empty."""
    records = np.empty(len(ids), RECORD)
    records["id"], records["vector"] = ids, vectors
    records["check"] = [_check(record) for record in records]
    return records


def read_features(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
    """Ids (N,) and features (N, D) of a file's records up to the first that is not as it was written."""
    count = path.stat().st_size // RECORD.itemsize
    records = np.memmap(path, RECORD, mode="r", shape=(count,)) if count else np.zeros(0, RECORD)
    whole = next((at for at, record in enumerate(records) if record["check"] != _check(record)), count)
    return np.asarray(records["id"][:whole]), np.asarray(records["vector"][:whole])


def _check(record: np.void) -> int:
    return zlib.crc32(record.tobytes()[RECORD["check"].itemsize :])


def _stacked(waiting: list[tuple[int, npt.NDArray[np.uint8]]]) -> tuple[list[int], npt.NDArray[np.uint8]]:
    return [number for number, _ in waiting], np.stack([pixels for _, pixels in waiting])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
