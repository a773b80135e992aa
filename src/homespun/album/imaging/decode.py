"""A file's bytes to an upright sRGB picture, no larger than needed, or a reason why not. Trusts nothing in the file.

Runs in a worker process with hard limits (`album.workers`); what can be refused cheaply is refused here before that.
"""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from homespun.album.imaging import colour
from homespun.album.imaging.kinds import readers_for
from homespun.album.imaging.metadata import Metadata, orientation, read_metadata
from homespun.album.imaging.photo import Limits, Unreadable

# Of a file that is cut short, this share of the rows must be there for a family to want to see it.
LEAST_SHARE_SHOWN = 0.5

_PLUGINS = {
    "AVIF": "Avif",
    "TIFF": "Tiff",
    "WEBP": "WebP",
    "TGA": "Tga",
    "PSD": "Psd",
    "QOI": "Qoi",
    "ICNS": "Icns",
    "ICO": "Ico",
    "SGI": "Sgi",
    "PCX": "Pcx",
    "JPEG2000": "Jpeg2K",
    "JPEG": "Jpeg",
    "PNG": "Png",
    "GIF": "Gif",
    "BMP": "Bmp",
    "PPM": "Ppm",
}
# These start so commonly that a file which then makes no sense is more likely no picture than a damaged one.
_WEAK_SIGNATURES = frozenset({"BMP", "SGI", "PCX", "ICO", "PPM", "TGA"})

# Bytes that decoding takes for a pixel of the full picture (measured, rounded up): the codec's planes, Pillow's copies.
_BYTES_PER_PIXEL = {"HEIF": 9, "AVIF": 10, "WEBP": 17, "JPEG2000": 21, "SGI": 9, "PSD": 9}
_BYTES_PER_PIXEL_ELSEWHERE = 8
_MORE_FOR_TRANSPARENCY = 4

_DNG_VERSION_TAG = 50706

_ORIENT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow refuses twice this on opening; what fits is decided here, by format, once the size is known (`_check_size`).
Image.MAX_IMAGE_PIXELS = Limits().pixels // 2

# Pillow keeps its tolerance for broken files in a global: within a process, pictures are decoded one at a time.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Need:
    """The least size that a decoded picture must keep (if it has it): pixels of its long and of its short side."""

    long_side: int
    short_side: int = 1

    def reduction(self, width: int, height: int) -> float:
        """How many times smaller (width, height) may become, 1 or more."""
        return max(1.0, min(max(width, height) / self.long_side, min(width, height) / self.short_side))


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB picture, perhaps reduced, with the full picture's upright size and what its metadata say."""

    image: Image.Image
    width: int
    height: int
    format: str
    metadata: Metadata
    damaged: bool


def decode(data: bytes, name: bytes, need: Need, limits: Limits, *, display_name: str = "") -> Decoded:
    """Decode the first picture of a file's bytes. `name` is the file's, `display_name` what its date is looked for in.

    Raises `Unreadable`: not_an_image, video, camera_raw, unsupported, damaged, truncated or too_large.
    """
    readers = readers_for(data[:4096], name)
    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on broken metadata
            try:
                return _decode(data, readers, need, limits, display_name)
            except (OSError, EOFError, SyntaxError, ValueError) as error:
                return _decode_what_is_there(data, readers, need, limits, display_name, error)
    except Unreadable:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise Unreadable("too_large", _say(error)) from error
    except Exception as error:  # decoders fed with hostile bytes raise anything; each means the same to people
        raise _reason_for(error, readers) from error


def _decode(
    data: bytes, readers: tuple[str, ...], need: Need, limits: Limits, display_name: str, *, tolerant: bool = False
) -> Decoded:
    image = _open(data, readers)
    width, height = image.size
    kind = image.format or readers[0]
    _check_size(image, kind, need, limits)
    if kind == "TIFF" and _DNG_VERSION_TAG in getattr(image, "tag_v2", {}):
        raise Unreadable("camera_raw")
    reduction = need.reduction(width, height)
    if kind in ("JPEG", "MPO"):
        # libjpeg scales by 1/2, 1/4 or 1/8 in the frequency domain; never below the size asked for here.
        image.draft(None, (int(width / reduction), int(height / reduction)))
    # Pillow reads the parts of a TIFF's EXIF from the file, which it lets go on loading; a PNG may end with its EXIF.
    metadata = None if kind == "PNG" else read_metadata(image, display_name)
    image.load()
    turn = orientation(image)
    metadata = metadata or read_metadata(image, display_name)
    picture = colour.make_reducible(image)
    rest = int(need.reduction(*picture.size))
    if rest > 1 and picture.mode in colour.REDUCIBLE:
        picture = picture.reduce(rest)
    picture = colour.to_srgb(picture, image.info.get("icc_profile"))
    if tolerant and (share := share_shown(picture)) < LEAST_SHARE_SHOWN:
        raise Unreadable("truncated", f"{share:.0%} of the picture is there")
    if turn in _ORIENT:
        picture = picture.transpose(_ORIENT[turn])
    if turn >= 5:
        width, height = height, width
    return Decoded(picture, width, height, "JPEG" if kind == "MPO" else kind, metadata, damaged=tolerant)


