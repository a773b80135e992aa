"""One file to `PhotoData` or to a preview: read once, hashed, decoded from the same bytes.

This is all that a decode worker does; calling it in-process is the same without limits on time and memory.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from homespun.album.imaging.decode import Need, decode
from homespun.album.imaging.kinds import has_picture_name, readers_for
from homespun.album.imaging.photo import Limits, PhotoData, SeenBefore, Unreadable
from homespun.album.imaging.sizes import (
    MODEL_SHORT_SIDE,
    THUMBNAIL_LONG_SIDE,
    fit,
    model_input,
    thumbnail,
    to_jpeg,
)
from homespun.album.imaging.source import Source, read_source
from homespun.errors import OptionError

PREVIEW_QUALITY = 88
LARGEST_PREVIEW = 8192

Path = str | bytes | os.PathLike[str]

_FOR_THE_LIBRARY = Need(THUMBNAIL_LONG_SIDE, MODEL_SHORT_SIDE)


def read_photo(path: Path, limits: Limits | None = None) -> PhotoData:
    """Read everything that the album keeps of a photo's file. Raises `Unreadable` with the reason."""
    limits = limits or Limits.for_this_machine()
    with _told_by_name(path):
        return photo_from(_source(path, limits), path, limits)


def read_unless_seen(path: Path, seen: Collection[str], limits: Limits) -> PhotoData | SeenBefore:
    """`read_photo`, but a content whose hash is among `seen` is not decoded again."""
    with _told_by_name(path):
        source = _source(path, limits)
        if source.content_hash in seen:
            return SeenBefore(source.content_hash)
        return photo_from(source, path, limits)


def photo_from(source: Source, path: Path, limits: Limits) -> PhotoData:
    """What the album keeps of a file whose bytes are read. Raises `Unreadable`."""
    name = os.path.basename(os.fsencode(path))  # noqa: PTH119 - names may be in any encoding
    decoded = decode(source.data, name, _FOR_THE_LIBRARY, limits, display_name=os.fsdecode(name))
    return PhotoData(
        content_hash=source.content_hash,
        byte_size=len(source.data),
        mtime_ns=source.mtime_ns,
        width=decoded.width,
        height=decoded.height,
        taken=decoded.metadata.taken,
        latitude=decoded.metadata.latitude,
        longitude=decoded.metadata.longitude,
        camera=decoded.metadata.camera,
        format=decoded.format,
        thumbnail=thumbnail(decoded.image, (decoded.width, decoded.height)),
        pixels=model_input(decoded.image),
        damaged=decoded.damaged,
    )


def render(path: Path, long_side: int, limits: Limits | None = None) -> bytes:
    """A JPEG for a screen: upright, sRGB, its long side at most `long_side`, without any of the file's metadata.

    Raises `Unreadable`, and `OptionError` for a size outside 1 to 8192.
    """
    if not 1 <= long_side <= LARGEST_PREVIEW:
        raise OptionError(f"a preview's long side must be 1 to {LARGEST_PREVIEW} pixels, not {long_side}")
    limits = limits or Limits.for_this_machine()
    name = os.path.basename(os.fsencode(path))  # noqa: PTH119
    decoded = decode(_source(path, limits).data, name, Need(long_side), limits)
    return to_jpeg(fit(decoded.image, long_side, (decoded.width, decoded.height)), PREVIEW_QUALITY)


@contextmanager
def _told_by_name(path: Path) -> Iterator[None]:
    """Tells a file that holds no picture, and isn't called one, from a picture that went wrong."""
    try:
        yield
    except Unreadable as error:
        name = os.path.basename(os.fsencode(path))  # noqa: PTH119
        if error.reason in ("not_an_image", "empty") and not has_picture_name(name):
            raise Unreadable("other_kind") from error
        raise


def _source(path: Path, limits: Limits) -> Source:
    name = os.fsencode(path)
    return read_source(path, limits.file_bytes, lambda head: readers_for(head, name))
