"""`Callback`: what `fit` calls beside training. Those that there are stand in `callbacks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homespun.training.steps import StepResult
    from homespun.training.trainer import Trainer


class Callback:
    """Base: does nothing. `on_step` and `on_epoch` end the fit by returning True.

    A callback that remembers what it saw starts afresh when a run is resumed; one that must not looks at what a
    checkpoint holds, `trainer.step_count` and `trainer.progress`, instead.
    """

    def before_step(self, trainer: Trainer) -> None:
        """Before every step."""

    def after_update(self, trainer: Trainer) -> None:
        """After every update, before a checkpoint or another thread can see it: for what changes parameters itself."""

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        """After every step."""

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        """After every epoch (from 0), with its loss and validation metrics."""

    def on_pause(self, trainer: Trainer) -> None:
        """When the trainer has come to stand still in a pause, called by the thread that trains. `trainer.settled` says
        whether its state is that between two steps; the pause goes on until `resume`."""
