"""Pictures that the album's tests make for themselves: recognisable, in any format, with any EXIF, whole or broken."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """Another colour in each corner and a gradient throughout: no rotation or reflection of it is itself."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 200 // width + 20, y * 200 // height + 20, np.full_like(x, 90)], axis=-1)
    h, w = height // 3, width // 3
    pixels[:h, :w] = (220, 20, 20)
    pixels[:h, -w:] = (20, 200, 20)
    pixels[-h:, :w] = (20, 20, 220)
    return Image.fromarray(pixels.astype(np.uint8))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with detail in every row, smooth enough to survive JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_photo(path: Path, seed: int = 0, *, size: tuple[int, int] = (160, 120), **options: Any) -> Path:
    """A JPEG of its own for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(*size, seed=seed), **options))
    return path


def exif(root: dict[int, Any] | None = None, details: dict[int, Any] | None = None, gps: dict[int, Any] | None = None):
    block = Image.Exif()
    for tag, value in (root or {}).items():
        block[tag] = value
    if details:
        block.get_ifd(0x8769).update(details)
    if gps:
        block.get_ifd(0x8825).update(gps)
    return block


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """A greyscale PNG put together by hand, so that its header can lie."""
    if pixels is None:
        pixels = zlib.compress(b"".join(b"\0" + bytes(column % 256 for column in range(width)) for _ in range(height)))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body
