"""Data that a model is measured on, as whoever has them has them: arrays, batches, or a set of `homespun.data`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from homespun.errors import OptionError
from homespun.graph import Array


def input_batches(data: Any, size: int) -> Iterator[tuple[Array, ...]]:
    """Inputs of a model, at most `size` samples at a time.

    `data`: the inputs as one array (N, ...), a tuple of arrays for a model with several inputs, a list or iterator of
    such batches, or a `homespun.data` set. Raises `OptionError` for anything else, for a value that is not finite, and,
    once all are read, if there was not one sample.
    """
    if hasattr(data, "evaluation_batches"):
        batches: Iterable[Any] = (x for x, _ in data.evaluation_batches(size=size))
    elif isinstance(data, (tuple, np.ndarray)):
        batches = [data]
    elif isinstance(data, Iterable):
        batches = data
    else:
        raise OptionError(
            f"data to measure on are {type(data).__name__}; they can be arrays, or an iterable of batches"
        )
    count = 0
    for batch in batches:
        arrays = [np.asarray(a) for a in batch] if isinstance(batch, tuple) else [np.asarray(batch)]
        if not all(np.isfinite(a).all() for a in arrays):
            raise OptionError("the data to measure on have values that are not finite")
        for start in range(0, len(arrays[0]), size):
            yield tuple(a[start : start + size] for a in arrays)
            count += 1
    if not count:
        raise OptionError("measuring needs data: there is not one sample")
