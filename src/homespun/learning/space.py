"""The space that topics are learnt in: from a backbone's feature to a short unit vector of whole numbers.

Square root, unit length, centring, one projection and unit length again, all fixed when the built-in topics are made.
Coordinates of examples are rounded to a grid, so that sums of them are sums of integers: exact, whatever the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from homespun.errors import ShapeError

GRID = 1 << 20
"""Steps of the grid per unit. Coordinates are at most 1, so that sums of 2**42 examples are exact in 63 bits."""
BLOCK = 4096
"""Photos handled at a time, so that what lies between two steps stays in the processor's cache."""

Floats = npt.NDArray[np.float32]
Grid = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FeatureSpace:
    """Maps features (N, D) to coordinates (N, d) of unit length.

    `mean` (D,) float32 is subtracted from the unit vectors of square roots, which evens out how strongly channels
    respond (the Hellinger map; Arandjelovic and Zisserman 2012); `projection` (D, d) weighs what tells topics apart.
    """

    mean: Floats
    projection: npt.NDArray[np.float16] | Floats

    @classmethod
    def plain(cls, dimensions: int) -> FeatureSpace:
        """The space of an empty learner: no projection, every axis alike."""
        return cls(np.zeros(dimensions, np.float32), np.eye(dimensions, dtype=np.float32))

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
        """Coordinates (N, d) float32, of unit length, of features (N, D) of any floating type.

        Raises ShapeError when the features have another width or hold NaN or infinity.
        """
        rows = np.asarray(features)
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise ShapeError(f"features are {rows.shape}; expected (N, {self.dimensions})")
        out = np.empty((len(rows), self.rank), np.float32)
        for start in range(0, len(rows), BLOCK):  # in blocks: a library's float32 copy would be half a gigabyte
            block = rows[start : start + BLOCK]
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise ShapeError(f"feature {start + int(finite.argmin())} holds NaN or infinity")
            place = out[start : start + BLOCK]
            np.matmul(unit_roots(block), self._matrix, out=place)
            place -= self._offset
            place /= _lengths(place)
        return out

    def quantise(self, feature: npt.ArrayLike) -> Grid:
        """Coordinates (d,) int32, in steps of 1/GRID, of one feature (D,)."""
        row = np.asarray(feature)
        if row.ndim != 1:
            raise ShapeError(f"a feature is {row.shape}; expected ({self.dimensions},)")
        steps: Grid = np.rint(self.project(row[None])[0] * GRID).astype(np.int32)
        return steps


def unit_roots(features: npt.NDArray[np.floating]) -> Floats:
    """Signed square roots of features (N, D), each row of unit length."""
    block = features.astype(np.float32)
    root = np.sqrt(np.abs(block))
    np.copysign(root, block, out=root)
    root /= _lengths(root)
    return root


def _lengths(rows: Floats) -> Floats:
    squared: Floats = np.einsum("nd,nd->n", rows, rows)
    return np.maximum(np.sqrt(squared), np.float32(1e-12))[:, None]
