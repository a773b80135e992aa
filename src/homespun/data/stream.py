"""`Stream`: samples that only come one after the other, as from a file that is read along, or a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from homespun.data.arrays import prepared
from homespun.data.augment import Transform
from homespun.data.dataset import Batch, Sample, check_options, stacked
from homespun.data.order import chance
from homespun.data.parallel import ordered_map
from homespun.data.preprocessing import Preprocessing
from homespun.errors import OptionError
from homespun.graph import Graph

Source = Iterable[Sample] | Callable[[int], Iterable[Sample]]


class Stream:
    """Samples (x, y) of an iterable that can be gone through again, or of a function from the epoch to an iterable.

    The order is the source's; it must be the same each time (for the same epoch). Going on in the middle of an epoch
    means reading past what was done, without augmenting it. `shuffle_buffer` samples are held back and given out in
    random order. Other options as `Samples` has them. Raises `OptionError` for an iterator, which is used up after one
    epoch.
    """

    def __init__(
        self,
        source: Source,
        *,
        augment: Transform | Sequence[Transform] = (),
        shuffle_buffer: int = 0,
        seed: int = 0,
        workers: int = 2,
        prefetch: int = 2,
        like: Graph | None = None,
    ) -> None:
        if isinstance(source, Iterator):
            raise OptionError(
                "an iterator is used up after one epoch: pass a function that makes one (lambda epoch: ...)"
            )
        check_options(workers, prefetch, seed)
        if shuffle_buffer < 0:
            raise OptionError(f"shuffle_buffer is {shuffle_buffer}; it must not be negative")
        self.source, self.shuffle_buffer, self.seed = source, shuffle_buffer, seed
        self.workers, self.prefetch = workers, prefetch
        self.transforms = tuple(augment) if isinstance(augment, Sequence) else (augment,)
        self.preprocessing = None if like is None else Preprocessing.of(like)

    def batches(self, *, epoch: int = 0, start: int = 0, size: int) -> Iterator[Batch]:
        """(x, y) batches of an epoch, from batch `start` on."""
        numbered = enumerate(self._samples(epoch))
        order = _shuffled(numbered, self.shuffle_buffer, self.seed, epoch) if self.shuffle_buffer else numbered
        later = islice(order, start * size, None)
        yield from stacked(
            ordered_map(partial(self._augmented, epoch), later, self.workers, self.prefetch * size), size
        )

    def evaluation_batches(self, *, size: int) -> Iterator[Batch]:
        """All samples of epoch 0 in the source's order, not augmented."""
        plain = ((prepared(np.asarray(x), (), None, self.preprocessing), y) for x, y in self._samples(0))
        yield from stacked(plain, size)

    def _samples(self, epoch: int) -> Iterable[Sample]:
        return self.source(epoch) if callable(self.source) else self.source

    def _augmented(self, epoch: int, numbered: tuple[int, Sample]) -> Sample:
        number, (x, y) = numbered
        random = chance(self.seed, epoch, number)
        return prepared(np.asarray(x), self.transforms, random, self.preprocessing), y


def _shuffled(items: Iterable[Any], held: int, seed: int, epoch: int) -> Iterator[Any]:
    """Items in random order, as far as `held` of them allow."""
    random = chance(seed, epoch, 0, 2)
    buffer: list[Any] = []
    for item in items:
        if len(buffer) < held:
            buffer.append(item)
            continue
        place = int(random.integers(held))
        given, buffer[place] = buffer[place], item
        yield given
    for place in random.permutation(len(buffer)):
        yield buffer[place]
