"""A training program as it would be: the bytes it would take with these or those layers computed again.

For those who look for a program that fits a budget. What the choice does not change is built once, and nothing is
packed or loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from homespun.compile.lowering import ConstantPool, Lowering
from homespun.compile.memory import Buffer, lower_bound, plan
from homespun.compile.passes.recompute import candidates
from homespun.compile.training import Mode, StateLayout, TrainingPlan, fused_graph, other_states, places
from homespun.graph import Graph


class Draft:
    """One mode and batch size of a model's training."""

    def __init__(
        self,
        model: Graph,
        asked: TrainingPlan,
        mode: Mode,
        batch: int,
        layout: StateLayout,
        gradient_layout: StateLayout,
        isa: str,
        threads: int,
    ) -> None:
        self._joint = fused_graph(model, asked, mode, batch, other_states(model, layout))
        self._placed = places(mode, len(self._joint.inputs), layout, gradient_layout)
        self._isa, self._threads = isa, threads

    def candidates(self) -> tuple[str, ...]:
        """Layers that could be computed again, those first that cost least for what they save."""
        return tuple(c.name for c in candidates(self._joint.graph, self._joint.types))

    def least(self, recompute: Sequence[str] | None) -> int:
        """Bytes that no arena of the program can do without."""
        return lower_bound(self._buffers(recompute))

    def arena(self, recompute: Sequence[str] | None) -> int:
        """Bytes of the program's arena; `recompute` as in `TrainingPlan`."""
        return plan(self._buffers(recompute)).size

    def _buffers(self, recompute: Sequence[str] | None) -> Sequence[Buffer]:
        graph, types = self._joint.ordered(recompute)
        return Lowering(graph, types, self._isa, self._threads, ConstantPool(), self._placed).buffers()
