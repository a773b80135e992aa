"""A small library for tests of the album: photos of one colour each, a learner that knows two colours, no files.

Photos go straight into the store, as the indexer would put them there; what is tested is all that happens then.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.album import Album
from homespun.album.imaging import PhotoData
from homespun.album.scan import FileEntry
from homespun.learning import TopicLearner

BACKBONE = "colours-1"
COLOURS = ("red", "green", "blue", "grey", "pink", "brown")
DIMENSIONS = 4 * len(COLOURS)
BUILTIN = {"red": ("Red", "红色"), "green": ("Green", "绿色")}


def feature(colour: str, shade: int) -> npt.NDArray[np.float32]:
    """A feature (DIMENSIONS,) that is mostly of one colour."""
    rng = np.random.default_rng([COLOURS.index(colour), shade])
    values = rng.normal(-0.3, 0.1, DIMENSIONS)
    at = 4 * COLOURS.index(colour)
    values[at : at + 4] += 2.0 + rng.random(4)
    # As the store keeps it, so that a test learns from the very same numbers.
    return values.astype(np.float16).astype(np.float32)


def new_learner() -> TopicLearner:
    """A learner that knows red and green from three photos each that are in no library."""
    learner = TopicLearner(DIMENSIONS)
    for topic in BUILTIN:
        learner.add_topic(topic)
        for shade in range(3):
            learner.learn(f"built in {topic} {shade}", feature(topic, 1000 + shade), positive=[topic])
    return learner


class Embedder:
    """Stands in for the network: what it would say of pixels of one colour."""

    dimensions = DIMENSIONS
    version = BACKBONE

    def embed_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """A histogram of coarse colours, (N, DIMENSIONS)."""
        coarse = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 255
        spread = np.linspace(0.5, 2.0, DIMENSIONS // 3, dtype=np.float32)
        return (coarse[:, :, None] * spread).reshape(len(pixels), -1).astype(np.float32)


def open_album(folder: Path, **options: Any) -> Album:
    """The library's album, made new if there is none."""
    options = {"embedder": Embedder(), "learner": new_learner, "builtin": BUILTIN} | options
    album = Album(folder, **options)
    if not options.get("read_only"):
        album._sorting.use_backbone(BACKBONE)
    return album


@dataclass(frozen=True)
class Picture:
    """A photo to be: its colour and shade make its content and feature, its name its path."""

    colour: str
    shade: int
    name: str
    taken: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None

    @property
    def path(self) -> bytes:
        return f"/photos/{self.name}".encode("utf-8", "surrogateescape")

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(f"{self.colour} {self.shade}".encode()).hexdigest()

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.path, size=1000 + self.shade, mtime_ns=1_700_000_000_000_000_000, inode=1, device=1)


def add(album: Album, *pictures: Picture, sort: bool = True) -> list[int]:
    """Put pictures into the library as the indexer would; returns their ids."""
    ids = []
    for picture in pictures:
        data = PhotoData(
            content_hash=picture.content_hash,
            byte_size=picture.entry.size,
            mtime_ns=picture.entry.mtime_ns,
            width=4,
            height=3,
            taken=picture.taken,
            latitude=picture.latitude,
            longitude=picture.longitude,
            camera=picture.camera,
            format="JPEG",
            thumbnail=b"not a JPEG, but nobody looks",
            pixels=np.zeros((224, 224, 3), dtype=np.uint8),
        )
        picture_feature = feature(picture.colour, picture.shade)
        ids.append(album._store.add_photo(picture.path, picture.entry, data, picture_feature, BACKBONE))
    if sort:
        album.sort_new()
    return ids


def add_colours(album: Album, each: int = 4) -> dict[str, list[int]]:
    """`each` photos of every colour; ids by colour. Names are like "red/2.jpg"."""
    return {
        colour: add(album, *(Picture(colour, shade, f"{colour}/{shade}.jpg") for shade in range(each)))
        for colour in COLOURS
    }


def in_topic(album: Album, topic: str) -> set[int]:
    """Ids of all photos shown in a topic."""
    return {photo.id for photo in album.photos(topic=topic, limit=1000).photos}
