"""Features and photos that the tests of learning make themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
DIMENSIONS = 32


def gaussian_topics(topics: int, each: int, seed: int = 0, spread: float = 0.35) -> tuple[Floats, list[str]]:
    """Features (topics * each, DIMENSIONS), at least 0 as a backbone's are, around one centre for each topic."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 2, (topics, DIMENSIONS)) * (random.random((topics, DIMENSIONS)) < 0.5)
    rows = np.repeat(centres, each, axis=0) + spread * random.normal(size=(topics * each, DIMENSIONS))
    return np.maximum(rows, 0).astype(np.float32), [f"t{topic}" for topic in range(topics) for _ in range(each)]


def write_photos(root: Path, topics: Sequence[str], each: int, seed: int = 0) -> None:
    """`root`/TOPIC/*.png: noise around a colour and a stripe that tell topics apart."""
    random = np.random.default_rng(seed)
    for topic in topics:
        (root / topic).mkdir(parents=True)
        look = np.random.default_rng(sum(map(ord, topic))).uniform(100, 155, (2, 2, 3))
        for number in range(each):
            pixels = np.kron(look, np.ones((4, 4, 1))) + random.normal(0, 30, (8, 8, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(root / topic / f"{topic}_{number:02}.png")


def toy_embed(paths: Sequence[Path]) -> Floats:
    """A backbone for tests: 4 x 4 pixels and their complement, (N, 96)."""
    rows = []
    for path in paths:
        with Image.open(path) as image:
            small = np.asarray(image.convert("RGB").resize((4, 4)), np.float32).ravel() / 255
        rows.append(np.concatenate([small, 1 - small]))
    return np.stack(rows)
