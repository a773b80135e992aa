"""Folders of topics as data for `evaluate`: which photos there are, how to split them, and their features, kept."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from homespun.errors import HomespunError, OptionError
from homespun.learning.storage import replace_file

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif"})
BATCH = 32
NEW_TOPICS = 1 / 3
"""Share of topics that `split` keeps back as new."""
TEST_SHARE = 0.3
"""Share of a topic's photos that `split` tests with, where all of them come from one source."""

Embed = Callable[[Sequence[Path]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo, the folder that it stands in, and what is known of where it came from (for splitting)."""

    path: Path
    topic: str
    source: str = ""
    origin: str = ""


def find_photos(root: Path) -> list[LabelledPhoto]:
    """Photos in `root`/TOPIC/, in order of their names. Raises OptionError when there are none."""
    found = [
        LabelledPhoto(path, path.parent.name, "", path.name)
        for path in sorted(root.glob("*/*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not found:
        raise OptionError(f"{root}: no photos; expected one folder for each topic, with photos in it")
    return found


def read_sources(photos: Sequence[LabelledPhoto], table: Path) -> list[LabelledPhoto]:
    """The same photos with sources from a CSV with columns file, source, source_path.

    A row belongs to the photo that its `file` ends like (topic folder and name). Raises OptionError when columns, or a
    photo's row, are missing.
    """
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = {"file", "source", "source_path"} - set(reader.fieldnames or ())
        if lacking:
            raise OptionError(f"{table}: no column {', '.join(sorted(lacking))}; expected file, source and source_path")
        rows = {tuple(Path(row["file"]).parts[-2:]): row for row in reader}
    result = []
    for photo in photos:
        row = rows.get((photo.topic, photo.path.name))
        if row is None:
            raise OptionError(f"{table}: no row for {photo.topic}/{photo.path.name}")
        result.append(LabelledPhoto(photo.path, photo.topic, row["source"], row["source_path"]))
    return result


def split(photos: Sequence[LabelledPhoto], seed: int) -> tuple[list[int], list[int]]:
    """Rows to know and rows to test with, by source; the same for the same photos and seed.

    A third of the topics, drawn by `seed`, is only in the test: the new ones. Of a known topic some photos are tested,
    as `hold_out` says.
    """
    topics = sorted({photo.topic for photo in photos})
    if len(topics) < 3:
        raise OptionError(f"{len(topics)} topics can't be split into known and new ones; give three or more")
    order = np.random.default_rng(seed).permutation(len(topics))
    new = {topics[index] for index in order[: max(1, round(NEW_TOPICS * len(topics)))]}
    known, test = [], []
    for topic in topics:
        rows = [row for row, photo in enumerate(photos) if photo.topic == topic]
        if topic in new:
            test += rows
            continue
        first, second = hold_out(photos, rows)
        known += first
        test += second
    return known, test


def hold_out(photos: Sequence[LabelledPhoto], rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of the rows of one topic those to learn from and those to test with.

    With several sources, the largest is learnt from and the others are tested; with a single one, the last photos in
    the source's own order are tested, so that neighbours of one event stay on one side.
    """
    sources = [photos[row].source for row in rows]
    largest = max(sorted(set(sources)), key=sources.count)
    others = [row for row in rows if photos[row].source != largest]
    if len(others) >= 5:
        return [row for row in rows if photos[row].source == largest], others
    ordered = sorted(rows, key=lambda row: (photos[row].source, photos[row].origin))
    cut = len(ordered) - round(TEST_SHARE * len(ordered))
    return ordered[:cut], ordered[cut:]


def embed_photos(
    photos: Sequence[LabelledPhoto], embed: Embed, version: str, cache: Path, on_progress: Callable[[int, int], None]
) -> tuple[npt.NDArray[np.float32], list[int], dict[str, str]]:
    """Features (M, D) of the photos that can be read, their rows, and why each other one could not be.

    Kept in `cache` by content, so that only photos that are new there are embedded; `version` names what embeds.
    """
    stored: dict[str, npt.NDArray[np.float32]] = {}
    if cache.exists():
        try:
            stored = load_file(cache)
        except SafetensorError:
            cache.unlink()  # cut off while it was copied, say; it only saves time
    keys = [hashlib.sha256(version.encode() + photo.path.read_bytes()).hexdigest() for photo in photos]
    missing = sorted({key: row for row, key in enumerate(keys) if key not in stored}.values())
    unreadable: dict[str, str] = {}
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        try:
            features = embed([photos[row].path for row in batch])
            stored.update({keys[row]: feature for row, feature in zip(batch, features, strict=True)})
        except HomespunError:  # one of them; the others count
            for row in batch:
                try:
                    stored[keys[row]] = embed([photos[row].path])[0]
                except HomespunError as error:
                    unreadable[str(photos[row].path)] = str(error)
        on_progress(min(start + BATCH, len(missing)), len(missing))
    if missing:
        replace_file(cache, save({key: np.ascontiguousarray(row) for key, row in stored.items()}))
    rows = [row for row, key in enumerate(keys) if key in stored]
    if not rows:
        raise OptionError("none of the photos can be read")
    return np.stack([stored[keys[row]] for row in rows]), rows, unreadable
