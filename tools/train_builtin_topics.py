"""Makes the album's built-in topics from a folder of labelled photos: what maintainers, or a TV maker, run.

    python tools/train_builtin_topics.py PHOTOS
    --topics FILE.json     which folders make a topic, and its names (default: builtin_topics_from.json here)
    --features FILE.npz    read features from there, or make the file if it isn't there yet: embedding takes minutes
    --check                write nothing; exit 1 if what would be written differs by more than rounding does

PHOTOS has a folder for each topic, and may have an index.csv with the columns file, topic, source, source_path. The
same photos give the same bytes on the same machine; on another, sums are rounded otherwise (see `differences`). What is
written holds sums over photos, never a photo.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homespun.learning import storage
from homespun.learning.calibration import expected_calibration_error
from homespun.learning.pretraining import BuiltinTopics, fit_builtin
from homespun.learning.space import GRID

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "homespun" / "album" / "assets"
CARD = ROOT / "docs" / "data-card.md"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Photo:
    """A photo to learn from, and where it came from."""

    path: Path
    folder: str
    source: str
    source_path: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--topics", type=Path, default=Path(__file__).with_name("builtin_topics_from.json"))
    parser.add_argument("--features", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table: dict[str, dict[str, str | list[str]]] = json.loads(options.topics.read_text("utf-8"))
    topic_of = {folder: key for key, row in table.items() for folder in row["folders"]}
    photos = find_photos(options.photos)
    missing = set(topic_of) - {photo.folder for photo in photos}
    if missing:
        sys.exit(f"{options.photos}: no photos in {', '.join(sorted(missing))}, which {options.topics} names")
    features, version = embed(photos, options.features)
    used = [index for index, photo in enumerate(photos) if photo.folder in topic_of]
    chosen = [photos[index] for index in used]
    topics = [topic_of[photo.folder] for photo in chosen]
    made = fit_builtin(features[used], topics, [f"{photo.source} {photo.source_path}" for photo in chosen])

    names = {key: {"en": table[key]["en"], "zh": table[key]["zh"]} for key in made.statistics}
    content = storage.encode(
        made.space, made.statistics, made.calibration, list(made.statistics), {}, {"features": version}
    )
    files = {
        ASSETS / "builtin_topics.safetensors": content,
        ASSETS / "builtin_topics.json": (json.dumps(names, ensure_ascii=False, indent=1) + "\n").encode(),
        CARD: data_card(made, table, chosen, topics, photos, topic_of, version).encode(),
    }
    checksums = ASSETS / "checksums.json"
    sums = json.loads(checksums.read_text("utf-8"))
    sums |= {path.name: hashlib.sha256(data).hexdigest() for path, data in files.items() if path.parent == ASSETS}
    files[checksums] = (json.dumps(dict(sorted(sums.items())), indent=2) + "\n").encode()
    if options.check:
        return check(files)
    for path, data in files.items():
        storage.replace_file(path, data)
        print(f"{path.relative_to(ROOT)}: {len(data):,} bytes")
    return 0


def check(files: dict[Path, bytes]) -> int:
    """1, with what differs printed, unless all files are there and hold these contents but for rounding."""
    found = []
    for path, data in files.items():
        if not path.exists():
            found.append(f"{path.relative_to(ROOT)} is missing")
        elif path.suffix == ".safetensors":
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / path.name
                made.write_bytes(data)
                found += [f"{path.name}: {each}" for each in differences(storage.read(path), storage.read(made))]
        elif path.name == "checksums.json":
            sums = json.loads(path.read_text("utf-8"))
            wrong = [name for name, digest in sums.items() if sha256(path.with_name(name)) != digest]
            found += [f"{path.name} has another checksum for {name}" for name in wrong]
        elif not same_words(path.read_text("utf-8"), data.decode()):
            found.append(f"{path.relative_to(ROOT)} differs")
    print("\n".join(found) if found else "as made from these photos")
    return 1 if found else 0


def differences(there: storage.Content, made: storage.Content) -> list[str]:
    """How two files of topics differ by more than the order in which processors add up explains.

    Features are the same everywhere (8-bit products add up exactly), but coordinates are float32 sums of 1280 products,
    which libraries add up in an order that depends on the instructions that there are. So a photo's coordinate may be
    one step of the grid away, or two, and a sum of photos as many steps for each (seen between AVX2 and AVX-512: 7 for
    131 photos); axes are rounded to half precision, 11 bits; calibration follows by about a millionth, and `vague` is
    searched for to a thousandth.
    """
    found = []
    if (there.topics, list(there.builtin)) != (made.topics, list(made.builtin)):
        return ["other topics"]
    if there.space.projection.shape != made.space.projection.shape:
        return ["a space of another shape"]
    if not np.allclose(there.space.mean, made.space.mean, rtol=0, atol=1e-6):
        found.append("the mean feature")
    if not np.allclose(there.space.projection, made.space.projection, rtol=2**-10, atol=2**-14):
        found.append("the axes")
    for name, topic in made.builtin.items():
        most = 2 * topic.count / GRID
        if there.builtin[name].count != topic.count or np.abs(there.builtin[name].total - topic.total).max() > most:
            found.append(f"the sum of {name}")
    old, new = there.calibration, made.calibration
    lines = np.allclose([old.best, old.other], [new.best, new.other], rtol=1e-4, atol=0)
    if not lines or old.typical != new.typical or abs(old.vague - new.vague) > 0.01 * new.vague:
        found.append(f"the calibration: {old} there, {new} made")
    return found


def same_words(there: str, made: str) -> bool:
    """Whether texts are alike, but that a number with decimals may be one off in its last place."""
    number = re.compile(r"\d+\.\d+")
    if number.split(there) != number.split(made):
        return False
    pairs = zip(number.findall(there), number.findall(made), strict=True)
    return all(len(a) == len(b) and abs(int(a.replace(".", "")) - int(b.replace(".", ""))) <= 1 for a, b in pairs)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_photos(root: Path) -> list[Photo]:
    """Photos under `root`, folder by folder, with what `index.csv` says of their sources."""
    rows = {}
    if (root / "index.csv").exists():
        with (root / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    found = []
    for path in sorted(root.glob("*/*")):
        if path.suffix.lower() in SUFFIXES:
            row = rows.get(path.name, {})
            found.append(Photo(path, path.parent.name, row.get("source", ""), row.get("source_path", path.name)))
    if not found:
        sys.exit(f"{root}: no photos; expected a folder for each topic")
    return found


def embed(photos: list[Photo], cache: Path | None) -> tuple[npt.NDArray[np.float32], str]:
    """Features (N, D) and the version of the backbone that made them."""
    names = np.array([f"{photo.folder}/{photo.path.name}" for photo in photos])
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            if not np.array_equal(stored["names"], names):
                sys.exit(f"{cache}: made from other photos; remove it to make it anew")
            return stored["features"], str(stored["version"])
    from homespun.album.vision import Embedder

    embedder = Embedder()
    parts = []
    for start in range(0, len(photos), 64):
        parts.append(embedder.embed([photo.path for photo in photos[start : start + 64]]))
        print(f"\r{min(start + 64, len(photos))} of {len(photos)} photos embedded", end="", flush=True)
    print()
    features = np.concatenate(parts)
    if cache is not None:
        np.savez(cache, features=features, names=names, version=embedder.version)
    return features, embedder.version


def data_card(
    made: BuiltinTopics,
    table: dict[str, dict[str, str | list[str]]],
    chosen: list[Photo],
    topics: list[str],
    photos: list[Photo],
    topic_of: dict[str, str],
    version: str,
) -> str:
    """What the topics were made from, how well each works on held-out photos, and where they are weak."""
    names = list(made.statistics)
    label = np.array([names.index(topic) for topic in topics])
    best = made.held_out.argmax(axis=1)
    inside = made.held_out > 0
    top = 1 / (1 + np.exp(-made.held_out.max(axis=1)))
    rows = []
    for index, key in enumerate(names):
        mine = label == index
        taken = inside[:, index]
        wrong = Counter(names[other] for other in best[mine & (best != index)]).most_common(1)
        sources = Counter(photo.source for photo, own in zip(chosen, mine, strict=True) if own)
        precision = f"{(label[taken] == index).mean():.2f}" if taken.any() else "none shown"
        note = str(table[key].get("weak", ""))
        cells = [
            f"{table[key]['en']} {table[key]['zh']}",
            str(mine.sum()),
            str(len(sources)),
            f"{(best[mine] == index).mean():.2f}",
            f"{taken[mine].mean():.2f}",
            precision,
            wrong[0][0] if wrong else "",
            note,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    left_out = Counter(photo.folder for photo in photos if photo.folder not in topic_of)
    sources = sorted({photo.source for photo in chosen if photo.source})
    error = expected_calibration_error(top.astype(np.float32), best == label)
    left = ", ".join(f"{folder} ({count})" for folder, count in sorted(left_out.items())) or "nothing"
    first = f"{100 * (best == label).mean():.1f}%"
    return f"""\
