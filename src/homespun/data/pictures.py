"""A picture file to pixels: decoded no larger than needed, turned upright, cut, scaled. The only user of Pillow here.

Cutting comes before decoding, so that a JPEG of 12 megapixels is decoded at an eighth of its size where that is enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.errors import FormatError, MissingPackageError
from homespun.graph import Array

if TYPE_CHECKING:
    from PIL.Image import Image

#: Left, top, right, bottom, in pixels of the upright picture.
Box = tuple[float, float, float, float]
#: From (width, height) of the upright picture to what is cut out of it.
Framing = Callable[[int, int], Box]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
    | {".heic", ".heif"}
)
#: Largest picture that is decoded, after what its format can reduce while decoding: some 250 MB.
LARGEST_PIXELS = 64_000_000
_ORIENTATION_TAG = 0x0112
#: EXIF orientation -> how the stored picture differs from the upright one: rows and columns exchanged; mirrored left to
#: right, and top to bottom, as it is stored.
_TURNED = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def picture_files(folder: Path) -> list[Path]:
    """Files in a folder, and in those in it, that are named like pictures, in order; hidden files are none."""
    below = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sorted(p for p in below if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def read_pixels(path: str | Path, height: int, width: int, channels: int = 3, framing: Framing | None = None) -> Array:
    """Pixels (height, width, channels), uint8, of what `framing` cuts out (by default `whole_picture`).

    EXIF orientation is followed, transparency is laid over white, the first picture of several is taken. Raises
    `FormatError`, with the file's name and the reason, if it can't be read.
    """
    cut = framing or whole_picture
    pixels: Array = _guarded(Path(path), lambda image: _pixels(image, height, width, channels, cut))
    return pixels


def check_header(path: str | Path) -> None:
    """Raise `FormatError` if a file's beginning is not that of a picture that can be read."""
    _guarded(Path(path), lambda image: None)


def whole_picture(width: int, height: int) -> Box:
    """Halfway to a square by leaving out the ends of the long side; scaling does the rest of the way by squeezing.

    A picture of 3:2 loses 18 % of its width rather than the 33 % of a square cut.
    """
    kept = (width * height) ** 0.5
    across, down = (kept, height) if width > height else (width, kept)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


@lru_cache(maxsize=1)
def _pillow() -> Any:
    """Pillow's `Image` module; HEIC too where pillow-heif is installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingPackageError("reading pictures needs Pillow: pip install 'homespun[images]'") from None
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        return Image
    register_heif_opener()
    return Image


def _guarded(path: Path, work: Callable[[Image], Any]) -> Any:
    """What `work` makes of the opened file; whatever decoders raise on it becomes one `FormatError`."""
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            return work(image)
    except pillow.UnidentifiedImageError:
        size = path.stat().st_size
        what = "the file is empty" if size == 0 else f"not a picture in a format that {_known()} can read"
        raise FormatError(f"{path}: {what}") from None
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file") from None
    except (MemoryError, pillow.DecompressionBombError) as error:
        raise FormatError(f"{path}: too large to decode ({error})") from None
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except Exception as error:
        raise FormatError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "the file is cut short" if "truncated" in text.lower() else f"can't be decoded ({text})"


def _known() -> str:
    try:
        import pillow_heif  # noqa: F401
    except ModuleNotFoundError:
        return "Pillow (HEIC needs the package pillow-heif)"
    return "Pillow"


def _pixels(image: Image, height: int, width: int, channels: int, framing: Framing) -> Array:
    turned = _orientation(image)
    swapped, mirrored, upside_down = _TURNED[turned]
    full = image.size[::-1] if swapped else image.size
    left, top, right, bottom = framing(*full)
    box = (left / full[0], top / full[1], right / full[0], bottom / full[1])  # as shares, of the upright picture
    if swapped:
        box, (width, height) = (box[1], box[0], box[3], box[2]), (height, width)
    if mirrored:
        box = (1 - box[2], box[1], 1 - box[0], box[3])
    if upside_down:
        box = (box[0], 1 - box[3], box[2], 1 - box[1])
    scale = min((box[2] - box[0]) * image.width / width, (box[3] - box[1]) * image.height / height)
    if scale > 1:
        image.draft(None, (round(image.width / scale), round(image.height / scale)))  # JPEG: at 1/2, 1/4 or 1/8
    if image.width * image.height > LARGEST_PIXELS:
        raise FormatError(f"{image.width}x{image.height} pixels are more than can be decoded ({LARGEST_PIXELS:,})")
    picture = _plain(image, "RGB" if channels == 3 else "L")
    across, down = picture.size
    cut = (max(0.0, box[0] * across), max(0.0, box[1] * down), min(box[2], 1) * across, min(box[3], 1) * down)
    small = picture.resize((width, height), _pillow().Resampling.BICUBIC, box=cut, reducing_gap=2.0)
    pixels = np.asarray(small, np.uint8).reshape(height, width, channels)
    pixels = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if swapped else pixels)


def _orientation(image: Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  (broken metadata are no reason to refuse a picture)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _plain(image: Image, mode: str) -> Image:
    """Any of Pillow's modes as RGB or L."""
    if image.mode in _SIXTEEN_BIT or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        straight = image.convert("RGBA")
        white = _pillow().new("RGBA", straight.size, (255, 255, 255, 255))
        image = _pillow().alpha_composite(white, straight)
    return image if image.mode == mode else image.convert(mode)


def _eight_bit(image: Image) -> Image:
    """8-bit grey of 16-bit, 32-bit or floating-point grey, whose white is the least usual one that holds all values."""
    values = np.asarray(image).astype(np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 4095.0, 65535.0)
    high = float(values.max(initial=0.0))
    white = next((w for w in whites if high <= w), high)
    return _pillow().fromarray((values * (255.0 / white)).round().clip(0, 255).astype(np.uint8))  # type: ignore[no-any-return]
