"""What happens beside training: monitors, checkpoints, early stopping. `fit` calls them."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from homespun.training.trainer import StepResult, Trainer

_log = logging.getLogger(__name__)


class Callback:
    """Base: does nothing. A method that returns True ends the fit."""

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        """After every step."""

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        """After every epoch (from 0), with its loss and validation metrics."""

    def on_pause(self, trainer: Trainer) -> None:
        """Between two steps, when a pause has been asked for and before it is waited for."""


class LossMonitor(Callback):
    """Logs the mean loss of every `every` steps."""

    def __init__(self, every: int = 50, log: Callable[[str], None] = _log.info) -> None:
        self.every, self.log = every, log
        self._sum, self._count = 0.0, 0

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        self._sum += result.loss
        self._count += 1
        if self._count == self.every:
            self.log(f"step {result.step}: loss {self._sum / self._count:.4f}, rate {result.learning_rate:.3g}")
            self._sum, self._count = 0.0, 0
        return None


class ProgressBar(Callback):
    """One line on a terminal: step, loss, rate."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        self.stream.write(f"\rstep {result.step}  loss {result.loss:.4f}  rate {result.learning_rate:.3g}   ")
        self.stream.flush()
        return None

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        values = "  ".join(f"{k} {v:.4f}" for k, v in record.items())
        self.stream.write(f"\repoch {epoch + 1}  {values}\n")
        return None


class CheckpointSaver(Callback):
    """Saves a checkpoint every `every` steps, at the end of every epoch, and when a pause is asked for."""

    def __init__(self, path: str | Path, every: int = 0) -> None:
        self.path, self.every = Path(path), every

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        if self.every and result.step % self.every == 0:
            trainer.save_checkpoint(self.path)
        return None

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        trainer.save_checkpoint(self.path)
        return None

    def on_pause(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)


class EarlyStop(Callback):
    """Ends the fit when `monitor` has not got better for `patience` epochs."""

    def __init__(self, monitor: str = "validation_loss", patience: int = 3, least: float = 0.0, maximise: bool = False):
        self.monitor, self.patience, self.least = monitor, patience, least
        self._sign = -1.0 if maximise else 1.0
        self._best, self._waited = math.inf, 0

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        value = self._sign * record[self.monitor]
        if value < self._best - self.least:
            self._best, self._waited = value, 0
            return None
        self._waited += 1
        return self._waited >= self.patience


class LearningRate(Callback):
    """Sets the learning rate before the next step by a function of the number of steps done."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.rate = rate

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        trainer.learning_rate = self.rate(result.step)
        return None


class OnPause(Callback):
    """Calls a function when a pause is asked for."""

    def __init__(self, function: Callable[[Trainer], None]) -> None:
        self.function = function

    def on_pause(self, trainer: Trainer) -> None:
        self.function(trainer)
