"""The programs of a trainer: what it compiles, for which batch sizes and targets, and keeps.

Between `Trainer`, which says what is to run, and `homespun.compile.training`, which knows how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from homespun.compile.compiler import MemoryReport
from homespun.compile.lowering import Lowered
from homespun.compile.training import (
    Mode,
    TrainingPlan,
    TrainingProgram,
    compile_training,
    lower_training,
)
from homespun.graph import Array, TensorType, infer
from homespun.training.budget import Choice
from homespun.training.losses import Loss, as_targets
from homespun.training.model_state import ModelState
from homespun.training.optim import Optimizer
from homespun.training.pause import PauseSwitch

if TYPE_CHECKING:
    from homespun.compile.draft import Draft
    from homespun.compile.inspection import Inspection

#: In what activations are stored, by the trainer's `precision`.
STORAGE = {"float32": "float32", "mixed": "bfloat16", "mixed_float16": "float16"}
Key = tuple[Mode, int, tuple[TensorType, ...]]


@dataclass
class Programs:
    """Compiles when something runs for the first time. `choice` is what a memory budget demands."""

    state: ModelState
    loss: Loss
    optimizer: Optimizer
    precision: str
    threads: int
    isa: str
    switch: PauseSwitch
    choice: Choice = field(default_factory=Choice)
    compiled: dict[Key, TrainingProgram] = field(default_factory=dict)
    _outputs: dict[int, list[TensorType]] = field(default_factory=dict)  # by batch size

    def prepared(
        self, mode: Mode, features: Sequence[Array], targets: Sequence[Array]
    ) -> tuple[TrainingProgram, list[Array]]:
        """The program for these arrays, and the arrays as it wants them. Raises `ShapeError` or `TrainingError` for
        targets that do not fit the loss."""
        if mode == "apply":
            return self.program("apply", 1, ()), []
        batch = features[0].shape[0]
        types, arrays = as_targets(self.loss, self._output_types(batch), targets)
        program = self.program(mode, batch, tuple(types))
        return program, [*(np.ascontiguousarray(f) for f in features), *arrays]

    def program(self, mode: Mode, batch: int, targets: tuple[TensorType, ...]) -> TrainingProgram:
        """One program, compiled if it is the first of its kind."""
        key: Key = (mode, batch, targets)
        if key not in self.compiled:
            compiled = compile_training(
                self.state.split.trained,
                self._plan(targets, self.choice.recompute),
                mode,
                batch,
                self.state.store.layout,
                self.state.gradient_layout,
                self.state.store.bytes,
                self.isa,
                self.threads,
            )
            self.switch.add(compiled)
            self.compiled[key] = compiled
        return self.compiled[key]

    def main(self, batch: int) -> TrainingProgram:
        """The program of a full batch: the one that ran, else the one that integer labels would need."""
        mode: Mode = "step" if not self.choice.micro_batch else "gradients"
        batch = self.choice.micro_batch or batch
        for key, compiled in self.compiled.items():
            if key[:2] == (mode, batch):
                return compiled
        return self.program(mode, batch, self._likely_targets(batch))

    def memory(self, batch: int) -> MemoryReport:
        """Bytes of the step of a full batch, the frozen part's program not counted."""
        lowered = self.main(batch).lowered
        return MemoryReport(
            arena=lowered.plan.size,
            lower_bound=lowered.plan.lower_bound,
            without_reuse=lowered.unshared_bytes,
            parameters=self.state.trained_bytes + lowered.constants.size,
            optimizer=sum(v.nbytes for v in self.state.optimizer_state(copy=False).values()),
        )

    def inspection(self, features: Sequence[Array], targets: Sequence[Array]) -> tuple[Inspection, list[Array]]:
        """A step of these arrays with every value to look at, and the arrays as it wants them."""
        from homespun.compile.inspection import Inspection

        batch = features[0].shape[0]
        types, arrays = as_targets(self.loss, self._output_types(batch), targets)
        inspection = Inspection(
            self.state.split.trained,
            self._plan(tuple(types), ()),
            batch,
            self.state.store.layout,
            self.state.store.bytes,
            self.isa,
            self.threads,
        )
        return inspection, [*(np.ascontiguousarray(f) for f in features), *arrays]

    # -- for those who look for a program that fits a budget ----------------------------------------------------

    def planned(self, mode: Mode, batch: int, recompute: tuple[str, ...] | None) -> Lowered:
        """A program as it would be."""
        plan = self._plan(self._likely_targets(batch), recompute)
        layouts = (self.state.store.layout, self.state.gradient_layout)
        return lower_training(self.state.split.trained, plan, mode, batch, *layouts, self.isa, self.threads)[0]

    def draft(self, mode: Mode, batch: int) -> Draft:
        """A program as it would be with these or those layers computed again."""
        from homespun.compile.draft import Draft

        plan = self._plan(self._likely_targets(batch), None)
        layouts = (self.state.store.layout, self.state.gradient_layout)
        return Draft(self.state.split.trained, plan, mode, batch, *layouts, self.isa, self.threads)

    def plain_plan(self, batch: int, targets: Sequence[Array] | None = None) -> TrainingPlan:
        """The plan of a step as operators by themselves: nothing fused, nothing computed twice. For targets like these;
        integer labels, where there are none and the loss takes them. Raises as a step with these targets does."""
        types = self._likely_targets(batch)
        if targets is not None:
            types = tuple(as_targets(self.loss, self._output_types(batch), targets)[0])
        return replace(self._plan(types, ()), fuse=False)

    def _plan(self, targets: tuple[TensorType, ...], recompute: tuple[str, ...] | None) -> TrainingPlan:
        return TrainingPlan(
            self.loss,
            targets,
            self.state.updates,
            largest_norm=self.optimizer.clip_norm,
            storage=STORAGE[self.precision],
            recompute=recompute,
        )

    def _output_types(self, batch: int) -> list[TensorType]:
        if batch not in self._outputs:
            types = infer(self.state.split.trained, batch)
            self._outputs[batch] = [types[o] for o in self.state.split.trained.outputs]
        return self._outputs[batch]

    def _likely_targets(self, batch: int) -> tuple[TensorType, ...]:
        """What targets will be before the first are seen: labels, where the loss takes them."""
        outputs = self._output_types(batch)
        labels = [np.zeros(outputs[0].shape[:-1], np.int64)]
        return tuple(self.loss.target_types(outputs, labels))
