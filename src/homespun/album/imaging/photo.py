"""What reading a file gives: `PhotoData`, or `Unreadable` with a reason, within `Limits`. All of it is pickled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from homespun.album.errors import PhotoError
from homespun.album.imaging.reasons import REASONS

MEBIBYTE = 1 << 20


class Unreadable(PhotoError):  # noqa: N818 - reads as what it says of the file
    """A file that the album can't show: `reason` is a code of `imaging.reasons`, `detail` is for the curious."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; imaging/reasons.py lists them")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        sentence = REASONS[self.reason].english
        return f"{sentence} ({self.detail})" if self.detail else sentence


@dataclass(frozen=True, slots=True)
class PhotoData:
    """Everything that the album keeps of one file, read once.

    `width` and `height` are the full picture's, after orientation. `taken` is local time, ISO 8601 with seconds and no
    zone. `thumbnail` is a JPEG with a long side of at most 480. `pixels` is the network's input, uint8 (224, 224, 3).
    `damaged` says that the file is cut short but shows enough to be worth keeping.
    """

    content_hash: str
    byte_size: int
    mtime_ns: int
    width: int
    height: int
    taken: str | None
    latitude: float | None
    longitude: float | None
    camera: str | None
    format: str
    thumbnail: bytes
    pixels: npt.NDArray[np.uint8]
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class SeenBefore:
    """A file whose content the caller already has: hashed, not decoded."""

    content_hash: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one photo may cost. `seconds` is enforced by the worker pool, the rest by the reader.

    `memory` (bytes) bounds what decoding may take: pictures that need more are refused before they are decoded, and a
    worker process gets a hard limit of this much above what it starts with. `file_bytes` bounds the file itself and
    `pixels` the full picture, however small it is decoded.
    """

    seconds: float = 30.0
    memory: int = 1024 * MEBIBYTE
    file_bytes: int = 384 * MEBIBYTE
    pixels: int = 400_000_000

    @classmethod
    @cache
    def for_this_machine(cls) -> Limits:
        """Limits that leave room for everything else: an eighth of the memory a photo, within 256 MB and 1 GB.

        A quarter of a gigabyte still decodes a 200-megapixel baseline JPEG, which is read at reduced size.
        """
        try:
            physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            physical = 8 * 1024 * MEBIBYTE
        memory = min(max(physical // 8, 256 * MEBIBYTE), 1024 * MEBIBYTE)
        return cls(memory=memory, file_bytes=memory * 3 // 8)
