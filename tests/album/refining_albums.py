"""A small album whose network is to be refined, and what a run would make of it: shared by the tests of refining."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage import data as skimage_data

import homespun as hs
from homespun.album import Album, refining
from homespun.album.refining_worker import FEATURES, RESULT, TASK, TOPICS, feature_records
from homespun.album.scoring import read_examples
from homespun.album.topics import read_topics
from homespun.album.vision import ASSETS, BACKBONE, version_of
from homespun.learning.tail import Maps, Tail
from homespun.learning.task import Foundation, Task

PHOTOS = ("astronaut.png", "coffee.png", "rocket.jpg", "chelsea.png", "retina.jpg", "color.png")


def make_album(root: Path) -> Path:
    """An album of a few photos in `root`, some of which people spoke of; returns its data folder."""
    (root / "photos").mkdir()
    for name in PHOTOS:
        shutil.copy(Path(skimage_data.__file__).parent / name, root / "photos")
    with Album(root / "data") as album:
        album.index([root / "photos"])
        ids = [photo.id for photo in album.photos(sort="date").photos]
        album.add_topic("Space", ids[:1])
        album.correct(ids[1:3], positive=["food"], negative=["cake"])
    return root / "data"


def plan(folder: Path, word: str) -> None:
    """What the stand-in for the worker is to do."""
    (folder / refining.FOLDER).mkdir(exist_ok=True)
    (folder / refining.FOLDER / "plan").write_text(word)


def made_refinement(folder: Path, replaces: bool = True, seed: int = 0) -> None:
    """What the worker would leave: a network with other weights in its tail, and a verdict."""
    made = folder / "made"
    made.mkdir(parents=True)
    backbone = hs.load(ASSETS / BACKBONE)
    tail = Tail(backbone)
    random = np.random.default_rng(seed)
    weights = {
        name: (value * random.uniform(0.9, 1.1, value.shape)).astype(np.float32) for name, value in tail.weights.items()
    }
    hs.save(tail.backbone_with(weights), made / BACKBONE, weights="int8")
    Foundation.shipped().learner().save(made / TOPICS)
    with Album(folder, read_only=True) as album:
        ids, vectors = album._store.features(version_of(ASSETS / BACKBONE))
    records = feature_records(ids[:-1], vectors[:-1] * np.float16(1.1))  # one photo came after the worker looked
    records.tofile(made / FEATURES)
    comparison = {"photos": 100, "champion": 0.7, "challenger": 0.8, "gained": 12, "lost": 2}
    verdict = {
        "reason": "better" if replaces else "by chance",
        "replaces": replaces,
        "chance": 0.01,
        "family": comparison,
        "builtin": comparison,
        "topics": {"food": [20, 0.5, 0.8]},
    }
    result = {
        "verdict": verdict,
        "version": version_of(made / BACKBONE),
        "seconds": 60,
        "cpu_seconds": 70,
        "peak_bytes": 1,
    }
    (made / RESULT).write_text(json.dumps(result))
    labelled(folder).save(made / TASK)


def labelled(folder: Path) -> Task:
    """What was said, as the task of a run."""
    with Album(folder, read_only=True) as album, album._store.reader() as connection:
        said = read_examples(connection, read_topics(connection))
    names = sorted({name for example in said.values() for name in (*example.positive, *example.negative)})
    positive = np.array([[name in example.positive for name in names] for example in said.values()])
    negative = np.array([[name in example.negative for name in names] for example in said.values()])
    maps = Maps.of(np.zeros((len(said), 2, 2, 3), np.float32))
    return Task(tuple(said), tuple(names), maps, positive, negative, np.zeros(len(said), np.intp))


def scores(album: Album) -> npt.NDArray[np.float32]:
    """Every photo's confidences."""
    standing = album._sorting.board().standing
    assert standing.scored.all()
    return standing.confidences.copy()


def until(true: Callable[[], bool]) -> None:
    """Wait for something, 20 seconds at most."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
