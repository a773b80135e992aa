"""Makes the album's exemplars of the built-in topics from the folder of labelled photos that those were made from.

    python tools/build_exemplars.py PHOTOS
    --each N      exemplars of a topic (default: 20)
    --check       write nothing; exit 1 if a byte would differ

Run it after `tools/train_builtin_topics.py`, and again when the backbone changes. The same photos give the same bytes
on the same machine. What is written are maps before the network's last block, 7 x 7 cells in 4 bits, never a picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

import homespun as hs
from homespun.album.imaging import read_photo
from homespun.album.vision import BACKBONE, Embedder, network_input
from homespun.learning import TopicLearner
from homespun.learning.exemplars import BITS, SHIPPED, Exemplars, chosen
from homespun.learning.storage import replace_file
from homespun.learning.tail import Maps, Tail
from train_builtin_topics import ASSETS, find_photos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--topics", type=Path, default=Path(__file__).with_name("builtin_topics_from.json"))
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table: dict[str, dict[str, list[str]]] = json.loads(options.topics.read_text("utf-8"))
    photos = find_photos(options.photos)
    learner, embedder, backbone = TopicLearner.builtin(), Embedder(), hs.load(ASSETS / BACKBONE)
    trunk = hs.Predictor(Tail(backbone).trunk(), batch=8, weights="int8")
    maps, topics = [], []
    for key in learner.topics:
        paths = [photo.path for photo in photos if photo.folder in table[key]["folders"]]
        coordinates = learner.prepare(embedder.embed(paths)).matrix
        for row in chosen(coordinates, options.each):
            maps.append(trunk(network_input(read_photo(paths[row]).pixels[None], backbone))[0])
            topics.append(key)
        print(f"{key}: {min(options.each, len(paths))} of {len(paths)}", flush=True)
    content = Exemplars(Maps.of(np.stack(maps), BITS), tuple(topics), embedder.version).encode()
    if options.check:
        same = SHIPPED.exists() and SHIPPED.read_bytes() == content
        print(f"{SHIPPED.name} {'is as built' if same else 'differs'}")
        return 0 if same else 1
    replace_file(SHIPPED, content)
    checksums = ASSETS / "checksums.json"
    sums = json.loads(checksums.read_text("utf-8")) | {SHIPPED.name: hashlib.sha256(content).hexdigest()}
    replace_file(checksums, (json.dumps(dict(sorted(sums.items())), indent=2) + "\n").encode())
    print(f"{SHIPPED.name}: {len(content):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
