"""Folders of small pictures that the tests of data share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


def picture(colour: tuple[int, int, int], width: int, height: int, seed: int) -> Image.Image:
    """A colour with noise and a slope, so that cuts and flips show."""
    random = np.random.default_rng(seed)
    slope = np.linspace(-40, 40, width)[None, :, None]
    pixels = np.array(colour) + slope + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def folder(root: Path, each: int = 7, sizes: tuple[tuple[int, int], ...] = ((64, 48), (40, 60), (50, 50))) -> Path:
    """`root`/COLOUR/N.jpg, some of them deeper, some PNG."""
    for c, (name, colour) in enumerate(COLOURS.items()):
        for i in range(each):
            inner = root / name / "more" if i % 3 == 2 else root / name
            inner.mkdir(parents=True, exist_ok=True)
            suffix = ".PNG" if i % 4 == 3 else ".jpg"
            picture(colour, *sizes[i % len(sizes)], 100 * c + i).save(inner / f"{i}{suffix}")
    return root
