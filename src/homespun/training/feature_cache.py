"""What the frozen part of a model makes of a whole data set, kept in memory, so that it runs once for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.data import DataSet
from homespun.errors import OptionError
from homespun.graph import Array

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


class FeatureCache:
    """Features of the samples of a `homespun.data` set by their places; epochs are shuffled as the set's own.

    Takes the features' bytes for every sample: 5 KB for the head of a MobileNet, more the earlier training begins.
    """

    def __init__(self, trainer: Trainer, data: DataSet) -> None:
        """Run the frozen part over all samples. Raises `OptionError` for data that is augmented."""
        if data.transforms or data.mixings:
            raise OptionError("features of augmented data can't be kept: each epoch has pictures of its own")
        self._data = data
        self._features: list[Array] = []
        self._targets = np.empty(0)
        done = 0
        for x, y in data.in_order().batches(size=trainer.batch):
            found = trainer.features(x)
            if done == 0:
                self._features = [np.empty((len(data), *f.shape[1:]), f.dtype) for f in found]
                self._targets = np.empty((len(data), *y.shape[1:]), y.dtype)
            for kept, new in zip(self._features, found, strict=True):
                kept[done : done + len(y)] = new
            self._targets[done : done + len(y)] = y
            done += len(y)

    def batches(self, epoch: int, start: int, size: int) -> Iterator[tuple[list[Array], Any]]:
        """(features, targets) of an epoch's batches, from batch `start` on."""
        order = self._data.order(epoch)
        for i in range(start * size, len(order), size):
            places = order[i : i + size]
            yield [f[places] for f in self._features], self._targets[places]
