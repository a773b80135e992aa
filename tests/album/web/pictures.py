"""A small family library for tests and screenshots: photos inside the scikit-image package, and painted landscapes.

Each photo of the package appears in a few framings, as photos of one subject do, with dates and places in EXIF.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

SOURCES = {
    "cat": ("chelsea.png", 6),
    "coffee": ("coffee.png", 6),
    "astronaut": ("astronaut.png", 4),
    "rocket": ("rocket.jpg", 4),
    "galaxies": ("hubble_deep_field.jpg", 3),
    "motorcycle": ("motorcycle_left.png", 4),
    "cameraman": ("camera.png", 2),
    "moon": ("moon.png", 2),
    "page": ("page.png", 2),
}
PLACES = {
    "cat": (48.2082, 16.3738),
    "coffee": (45.4642, 9.19),
    "rocket": (28.3922, -80.6077),
    "motorcycle": (39.9042, 116.4074),
}
_DATE_TAKEN, _EXIF, _GPS = 36867, 0x8769, 0x8825


@dataclass(frozen=True)
class Shot:
    """A picture of the library and what its file says of it."""

    name: str
    subject: str
    image: Image.Image
    taken: str
    place: tuple[float, float] | None


def shots(landscapes: int = 8, seed: int = 0) -> Iterator[Shot]:
    """All pictures, the same ones each time."""
    rng = np.random.default_rng(seed)
    day = 0
    for subject, (file, framings) in SOURCES.items():
        with resources.as_file(resources.files("skimage.data") / file) as path, Image.open(path) as opened:
            whole = opened.convert("RGB")
        for number in range(framings):
            day += 1
            date = f"{2019 + day % 6}:{day * 5 % 12 + 1:02d}:{day * 3 % 27 + 1:02d}"
            taken = f"{date} {9 + day % 10:02d}:{day * 7 % 60:02d}:00"
            yield Shot(f"{subject}-{number + 1}", subject, _framing(whole, number, rng), taken, PLACES.get(subject))
    for number in range(landscapes):
        taken = f"2018:{number % 12 + 1:02d}:12 18:{10 + number:02d}:00"
        yield Shot(f"hills-{number + 1}", "hills", landscape(rng), taken, (46.5197, 6.6323))


def write_library(folder: Path, landscapes: int = 8) -> list[Shot]:
    """Write all pictures as JPEG files with EXIF, one folder for each subject."""
    written = list(shots(landscapes))
    for shot in written:
        path = folder / shot.subject / f"{shot.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif.get_ifd(_EXIF)[_DATE_TAKEN] = shot.taken
        if shot.place is not None:
            exif.get_ifd(_GPS).update(_gps(*shot.place))
        shot.image.save(path, quality=90, exif=exif)
    return written


def _gps(latitude: float, longitude: float) -> dict[int, object]:
    def degrees(value: float) -> tuple[float, float, float]:
        minutes = abs(value) % 1 * 60
        return float(int(abs(value))), float(int(minutes)), round(minutes % 1 * 60, 2)

    return {
        1: "N" if latitude >= 0 else "S",
        2: degrees(latitude),
        3: "E" if longitude >= 0 else "W",
        4: degrees(longitude),
    }


def _framing(whole: Image.Image, number: int, rng: np.random.Generator) -> Image.Image:
    """The whole picture first, then closer, mirrored or brighter ones."""
    width, height = whole.size
    picture = whole
    if number:
        share = rng.uniform(0.68, 0.92)
        left, top = rng.uniform(0, 1 - share, 2) * (width, height)
        picture = whole.crop((int(left), int(top), int(left + width * share), int(top + height * share)))
        if number % 2:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.85, 1.15))
    scale = 1200 / max(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def landscape(rng: np.random.Generator, width: int = 1200, height: int = 800) -> Image.Image:
    """A painted evening: a sky, a sun and rows of hills that fade with distance."""
    sky_top, sky_low, hill = _PALETTES[int(rng.integers(len(_PALETTES)))]
    rows = np.linspace(0, 1, height)[:, None, None]
    pixels = np.array(sky_top) * (1 - rows) + np.array(sky_low) * rows + np.zeros((height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    sun = np.exp(
        -((((x - rng.uniform(0.2, 0.8) * width) ** 2 + (y - rng.uniform(0.3, 0.5) * height) ** 2) / (70.0**2)) ** 1.5)
    )
    pixels += sun[..., None] * (np.array([255, 240, 200]) - pixels)
    layers = 5
    for layer in range(layers):
        depth = (layer + 1) / layers
        crest = height * (0.42 + 0.13 * layer) - _ridge(rng, width) * height * 0.16
        colour = np.array(hill) * depth + np.array(sky_low) * 0.8 * (1 - depth)
        pixels = np.where((y > crest[None, :])[..., None], colour * (1 - 0.12 * (y / height)[..., None]), pixels)
    pixels += rng.normal(0, 3, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


_PALETTES = (
    ((38, 60, 110), (250, 170, 110), (26, 34, 48)),
    ((90, 150, 215), (225, 235, 240), (34, 74, 52)),
    ((120, 70, 130), (255, 190, 150), (52, 30, 60)),
    ((60, 120, 160), (240, 220, 170), (24, 58, 66)),
)


def _ridge(rng: np.random.Generator, width: int) -> npt.NDArray[np.float64]:
    x = np.linspace(0, 2 * np.pi, width)
    waves = [np.sin(x * f * rng.uniform(0.7, 1.3) + rng.uniform(0, 6.3)) / f for f in (1, 2, 4, 8, 16, 32)]
    return np.sum(waves, axis=0)
