"""The sizes that the album makes of a photo: the thumbnail and the network's input. Nothing else decides on them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMBNAIL_LONG_SIDE = 480
THUMBNAIL_QUALITY = 82

MODEL_SIZE = 224
# What a reduced picture must keep on its short side for the network: a little more than it is given.
MODEL_SHORT_SIDE = 256


def model_input(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The network's input from an upright RGB picture of any size: uint8 (224, 224, 3).

    A picture that is not square is brought halfway to a square by leaving out the ends of its long side, and the rest
    of the way by squeezing it: 3:2 loses 18 % of its width rather than the 33 % of a square crop. On family photos,
    that gave more accurate topics, known and new, than cropping, squeezing or padding alone. Resampled once (bicubic,
    antialiased).
    """
    width, height = image.size
    kept = (width * height) ** 0.5  # of the long side: the geometric mean of both
    across, down = (kept, height) if width > height else (width, kept)
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    picture = image.resize((MODEL_SIZE, MODEL_SIZE), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(picture, dtype=np.uint8)


def fit(image: Image.Image, long_side: int, full_size: tuple[int, int] | None = None) -> Image.Image:
    """The picture with its long side at most `long_side`; never enlarged.

    `full_size` is that of the full picture where `image` was reduced already, for the exact proportions.
    """
    width, height = full_size or image.size
    scale = long_side / max(width, height)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def thumbnail(image: Image.Image, full_size: tuple[int, int] | None = None) -> bytes:
    """A JPEG with a long side of at most 480, without metadata, from an upright RGB picture; see `fit`."""
    return to_jpeg(fit(image, THUMBNAIL_LONG_SIDE, full_size), THUMBNAIL_QUALITY)


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """The picture as JPEG bytes, without any metadata."""
    stream = io.BytesIO()
    # Pillow writes what it finds in `info` (a comment, say): an empty one keeps what a camera wrote out of it.
    clean = image.copy()
    clean.info = {}
    clean.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
