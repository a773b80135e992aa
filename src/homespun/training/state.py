"""Everything of a trainer that outlives a step, in one aligned buffer that its programs write to: parameters, running
statistics, optimizer states, and what a step reads and reports."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Mapping

import numpy as np

from homespun.compile.memory import ALIGNMENT
from homespun.compile.training import StateLayout
from homespun.graph import Array

#: Kernels read whole vectors: this much behind the last tensor must be mapped.
_MARGIN = 256
_HUGE_PAGE = 2 << 20


class Store:
    """A buffer and its named views. Views are writable and share memory with the programs.

    All is zero at first, and takes memory only where it is written to. That matters for the tensors `by_rows`, such as
    the optimizer's states of a table of embeddings, of which many rows may stay zero for ever.
    """

    def __init__(self, layout: StateLayout, by_rows: Collection[str] = ()) -> None:
        self.layout = layout
        self._by_rows = frozenset(by_rows)
        self.bytes = _zeros(layout.size + _MARGIN, [self._span(name) for name in by_rows])
        self.views: dict[str, Array] = {}
        for name, offset in layout.offsets.items():
            t = layout.types[name]
            self.views[name] = self.bytes[offset : offset + t.nbytes].view(t.dtype).reshape(t.shape)

    def _span(self, name: str) -> tuple[int, int]:
        begin = self.layout.offsets[name]
        return begin, begin + self.layout.types[name].nbytes

    def __getitem__(self, name: str) -> Array:
        return self.views[name]

    def __contains__(self, name: str) -> bool:
        return name in self.views

    def fill(self, values: Mapping[str, Array]) -> None:
        """Copy arrays into the tensors of those names."""
        for name, value in values.items():
            view = self.views[name]
            if name not in self._by_rows:
                np.copyto(view, value)
                continue
            for row, new in zip(view, np.asarray(value, view.dtype), strict=True):
                if row.tobytes() != new.tobytes():  # bit for bit: not to write is to take no memory
                    row[...] = new


def _zeros(size: int, small_pages: Collection[tuple[int, int]]) -> Array:
    """Zero bytes, aligned, in large pages but for the spans (begin, end) that are given."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert mmap.PAGESIZE % ALIGNMENT == 0
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 2 * _HUGE_PAGE:  # Linux; elsewhere the system chooses
        memory.madvise(mmap.MADV_HUGEPAGE)
        for begin, end in small_pages:
            begin -= begin % mmap.PAGESIZE
            memory.madvise(mmap.MADV_NOHUGEPAGE, begin, end - begin)
    return np.frombuffer(memory, np.uint8)
