"""Everything of a trainer that outlives a step, in one aligned buffer that its programs write to: parameters, running
statistics, optimizer states, and what a step reads and reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homespun.compile.lowering import aligned_empty
from homespun.compile.training import StateLayout
from homespun.graph import Array

#: Kernels read whole vectors: this much behind the last tensor must be mapped.
_MARGIN = 256


class Store:
    """A buffer and its named views. Views are writable and share memory with the programs."""

    def __init__(self, layout: StateLayout) -> None:
        self.layout = layout
        self.bytes = aligned_empty(layout.size + _MARGIN)
        self.bytes[:] = 0
        self.views: dict[str, Array] = {}
        for name, offset in layout.offsets.items():
            t = layout.types[name]
            self.views[name] = self.bytes[offset : offset + t.nbytes].view(t.dtype).reshape(t.shape)

    def __getitem__(self, name: str) -> Array:
        return self.views[name]

    def __contains__(self, name: str) -> bool:
        return name in self.views

    def fill(self, values: Mapping[str, Array]) -> None:
        """Copy arrays into the tensors of those names."""
        for name, value in values.items():
            np.copyto(self.views[name], value)
