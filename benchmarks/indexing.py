"""Indexing 12-megapixel JPEGs (decode, thumbnail, embed, store) beside a pipeline of Pillow and onnxruntime.

    python -m pip install -r benchmarks/requirements-peers.txt scikit-image
    python benchmarks/indexing.py             # prints a table; --json for machines

All sides index the same photos with the same number of threads, each in a process of its own, taking turns:

* homespun: a whole index run, as the command line does it (hash, date and place are read as well);
* plain: one photo after the other: Pillow decodes it in full, makes thumbnail and input; onnxruntime float32 embeds;
* plain, overlapped: the same with as many decoding threads as there are cores, embedding batches of 8 meanwhile;
* plain, overlapped and reduced: in addition, Pillow is told to decode at reduced size (`Image.draft`).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SIDES = {
    "homespun": "homespun",
    "plain": "Pillow + onnxruntime float32",
    "overlapped": "the same, decoding in threads",
    "reduced": "the same, decoding at reduced size",
}
PICTURES = ("astronaut", "coffee", "chelsea", "rocket")
BATCH = 8


def make_photos(folder: Path, count: int) -> None:
    """Photos of 4000 x 3000 pixels and some 3.5 MB, dated, from the pictures of scikit-image."""
    from PIL import Image
    from skimage import data

    rng = np.random.default_rng(0)
    for number in range(count):
        picture = Image.fromarray(getattr(data, PICTURES[number % len(PICTURES)])())
        left, top = rng.integers(0, picture.width // 8), rng.integers(0, picture.height // 8)
        box = (left, top, left + picture.width * 7 // 8, top + picture.height * 7 // 8)
        large = np.asarray(picture.resize((4000, 3000), Image.Resampling.BICUBIC, box=box)).astype(np.float32)
        large += rng.normal(0, 5, (3000, 4000, 1)).astype(np.float32)  # a sensor's noise, without which files are small
        exif = Image.Exif()
        exif[0x0132] = f"2024:01:{number % 28 + 1:02d} 12:00:00"
        image = Image.fromarray(large.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:04d}.jpg", "JPEG", quality=90, exif=exif)


def run_homespun(photos: Path, data: Path, threads: int) -> float:
    """Index the photos; the peak memory of the decode processes together, in MB."""
    from homespun.album.indexer import index
    from homespun.album.store import Store
    from homespun.album.vision import Embedder
    from homespun.album.workers import DecodePool

    with Store.open(data) as store, DecodePool(threads) as pool:
        report = index(store, [photos], Embedder(threads=threads), pool=pool)
        assert report.new == len(list(photos.iterdir())), report
        children = [
            child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
        ]
        return sum(peak_mb(child) for child in children)


def peak_mb(process: str = "self") -> float:
    """Most memory that a process ever held. (`getrusage` would begin with that of the process it was forked from.)"""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def run_plain(photos: Path, data: Path, threads: int, side: str) -> None:
    import onnxruntime
    from PIL import Image, ImageOps

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    most = 1 if side == "plain" else BATCH
    session = onnxruntime.InferenceSession(str(photos.parent / f"backbone-{most}.onnx"), options)
    name = session.get_inputs()[0].name
    database = sqlite3.connect(data / "plain.sqlite3")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE photo (path TEXT PRIMARY KEY, width, height, feature BLOB)")
    thumbnails = data / "thumbnails"
    thumbnails.mkdir()

    def read(path: Path) -> tuple[Path, tuple[int, int], bytes, np.ndarray]:
        image = Image.open(io.BytesIO(path.read_bytes()))
        size = image.size
        if side == "reduced":
            image.draft("RGB", (480, 360))
        image = ImageOps.exif_transpose(image).convert("RGB")
        small = image.resize((480, round(480 * image.height / image.width)), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=82)
        scale = 256 / min(image.size)
        middle = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (middle.width - 224) // 2, (middle.height - 224) // 2
        pixels = np.asarray(middle.crop((left, top, left + 224, top + 224)))
        return path, size, stream.getvalue(), pixels

    def store(batch: list[tuple[Path, tuple[int, int], bytes, np.ndarray]]) -> None:
        x = np.zeros((most, 224, 224, 3), np.float32)
        for place, (*_, pixels) in enumerate(batch):
            np.divide(pixels - np.float32(127), 128, out=x[place])
        features = session.run(None, {name: x})[0]
        for (path, size, thumbnail, _), feature in zip(batch, features, strict=False):
            (thumbnails / path.name).write_bytes(thumbnail)
            row = (str(path), *size, feature.astype(np.float16).tobytes())
            database.execute("INSERT INTO photo VALUES (?, ?, ?, ?)", row)
            database.commit()

    paths = sorted(photos.iterdir())
    if side == "plain":
        for path in paths:
            store([read(path)])
        return
    with ThreadPoolExecutor(threads) as pool:
        coming = [pool.submit(read, path) for path in paths[: 2 * BATCH]]
        for start in range(0, len(paths), BATCH):
            batch = [future.result() for future in coming[:BATCH]]
            ahead = paths[start + 2 * BATCH : start + 3 * BATCH]
            coming = coming[BATCH:] + [pool.submit(read, path) for path in ahead]
            store(batch)


def one_run(photos: Path, side: str, threads: int) -> dict[str, float]:
    """What this process does when it is started for one side."""
    with tempfile.TemporaryDirectory(dir=photos.parent) as data:
        started, used, children = time.perf_counter(), os.times(), 0.0
        if side == "homespun":
            children = run_homespun(photos, Path(data), threads)
        else:
            run_plain(photos, Path(data), threads, side)
        seconds, after = time.perf_counter() - started, os.times()
    busy = sum(after[:4]) - sum(used[:4])
    return {"seconds": seconds, "cpu_seconds": busy, "memory_mb": peak_mb() + children}


def measure(photos: Path, rounds: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Runs of every side, in turns; the first round only warms the disk's cache."""
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(rounds + 1):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--photos", str(photos), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            if turn:
                results[side].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="photos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one_run(options.photos, options.side, options.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        import homespun as hs
        from homespun.album.vision import ASSETS, BACKBONE
        from onnx_twin import write_onnx

        photos = Path(folder) / "photos"
        photos.mkdir()
        make_photos(photos, options.count)
        for batch in (1, BATCH):
            write_onnx(hs.load(ASSETS / BACKBONE), Path(folder) / f"backbone-{batch}.onnx", batch)
        results = measure(photos, options.rounds, options.threads)
    middle = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    for side, figures in middle.items():
        figures["photos_per_second"] = options.count / figures["seconds"]
        # Each round's own ratio, so that what else the machine does weighs on both.
        ratios = [run["seconds"] / own["seconds"] for run, own in zip(results[side], results["homespun"], strict=True)]
        figures["times_as_long"] = statistics.median(ratios)
    if options.json:
        print(json.dumps({"count": options.count, "threads": options.threads, "sides": middle}, indent=2))
        return
    print(f"{options.count} photos of 12 megapixels, {options.threads} threads, median of {options.rounds} rounds")
    for side, figures in middle.items():
        print(
            f"{SIDES[side]:38} {figures['photos_per_second']:6.1f} photos/s"
            f" {1000 * figures['cpu_seconds'] / options.count:6.0f} ms of CPU each"
            f" {figures['memory_mb']:6.0f} MB"
            f" {figures['times_as_long']:6.2f} times as long"
        )


if __name__ == "__main__":
    main()
