"""`DataSet`: samples by number, given out in batches, in an order that can be taken up anywhere.

`Trainer.fit` asks for `batches(epoch=, start=, size=)` and `Trainer.evaluate` for `evaluation_batches(size=)`. What a
batch holds depends on seed, epoch and position alone: not on the number of workers, and not on what came before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Self

import numpy as np

from homespun.data.augment import Random, Transform
from homespun.data.mixing import Mixing, mixed
from homespun.data.order import Indices, chance, shuffled, split_by_class
from homespun.data.parallel import ordered_map
from homespun.errors import OptionError, ShapeError
from homespun.graph import Array

Sample = tuple[Array, Any]
Batch = tuple[Array, Array]
Augmentation = Transform | Mixing | Sequence[Transform | Mixing]

#: What chance is for: the samples' own transforms and the mixing of a batch draw from different streams.
_SAMPLE, _BATCH = 0, 1


class DataSet:
    """Base of data sets whose samples are read by number; a subclass says how (`read`).

    `augment`: transforms of single samples, in their order, and `MixUp` or `CutMix`. `shuffle` gives every epoch an
    order of its own. `workers` threads read and augment ahead, at most `prefetch` batches; 0 does all of it in the
    calling thread. `classes`: the names of the classes, where there are any.
    """

    def __init__(
        self,
        count: int,
        *,
        augment: Augmentation = (),
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 2,
        prefetch: int = 2,
        classes: Sequence[str] | None = None,
    ) -> None:
        check_options(workers, prefetch, seed)
        self.shuffle, self.seed, self.workers, self.prefetch = shuffle, seed, workers, prefetch
        self.classes = None if classes is None else tuple(classes)
        given = list(augment) if isinstance(augment, Sequence) else [augment]
        self.transforms: tuple[Transform, ...] = tuple(a for a in given if not isinstance(a, Mixing))
        self.mixings: tuple[Mixing, ...] = tuple(a for a in given if isinstance(a, Mixing))
        if sum(m.probability for m in self.mixings) > 1 + 1e-9 and len(self.mixings) > 1:
            raise OptionError("probabilities of mixup and cutmix add up to more than 1")
        self.numbers: Indices = np.arange(count)
        #: Called with the number of samples before a batch is given out. What it raises ends a fit between two steps.
        self.on_batch: Callable[[int], None] | None = None

    # -- what a subclass says -----------------------------------------------------------------------------------

    def read(self, number: int, random: Random | None) -> Sample | None:
        """Sample `number`, augmented if `random` is given; None leaves it out, which only evaluation allows."""
        raise NotImplementedError

    def key(self, number: int) -> str:
        """What identifies a sample, for splitting: numbers where there is nothing better."""
        return str(number)

    def label(self, number: int) -> int | None:
        """The class of a sample, if that is known without reading it."""
        return None

    def class_count(self) -> int:
        """The number of classes, which mixing needs."""
        if self.classes is None:
            raise OptionError("mixup and cutmix need to know the classes: pass classes=[names]")
        return len(self.classes)

    # -- what users call ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.numbers)

    def steps(self, size: int) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self) // size)

    def batches(self, *, epoch: int = 0, start: int = 0, size: int) -> Iterator[Batch]:
        """(x, y) batches of an epoch, from batch `start` on; x float32 (N, ...).

        y are labels (N,) or whatever the samples' targets are; with mixing, probabilities (N, classes).
        """
        self._check_size(size)
        read = partial(self._augmented, epoch)
        classes = self.class_count() if self.mixings else 0
        for at, (x, y) in enumerate(self._batched(read, self.numbers[self.order(epoch)][start * size :], size), start):
            if self.mixings:
                x, y = mixed(x, y, self.mixings, classes, chance(self.seed, epoch, at, _BATCH))
            yield x, y

    def evaluation_batches(self, *, size: int) -> Iterator[Batch]:
        """All samples in their own order, as they are: neither augmented nor mixed."""
        self._check_size(size)
        yield from self._batched(partial(self.read, random=None), self.numbers, size)

    def order(self, epoch: int) -> Indices:
        """The places of an epoch's samples in this set, in the order in which they come."""
        return shuffled(len(self), self.seed, epoch) if self.shuffle else np.arange(len(self))

    def in_order(self) -> Self:
        """The same samples, not shuffled."""
        other = copy.copy(self)
        other.shuffle = False
        return other

    def subset(self, numbers: Sequence[int] | Indices) -> Self:
        """A data set of some of the samples, by their places in this one."""
        other = copy.copy(self)
        other.numbers = self.numbers[np.asarray(numbers, np.int64)]
        return other

    def split(self, share: float = 0.2, seed: int = 0) -> tuple[Self, Self]:
        """(training, validation): `share` of each class is held back and not augmented; the same for the same seed.

        A class of one sample is only trained with. Samples added later hardly change where the others are.
        """
        labels = [self.label(int(n)) for n in self.numbers]
        train, held = split_by_class([self.key(int(n)) for n in self.numbers], labels, share, seed)
        return self.subset(train), self.subset(held).without_augmentation()

    def without_augmentation(self) -> Self:
        """The same samples as they are."""
        other = copy.copy(self)
        other.transforms, other.mixings = (), ()
        return other

    # -- inside -------------------------------------------------------------------------------------------------

    def _augmented(self, epoch: int, number: int) -> Sample | None:
        return self.read(number, chance(self.seed, epoch, number, _SAMPLE))

    def _batched(self, read: Any, numbers: Indices, size: int) -> Iterator[Batch]:
        samples = ordered_map(read, map(int, numbers), self.workers, self.prefetch * size)
        for batch in stacked((s for s in samples if s is not None), size):
            if self.on_batch is not None:
                self.on_batch(len(batch[0]))
            yield batch

    @staticmethod
    def _check_size(size: int) -> None:
        if size < 1:
            raise OptionError(f"a batch has at least 1 sample, not {size}")


def check_options(workers: int, prefetch: int, seed: int) -> None:
    """Raise `OptionError` for numbers that can't be."""
    if workers < 0 or prefetch < 1:
        raise OptionError(f"workers must be at least 0 and prefetch at least 1, not {workers} and {prefetch}")
    if seed < 0:
        raise OptionError(f"seed is {seed}; it must not be negative")


def stacked(samples: Iterable[Sample], size: int) -> Iterator[Batch]:
    """Batches of `size` samples, the last as many as are left. Raises `ShapeError` where shapes differ."""
    rest = iter(samples)
    while chunk := list(islice(rest, size)):
        shapes = {np.shape(x) for x, _ in chunk}
        if len(shapes) > 1:
            raise ShapeError(f"samples of one batch have different shapes: {', '.join(map(str, sorted(shapes)))}")
        yield np.stack([x for x, _ in chunk]), np.stack([np.asarray(y) for _, y in chunk])
