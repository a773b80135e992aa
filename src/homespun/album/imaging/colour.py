"""Any pixel format to sRGB, 8 bits a channel: profiles, CMYK, Lab, 16 bits, floats, palettes, and alpha over white.

Works on pictures that are already reduced where that is possible, so that a profile costs little.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

# Modes that Pillow can scale down without conversion. Palette indices and 1-bit pixels can't be averaged.
REDUCIBLE = frozenset({"L", "RGB", "RGBA", "LA", "RGBa", "La", "CMYK", "YCbCr", "I", "F", "RGBX"})

ROWS_AT_ONCE = 256

_SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})


def make_reducible(image: Image.Image) -> Image.Image:
    """The picture in a mode that can be scaled down, with transparency kept."""
    if image.mode in _SIXTEEN_BIT:
        return _from_array(image, _stretch(np.asarray(image)))
    if image.mode in ("P", "PA", "1", "L", "RGB") and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode == "P":
        return image.convert("RGB")
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB picture as a screen shows it, from any mode that `make_reducible` returns.

    A profile that can't be used is left out of account: slightly wrong colours are better than no photo.
    """
    if image.mode in ("I", "F"):
        image = _from_array(image, _stretch(np.asarray(image)))
    elif image.mode in ("RGBA", "LA", "RGBa", "La"):
        image = _over_white(image)
    elif image.mode == "LAB":
        return _apply(image, _lab_to_srgb()) or image.convert("L").convert("RGB")
    if profile and image.mode in ("RGB", "L", "CMYK"):
        transform = _transform_from(profile, image.mode)
        if transform is not None and (converted := _apply(image, transform)) is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    straight = image.convert("RGBA") if image.mode != "RGBA" else image
    white = Image.new("RGB", straight.size, (255, 255, 255))
    white.paste(straight, mask=straight.getchannel("A"))
    return white


def _stretch(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """8-bit values of whole numbers or floats whose white is not told: the least usual one that holds them all.

    Floats are in 0 to 1 as a rule; whole numbers have 8, 12 (scanners) or 16 bits.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low = min(0.0, float(values.min()))
    high = float(values.max()) - low
    whites = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 4095.0, 65535.0)
    white = next((white for white in whites if high <= white), high)
    eight_bit = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS_AT_ONCE):  # as float32 the whole of a large scan would not fit
        numbers = values[top : top + ROWS_AT_ONCE].astype(np.float32) - np.float32(low)
        eight_bit[top : top + ROWS_AT_ONCE] = (numbers * np.float32(255.0 / white)).round().clip(0, 255)
    return eight_bit


def _from_array(image: Image.Image, values: npt.NDArray[np.uint8]) -> Image.Image:
    grey = Image.fromarray(values)
    grey.info = dict(image.info)
    return grey


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image | None:
    try:
        return ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, ValueError, OSError):
        return None


# A family's photos come from a few cameras: building a transform costs as much as applying it to thirty pictures.
@lru_cache(maxsize=32)
def _transform_from(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What takes a picture of `mode` from its profile to sRGB; None where the profile is sRGB already, or unusable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, ValueError, OSError, TypeError):
        return None


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