def _decode_what_is_there(
    data: bytes, readers: tuple[str, ...], need: Need, limits: Limits, display_name: str, first: Exception
) -> Decoded:
    """Second try for a file that is cut short or broken: whatever can be shown, if that is most of the picture."""
    if isinstance(first, Unreadable | UnidentifiedImageError | Image.DecompressionBombError):
        raise first
    if "JPEG" in readers:
        data += b"\xff\xd9"  # a JPEG that ends properly decodes to its end, a progressive one as far as it came
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(data, readers, need, limits, display_name, tolerant=True)
    except (Unreadable, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - the first error says more than what tolerance ran into
        raise first from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _open(data: bytes, readers: tuple[str, ...]) -> ImageFile.ImageFile:
    for reader in readers:
        if reader == "HEIF":
            _register_heif()
        else:
            importlib.import_module(f"PIL.{_PLUGINS[reader]}ImagePlugin")
    return Image.open(io.BytesIO(data), formats=readers)


def _register_heif() -> None:
    if "HEIF" not in Image.OPEN:
        import pillow_heif

        # One thread: the pool has a process per core already. Embedded previews may show an older version of a photo.
        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _check_size(image: Image.Image, kind: str, need: Need, limits: Limits) -> None:
    """Refuse what would not fit, before anything is decoded."""
    width, height = image.size
    pixels = width * height
    if pixels > limits.pixels:
        raise Unreadable("too_large", f"{width} x {height} pixels")
    if kind in ("JPEG", "MPO"):
        reduced = pixels / min(8.0, 2.0 ** (int(need.reduction(width, height)).bit_length() - 1)) ** 2
        needed = 8 * reduced
        if image.info.get("progressive") or image.info.get("progression"):
            # All coefficients (2 bytes each) are kept until the last scan.
            layers = [(across, down) for _, across, down, _ in getattr(image, "layer", [])] or [(1, 1)] * 3
            full = max(across for across, _ in layers) * max(down for _, down in layers)
            needed += 2 * pixels * sum(across * down for across, down in layers) / full
    else:
        each = _BYTES_PER_PIXEL.get(kind, _BYTES_PER_PIXEL_ELSEWHERE)
        transparent = image.mode.upper().endswith("A") or "transparency" in image.info
        needed = pixels * (each + transparent * _MORE_FOR_TRANSPARENCY)
    if needed > limits.memory:
        raise Unreadable("too_large", f"{width} x {height} pixels would take {needed / 1e6:,.0f} MB")


def share_shown(picture: Image.Image) -> float:
    """The share of an RGB picture's rows above the flat area that decoders leave where data was missing."""
    rows = np.asarray(picture)
    flat = (rows.max(axis=1).astype(int) - rows.min(axis=1) <= 2).all(axis=1)
    shown = np.flatnonzero(~flat)
    return 0.0 if shown.size == 0 else float(shown[-1] + 1) / len(rows)


def _reason_for(error: Exception, readers: tuple[str, ...]) -> Unreadable:
    message = _say(error)
    if isinstance(error, UnidentifiedImageError):
        return Unreadable("not_an_image" if readers[0] in _WEAK_SIGNATURES else "damaged", "its header makes no sense")
    if isinstance(error, NotImplementedError) or any(
        word in message.lower() for word in ("unsupported", "not supported", "not available")
    ):
        return Unreadable("unsupported", message)
    return Unreadable("truncated" if "truncated" in message.lower() else "damaged", message)


def _say(error: BaseException) -> str:
    """The decoder's own words, fit to be shown: short and printable."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return f"{type(error).__name__}: {' '.join(words.split())}"[:200]
