"""In which order samples come, and what chance each of them gets: functions of seed, epoch and sample number alone.

So an order can be taken up anywhere, by a new process, with any number of workers. Orders come from the raw stream of a
bit generator, which NumPy keeps the same from release to release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from homespun.errors import OptionError
from homespun.graph import Array

Indices = npt.NDArray[np.int64]


def shuffled(count: int, seed: int, epoch: int) -> Indices:
    """The numbers 0 to `count` - 1 in the order of an epoch."""
    keys = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)
    return np.argsort(np.atleast_1d(keys), kind="stable")


def chance(seed: int, epoch: int, number: int, purpose: int = 0) -> np.random.Generator:
    """Random numbers that belong to one sample (or batch) of one epoch."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, number, purpose])))


def split_by_class(
    keys: Sequence[str], classes: Sequence[Hashable] | Array, share: float, seed: int
) -> tuple[Indices, Indices]:
    """Numbers of the samples to train with and to validate with, `share` of each class, both in ascending order.

    Samples are ranked by a hash of their key, so that new ones hardly move the others. A class keeps at least one
    sample for training; a class of two or more gives at least one for validation. Raises `OptionError`.
    """
    if not 0.0 < share < 1.0:
        raise OptionError(f"the share for validation is {share}; it must be between 0 and 1")
    ranks = [hashlib.sha256(f"{seed}\0{key}".encode(errors="surrogateescape")).digest() for key in keys]
    members: dict[Hashable, list[int]] = {}
    for number, name in enumerate(classes):
        members.setdefault(name, []).append(number)
    held: list[int] = []
    for numbers in members.values():
        count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
        held += sorted(numbers, key=lambda n: ranks[n])[:count]
    validation = np.array(sorted(held), np.int64)
    if not validation.size:
        raise OptionError("there is nothing to validate with: no class has more than one sample")
    return np.setdiff1d(np.arange(len(keys)), validation), validation
