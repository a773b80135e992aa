"""What the frozen part of a model makes of a whole data set, kept in memory, so that it runs once for each sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from homespun.data import DataSet
from homespun.errors import OptionError
from homespun.graph import Array

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


class FeatureCache:
    """Features and targets of all samples of a `homespun.data` set, in the set's order.

    Takes the features' bytes for every sample: 5 KB for the head of a MobileNet, more the earlier training begins.
    """

    def __init__(self, trainer: Trainer, data: DataSet, batches: Iterable[tuple[Array, Array]]) -> None:
        """Run the frozen part over `batches`, which hold the samples of `data`, or nearly all, in their order."""
        self._data = data
        self._features: list[Array] = []
        self._targets = np.empty(0)
        done = 0
        for x, y in batches:
            found = trainer.features(x)
            if done == 0:
                self._features = [np.empty((len(data), *f.shape[1:]), f.dtype) for f in found]
                self._targets = np.empty((len(data), *y.shape[1:]), y.dtype)
            for kept, new in zip(self._features, found, strict=True):
                kept[done : done + len(y)] = new
            self._targets[done : done + len(y)] = y
            done += len(y)
        self._features = [f[:done] for f in self._features]
        self._targets = self._targets[:done]

    @classmethod
    def to_train_with(cls, trainer: Trainer, data: DataSet) -> Self:
        """Every sample of `data`. Raises `OptionError` for data that is augmented."""
        if data.transforms or data.mixings:
            raise OptionError("features of augmented data can't be kept: each epoch has pictures of its own")
        return cls(trainer, data, data.in_order().batches(size=trainer.batch))

    @classmethod
    def to_evaluate_with(cls, trainer: Trainer, data: DataSet) -> Self:
        """The samples that evaluation looks at."""
        return cls(trainer, data, data.evaluation_batches(size=trainer.batch))

    def batches(self, *, epoch: int, start: int, size: int) -> Iterator[tuple[list[Array], Array]]:
        """(features, targets) of an epoch's batches, from batch `start` on, shuffled as the set is."""
        order = self._data.order(epoch)
        for i in range(start * size, len(order), size):
            places = order[i : i + size]
            yield [f[places] for f in self._features], self._targets[places]

    def evaluation_batches(self, *, size: int) -> Iterator[tuple[list[Array], Array]]:
        """(features, targets) in the set's own order."""
        for i in range(0, len(self._targets), size):
            yield [f[i : i + size] for f in self._features], self._targets[i : i + size]
