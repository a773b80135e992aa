"""From photos to features: the backbone that ships with the album, run by the engine.

The indexer calls `embed_pixels` with what the decoders made; learning and doubts work on the features alone. Features
of different `version`s can't be compared: photos are embedded again when it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

import homespun as hs
from homespun.errors import FormatError, ShapeError

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

ASSETS = Path(__file__).parent / "assets"
BACKBONE = "backbone.hsp"
#: Photos that run through the network at once.
BATCH = 8
#: Raise when `imaging.model_input`, or how pixels become the network's input, changes what features come out.
_PREPROCESSING = 2
_WEIGHTS = "int8"


class Embedder:
    """EfficientNet-Lite0 up to its pooled features. Safe to share between threads, which take turns."""

    def __init__(self, threads: int = 2, refined: Path | None = None) -> None:
        """Load the backbone: the one that ships, or a `refined` one from its file.

        Raises `FormatError` if a file is damaged, or not the one that was shipped.
        """
        path = refined or ASSETS / BACKBONE
        model = hs.load(path)
        version = version_of(path)
        self._side = int(model.tensors[model.inputs[0]].shape[1])
        self._network = hs.Predictor(model, batch=BATCH, weights=_WEIGHTS, threads=threads)
        self._mean, self._scale = _normalisation(model)
        self._input = np.empty((BATCH, self._side, self._side, 3), np.float32)
        self._lock = Lock()
        blank = np.zeros((1, self._side, self._side, 3), np.uint8)
        self.dimensions: int = self.embed_pixels(blank).shape[1]
        self.version: str = version

    def embed_pixels(self, pixels: Pixels) -> Features:
        """Features (N, dimensions), at least 0, of RGB pixels (N, 224, 224, 3)."""
        expected = (self._side, self._side, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            raise ShapeError(f"pixels are {pixels.dtype}{list(pixels.shape)}, expected uint8 (N, {expected})")
        parts = []
        with self._lock:
            for start in range(0, len(pixels), BATCH):
                chunk = pixels[start : start + BATCH]
                x = self._input[: len(chunk)]
                np.subtract(chunk, self._mean, out=x)
                np.multiply(x, 1 / self._scale, out=x)
                parts.append(self._network(x))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def embed(self, paths: Sequence[str | Path]) -> Features:
        """Features (N, dimensions) of photo files, decoded in this process one after the other.

        Raises `imaging.Unreadable`, with the reason, at the first file that can't be read.
        """
        from homespun.album.imaging import read_photo

        parts = []
        for start in range(0, len(paths), BATCH):
            photos = [read_photo(path).pixels for path in paths[start : start + BATCH]]
            parts.append(self.embed_pixels(np.stack(photos)))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)


def version_of(path: Path) -> str:
    """The name of the features that the network in a file makes. Raises `FormatError` for a changed asset."""
    shipped = path.parent == ASSETS
    checksum = verified_checksum(path) if shipped else hashlib.sha256(path.read_bytes()).hexdigest()
    return f"efficientnet-lite0-{checksum[:12]}-{_WEIGHTS}-{_PREPROCESSING}"


def network_input(pixels: Pixels, backbone: hs.Graph) -> Features:
    """What the network sees of RGB pixels (N, H, W, 3)."""
    mean, scale = _normalisation(backbone)
    x: Features = (pixels.astype(np.float32) - mean) * (1 / scale)
    return x


def _normalisation(model: hs.Graph) -> tuple[np.float32, np.float32]:
    mean, scale = (np.float32(model.metadata[key]) for key in ("input_mean", "input_scale"))
    return mean, scale


def verified_checksum(path: Path) -> str:
    """sha256 (hex) of an asset, after comparing it with `checksums.json`. Raises `FormatError` if they differ."""
    expected = json.loads((path.parent / "checksums.json").read_text("utf-8"))[path.name]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise FormatError(f"{path}: is not the file that was shipped (its checksum differs); install Homespun again")
    return found
