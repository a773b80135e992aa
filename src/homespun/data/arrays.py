"""`Arrays` and `Samples`: data that is in memory, or that somebody else's object reads by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from homespun.data.augment import Random, augmented
from homespun.data.dataset import DataSet, Sample
from homespun.data.preprocessing import Preprocessing
from homespun.errors import OptionError, ShapeError
from homespun.graph import Array, Graph


class Readable(Protocol):
    """What gives a sample (x, y) for a number: a list of pairs, a PyTorch data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...


class Samples(DataSet):
    """Samples (x, y) of a sequence: anything with a length that gives a pair for a number, from several threads.

    x of pictures, uint8 (H, W, C), are normalised for the model `like`; other x are taken as float32. Options as
    `DataSet`.
    """

    def __init__(self, source: Readable, *, like: Graph | None = None, **options: Any) -> None:
        self.source = source
        self.preprocessing = None if like is None else Preprocessing.of(like)
        super().__init__(len(source), **options)

    def read(self, number: int, random: Random | None) -> Sample | None:
        """x float32 and y as it comes."""
        x, y = self.source[number]
        return prepared(np.asarray(x), self.transforms, random, self.preprocessing), y


class Arrays(DataSet):
    """x (N, ...) and y (N, ...): labels, probabilities, or any other targets.

    Pictures, uint8 (N, H, W, C), are normalised for the model `like`; other x are taken as float32. Labels are split by
    class. Options as `DataSet`. Raises `ShapeError` if x and y differ in length.
    """

    def __init__(self, x: Array, y: Array, *, like: Graph | None = None, **options: Any) -> None:
        self.x, self.y = np.asarray(x), np.asarray(y)
        if self.x.ndim == 0 or self.y.ndim == 0 or len(self.x) != len(self.y):
            raise ShapeError(f"x {list(self.x.shape)} and y {list(self.y.shape)} differ in their number of samples")
        self._labelled = self.y.ndim == 1 and np.issubdtype(self.y.dtype, np.integer)
        self.preprocessing = None if like is None else Preprocessing.of(like)
        super().__init__(len(self.x), **options)

    def read(self, number: int, random: Random | None) -> Sample | None:
        """x float32 and y as it is."""
        return prepared(self.x[number], self.transforms, random, self.preprocessing), self.y[number]

    def label(self, number: int) -> int | None:
        """The label, where y holds labels."""
        return int(self.y[number]) if self._labelled else None

    def class_count(self) -> int:
        """As the names say, else the columns of y, else one more than the largest label."""
        if self.classes is not None:
            return len(self.classes)
        return int(self.y.max()) + 1 if self._labelled else int(self.y.shape[-1])


def prepared(x: Array, transforms: Sequence[Any], random: Random | None, preprocessing: Preprocessing | None) -> Array:
    """A sample augmented, if there is chance for it, and normalised. Raises `OptionError` for other than pictures."""
    if random is not None and transforms:
        if x.ndim != 3:
            raise OptionError(f"samples of the shape {list(x.shape)} can't be augmented: no pictures (H, W, C)")
        x = augmented(x, transforms, random)
    if preprocessing is None:
        return x.astype(np.float32)
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if x.shape != expected:
        raise ShapeError(f"a picture is {list(x.shape)}, expected {list(expected)}")
    return preprocessing.apply(x)
