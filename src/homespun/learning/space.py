"""The space that topics are learnt in: from a backbone's feature to a short vector of whole numbers.

Square root, unit length, centring and one projection, all fixed when the built-in topics are made. Coordinates are
rounded to a grid, so that sums of them are sums of integers: exact, whatever the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from homespun.errors import ShapeError

GRID = 4096
"""Steps of the grid per unit. Coordinates have a spread of about one, so rounding costs 1/8000 of it."""
LIMIT = 128.0
"""Coordinates are clipped to this, so that any sum of 2**31 examples stays within 63 bits."""
_BLOCK = 4096

Floats = npt.NDArray[np.float32]
Grid = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FeatureSpace:
    """Maps features (N, D) to coordinates (N, d).

    `mean` (D,) float32 is subtracted from the unit vectors; `projection` (D, d) whitens what varies within a topic
    and turns the axes to where topics differ; `spread` (d,) float32 is the variance *between* topics along each
    axis, where the variance *within* one is 1.
    """

    mean: Floats
    projection: npt.NDArray[np.float16] | Floats
    spread: Floats

    @classmethod
    def plain(cls, dimensions: int) -> FeatureSpace:
        """The space of an empty learner: no projection, every axis alike."""
        scale = np.float32(np.sqrt(dimensions))
        return cls(
            np.zeros(dimensions, np.float32),
            np.eye(dimensions, dtype=np.float32) * scale,
            np.ones(dimensions, np.float32),
        )

    @property
    def dimensions(self) -> int:
        """D, the length of a feature."""
        return int(self.projection.shape[0])

    @property
    def rank(self) -> int:
        """d, the number of coordinates."""
        return int(self.projection.shape[1])

    @cached_property
    def _matrix(self) -> Floats:
        return np.ascontiguousarray(self.projection, np.float32)

    @cached_property
    def _offset(self) -> Floats:
        return np.asarray(self.mean @ self._matrix, np.float32)

    def project(self, features: npt.ArrayLike) -> Floats:
        """Coordinates (N, d) float32 of features (N, D) of any floating type.

        Raises ShapeError when the features have another width or hold NaN or infinity.
        """
        rows = np.asarray(features)
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise ShapeError(f"features are {rows.shape}; expected (N, {self.dimensions})")
        out = np.empty((len(rows), self.rank), np.float32)
        for start in range(0, len(rows), _BLOCK):  # in blocks: a library's float32 copy would be half a gigabyte
            block = rows[start : start + _BLOCK].astype(np.float32)
            root = np.sqrt(np.abs(block))
            root *= np.sign(block)
            norm = np.sqrt(np.einsum("nd,nd->n", root, root))[:, None]
            if not np.isfinite(norm).all():
                bad = start + int(np.flatnonzero(~np.isfinite(norm[:, 0]))[0])
                raise ShapeError(f"feature {bad} holds NaN or infinity")
            root /= np.maximum(norm, 1e-12)
            np.matmul(root, self._matrix, out=out[start : start + _BLOCK])
        out -= self._offset
        return out

    def quantise(self, feature: npt.ArrayLike) -> Grid:
        """Coordinates (d,) int32, in steps of 1/GRID, of one feature (D,)."""
        row = np.asarray(feature)
        if row.ndim != 1:
            raise ShapeError(f"a feature is {row.shape}; expected ({self.dimensions},)")
        coordinates = np.clip(self.project(row[None])[0], -LIMIT, LIMIT)
        steps: Grid = np.rint(coordinates * GRID).astype(np.int32)
        return steps
