"""Maps in a file, written as they come and mapped into memory to be read, so that many labels take no more memory.

The album's worker writes one for the `Task` of a run; `Refiner` takes batches from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from homespun.errors import FormatError
from homespun.learning.tail import Floats, Maps

SAMPLE = 256
"""The first so many maps set the scale of all: bring them in an order that chance makes."""


class MapWriter:
    """Rounds maps (H, W, C) to 8 bits and writes them. As a context manager it is whole and on the disk at its end.

    In memory are at most `SAMPLE` maps in half precision, until the scale is known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO = path.open("wb")
        self._waiting: list[npt.NDArray[np.float16]] = []
        self._scale: tuple[Floats, Floats] | None = None
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if kind is None:
                self._settle()
                self._stream.flush()
                os.fsync(self._stream.fileno())

    @property
    def held(self) -> int:
        """Bytes of maps that are in memory now."""
        return sum(values.nbytes for values in self._waiting)

    def add(self, values: npt.NDArray[Any]) -> None:
        """One more map. Raises OSError when the disk is full."""
        self._shape, self._count = values.shape, self._count + 1
        if self._scale is not None:
            self._write(values)
            return
        self._waiting.append(values.astype(np.float16))
        if len(self._waiting) == SAMPLE:
            self._settle()

    def maps(self) -> Maps:
        """All of them, in the order in which they came; to be called when it is closed."""
        assert self._scale is not None
        return read_maps(self._path, (self._count, *self._shape), *self._scale)

    def _settle(self) -> None:
        if self._scale is None and self._waiting:
            first = Maps.of(np.stack(self._waiting))
            self._scale = first.low, first.step
            self._stream.write(first.codes.tobytes())
            self._waiting = []

    def _write(self, values: npt.NDArray[Any]) -> None:
        assert self._scale is not None
        self._stream.write(Maps.encode(values.astype(np.float32), *self._scale).tobytes())


def read_maps(path: Path, shape: tuple[int, ...], low: Floats, step: Floats) -> Maps:
    """The maps of a file, which stay there. Raises `FormatError` if it has another size."""
    expected = int(np.prod(shape))
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise FormatError(f"{path}: is missing") from error
    if found != expected or not expected:
        raise FormatError(f"{path}: damaged: {found:,} bytes; expected {expected:,}")
    return Maps(np.memmap(path, np.uint8, mode="r", shape=shape), low, step)