# Data card of the built-in topics

Written by `tools/train_builtin_topics.py`; don't edit it by hand.

`builtin_topics.safetensors` holds, for each of {len(names)} topics, how many photos it was made from and the sum of
their coordinates; the projection that makes coordinates of features; and the calibration of confidence. No photo, and
nothing that a photo can be made from again, is in it. Features: backbone `{version}`.

`builtin_exemplars.safetensors` holds maps of 20 of these photos for each topic, for [refining](refining.md): 7 x 7
cells of what the network makes of a photo before its last block, in 4 bits. It is no picture, but not nothing either.
A linear decoder, learnt from 746 other photos (each cell's 8 x 8 pixels from the 3 x 3 cells about it), makes of 150
photos pictures that correlate with the photos by 0.60 on average (14.6 dB): as much as a photo that is shrunk to
between 2 x 2 and 3 x 3 pixels (0.51, 15.1 dB; 0.64, 16.1 dB). One sees colours, where things are, and of a face that
fills the photo that it is one, not whose. The photo that such a picture came from is nearest to it, of the 150, in 53
of 100 cases. A decoder with more layers would get more; how much was not measured. Who has a photo can tell for
certain whether it is among the exemplars. So treat exemplars of your own photos, if you make any for a device that you
sell, as you would treat small pictures of them.

## What they were made from

{len(chosen)} photos in public repositories, gathered for development only:

{chr(10).join(f"* {source}" for source in sources)}

Left out, since too few or too mixed to make a topic that works: {left}.

## How well they work on held-out photos

Each photo was scored by topics that were made without it and its neighbours in the same source: {first} have the right
topic first, and the expected calibration error of that topic's confidence is {error:.3f}.
*First*: the topic is the photo's best one. *Shown*: the album would put the photo there. *Right*: share of the photos
that it puts there that belong there. In these folders each photo has one topic, so that a cake at a birthday counts as
wrong.

| topic | photos | sources | first | shown | right | most often mistaken for | weak where |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## Where they are weak

* **Topic and source are confounded.** Most topics come from one source, so that part of what was learnt is how that
  source takes pictures. The figures above are for the same sources; on others expect less.
* **Weddings are of few cultures.** On weddings of another culture most are missed until the family confirms some.
* **Labels are noisy**: about a quarter of the Christmas and family photos is off-topic.
* **Landscapes and streets were learnt from pictures 100 pixels wide**, and are mistaken for each other where one photo
  shows several (mountains with snow, streets with buildings).
* **Babies are mostly close-ups of faces.** Children beyond that age are in no topic of their own.
* People of all ages, skin colours and clothes are not evenly represented; nothing here tells people apart.
"""


if __name__ == "__main__":
    sys.exit(main())
