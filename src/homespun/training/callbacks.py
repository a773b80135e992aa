"""What happens beside training: monitors, checkpoints, early stopping. `fit` calls them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from homespun.errors import OptionError
from homespun.training.callback import Callback
from homespun.training.prune_weights import PruneWeights

if TYPE_CHECKING:
    from homespun.training.steps import StepResult
    from homespun.training.trainer import Trainer

_log = logging.getLogger(__name__)

__all__ = [
    "Callback",
    "CheckpointSaver",
    "EarlyStop",
    "LearningRate",
    "LossMonitor",
    "OnPause",
    "ProgressBar",
    "PruneWeights",
]


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
    """Saves a checkpoint every `every` steps or `seconds`, at the end of every epoch, and in a pause.

    `extra` is JSON of the caller's own that goes into the file; see `homespun.training.checkpoint`.

    A pause that comes when the step under way has begun to change parameters finds no state that belongs to one step;
    the checkpoint before stays then.
    """

    def __init__(
        self, path: str | Path, every: int = 0, seconds: float = 0.0, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.every, self.seconds, self.extra = Path(path), every, seconds, dict(extra or {})
        self._saved = time.monotonic()

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        late = self.seconds > 0 and time.monotonic() - self._saved >= self.seconds
        if late or (self.every and result.step % self.every == 0):
            self.save(trainer)
        return None

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        self.save(trainer)
        return None

    def on_pause(self, trainer: Trainer) -> None:
        if trainer.settled:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now."""
        trainer.save_checkpoint(self.path, **self.extra)
        self._saved = time.monotonic()


class EarlyStop(Callback):
    """Ends the fit when `monitor` has not got better, by more than `least`, for `patience` epochs.

    It reads the history that checkpoints hold, so a resumed run stops where the uninterrupted one does.
    """

    def __init__(self, monitor: str = "validation_loss", patience: int = 3, least: float = 0.0, maximise: bool = False):
        self.monitor, self.patience, self.least, self.maximise = monitor, patience, least, maximise

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        if self.monitor not in record:
            raise OptionError(f"EarlyStop watches {self.monitor!r}; an epoch's record has {', '.join(record)}")
        return self.reached(trainer.progress.history)

    def reached(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether a run with this history ends here."""
        best, waited = math.inf, 0
        for value in (r[self.monitor] for r in history if self.monitor in r):
            signed = -value if self.maximise else value
            best, waited = (signed, 0) if signed < best - self.least else (best, waited + 1)
        return waited >= self.patience


class LearningRate(Callback):
    """Sets the learning rate of each step by a function of the number of steps done before."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.rate = rate

    def before_step(self, trainer: Trainer) -> None:
        trainer.learning_rate = self.rate(trainer.step_count)


class OnPause(Callback):
    """Calls a function when a pause is asked for."""

    def __init__(self, function: Callable[[Trainer], None]) -> None:
        self.function = function

    def on_pause(self, trainer: Trainer) -> None:
        self.function(trainer)
