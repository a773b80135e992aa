"""What corrections and pages cost in a large library: seconds, and memory of the process that serves it.

    python benchmarks/corrections.py                      # 100,000 photos, a table; --json for machines

Photos are made up: features mixed from those of photos inside the scikit-image package, dates spread over twenty years,
no files. Measured is all that a correction does: log, labels, learning, scoring every photo, storing what moved.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.album import Album
from homespun.album.vision import Embedder

BACKBONE = "made-up"
PIECES = 8
BLOCK = 2000
BEGIN = datetime(2004, 1, 1)


def base_features() -> npt.NDArray[np.float32]:
    """Features of pieces of the photos inside the scikit-image package, (M, D)."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = Path(next(iter(find_spec("skimage").submodule_search_locations))) / "data"
    pieces = []
    for path in sorted([*folder.glob("*.jpg"), *folder.glob("*.png")]):
        picture = Image.open(path).convert("RGB")
        for _ in range(PIECES):
            side = int(min(picture.size) * rng.uniform(0.5, 1.0))
            left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
            piece = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
            pieces.append(np.asarray(piece, dtype=np.uint8))
    return Embedder().embed_pixels(np.stack(pieces))


def made_up_features(count: int) -> Iterator[npt.NDArray[np.float16]]:
    """Blocks of features: of two pieces each, the one showing through the other, and noise."""
    rng = np.random.default_rng(0)
    base = base_features()
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        first, second = base[rng.integers(0, len(base), (2, size))]
        share = rng.uniform(0.5, 1.0, (size, 1)).astype(np.float32)
        noise = rng.exponential(0.1, (size, base.shape[1])).astype(np.float32)
        yield (share * first + (1 - share) * second + noise).astype(np.float16)


def fill(folder: Path, count: int) -> None:
    """A library of `count` photos, written straight into its database."""
    minutes = 20 * 365 * 24 * 60 // count
    with Album(folder) as album:
        store = album._store
        store.set_setting("backbone", BACKBONE)
        photo_id = 0
        for block in made_up_features(count):
            photos, texts, files, features = [], [], [], []
            for vector in block:
                photo_id += 1
                taken = (BEGIN + timedelta(minutes=minutes * photo_id)).isoformat(timespec="seconds")
                path = f"/photos/{taken[:4]}/{taken[5:7]} holiday/IMG_{photo_id:06}.JPG"
                photos.append(
                    (photo_id, f"{photo_id:064x}", path.encode(), 4_000_000, 4032, 3024, "JPEG", taken, taken)
                )
                texts.append((photo_id, path.lower()))
                files.append((path.encode(), 4_000_000, photo_id, photo_id))
                features.append((photo_id, BACKBONE, vector.tobytes()))
            with store.transaction() as connection:
                connection.executemany(
                    "INSERT INTO photo (id, content_hash, path, byte_size, width, height, format, taken, sort_date, "
                    "added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
                    photos,
                )
                connection.executemany("INSERT INTO photo_text VALUES (?, ?)", texts)
                connection.executemany(
                    "INSERT INTO file (path, size, mtime_ns, inode, device, photo_id) VALUES (?, ?, 0, ?, 0, ?)", files
                )
                connection.executemany("INSERT INTO feature VALUES (?, ?, ?)", features)


Times = list[tuple[float, float]]


def timed(action: Callable[[], Any], times: int = 5) -> Times:
    """(seconds, seconds of CPU) of each of several calls; the second says what a busy machine added to the first."""
    seconds = []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        action()
        seconds.append((time.perf_counter() - began, time.process_time() - cpu))
    return seconds


def measure(folder: Path) -> dict[str, Times]:
    """Seconds of what a family does, by what it is."""
    rng = np.random.default_rng(1)
    results: dict[str, Times] = {}
    album: Album

    def open_it() -> None:
        nonlocal album
        album = Album(folder)
        album.prepare()

    results["open the album"] = timed(open_it, 1)
    total = album.status().photos
    keys = [topic.key for topic in album.topics()]
    moved: list[int] = []

    def some(count: int) -> list[int]:
        return [int(i) for i in rng.choice(total, count, replace=False) + 1]

    def correct(count: int, **says: Any) -> None:
        moved.append(album.correct(some(count), **says).moved_total)

    largest = max(album.topics(), key=lambda topic: topic.photos)
    found = iter(photo.id for photo in album.photos(topic=largest.key, sort="doubt").photos)
    results["this is not what it says"] = timed(
        lambda: moved.append(album.correct([next(found)], negative=[largest.key]).moved_total), 10
    )
    results["this is what it says"] = timed(
        lambda: moved.append(album.correct([next(found)], positive=[largest.key]).moved_total), 10
    )
    # Nonsense, which moves tens of thousands of photos at once: as bad as it gets.
    results["a random topic for a random photo"] = timed(lambda: correct(1, positive=[str(rng.choice(keys))]), 10)
    results["correct 20 photos"] = timed(lambda: correct(20, positive=[keys[0]], negative=[keys[1]]))
    results["none of these, 1 photo"] = timed(lambda: correct(1, none=True))
    results["undo"] = timed(lambda: album.undo())
    numbers = iter(range(100))
    results["add a topic from 5 photos"] = timed(lambda: album.add_topic(f"Ours {next(numbers)}", some(5)))
    results["answer a doubt"] = timed(lambda: album.answer_doubt(some(1)[0], keys[0], "no"))
    print(f"# moved: {moved}")
    results["topics"] = timed(lambda: album.topics())
    results["largest topic, first page"] = timed(lambda: album.photos(topic=largest.key))
    results["largest topic, last page"] = timed(lambda: album.photos(topic=largest.key, offset=largest.photos - 60))
    results["largest topic, by confidence"] = timed(lambda: album.photos(topic=largest.key, sort="confidence"))
    results["all photos, page at the middle"] = timed(lambda: album.photos(offset=total // 2))
    results["one year"] = timed(lambda: album.photos(date_from="2015", date_to="2015"))
    results["words"] = timed(lambda: album.photos(text="holiday 0999"))
    results["unsorted"] = timed(lambda: album.photos(topic="unsorted"))
    results["a photo"] = timed(lambda: album.photo(total // 2))
    results["its neighbours in the largest topic"] = timed(lambda: album.neighbours(total // 2, topic=largest.key))
    results["doubts"] = timed(lambda: album.doubts(), 3)
    results["timeline"] = timed(lambda: album.timeline())
    results["close the album"] = timed(lambda: album.close(), 1)
    print(f"# the largest topic has {largest.photos:,} photos")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--data", type=Path, help="keep the library here, or use the one that is here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if not (folder / "album.sqlite3").exists():
            # In a process of its own, so that the memory measured is that of serving.
            child = os.fork()
            if child == 0:
                fill(folder, options.photos)
                os._exit(0)
            os.waitpid(child, 0)
        results = measure(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.json:
        print(json.dumps({"photos": options.photos, "seconds": results, "peak_mb": peak}, indent=2))
        return
    print(f"{options.photos:,} photos; peak memory {peak:.0f} MB\n")
    print(f"{'milliseconds':40}{'median':>10}{'worst':>10}{'CPU':>10}")
    for name, times in results.items():
        wall, cpu = ([1000 * value for value in column] for column in zip(*times, strict=True))
        print(f"{name:40}{statistics.median(wall):10.1f}{max(wall):10.1f}{statistics.median(cpu):10.1f}")


if __name__ == "__main__":
    main()
