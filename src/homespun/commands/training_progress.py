"""How far training is: a bar on a terminal, a line now and then elsewhere, a line for each epoch; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from homespun.commands.output import note
from homespun.commands.progress import SECONDS_BETWEEN_LINES, duration
from homespun.training.callbacks import Callback

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from homespun import StepResult, Trainer

#: How much of the mean time of a photo the last step makes.
_SMOOTHING = 0.05


class Stopped(Exception):  # noqa: N818  (nothing has gone wrong)
    """Somebody asked for a pause while photos were read or validated with."""


class TrainingProgress(Callback):
    """Shows steps as they are done; ends the fit, between two steps, once `stop_wanted` says so."""

    def __init__(
        self, epochs: int, steps: int, photos: int, size: int, *, keeps_features: bool, stop_wanted: Callable[[], bool]
    ) -> None:
        self.epochs, self.steps, self.photos, self.size = epochs, steps, photos, size
        self._looking = keeps_features
        self._stop_wanted = stop_wanted
        self._looked_at = self._validated = 0
        self._validation_began: float | None = None
        self._validation_seconds = 0.0  # of an epoch
        self._seconds: float | None = None  # for a photo
        self._last = self._told = time.monotonic()
        self._bars: Bars | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
            self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bars.add_task("Getting ready", total=None, told="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    # -- what data sets and the fit call ------------------------------------------------------------------------

    def reading(self, count: int) -> None:
        """Before a batch of training photos is given out."""
        self._check()
        if self._looking:
            self._looked_at += count
            told = f"{self._looked_at:,} of {self.photos:,} photos"
            self._show("Looking at each photo once", self._looked_at / self.photos, told)

    def validating(self, count: int) -> None:
        """Before a batch of validation photos is given out."""
        self._check()
        if self._looking:
            self._show("Looking at each photo once", 1.0, "and at those to validate with")
            return
        if self._validation_began is None:
            self._validation_began, self._validated = time.monotonic(), 0
        self._validated += count
        self._show("Validating", None, f"{self._validated:,} photos")

    def on_step(self, trainer: Trainer, result: StepResult) -> bool | None:
        now = time.monotonic()
        done = trainer.progress.batch
        if not self._looking:  # the first step's time is that of looking at everything, or of compiling
            count = self.size if done < self.steps else self.photos - self.size * (self.steps - 1)
            self._seconds = _smoothed(self._seconds, (now - self._last) / count)
        self._looking, self._last = False, now
        share = (trainer.progress.epoch + done / self.steps) / self.epochs
        self._show(
            f"Epoch {trainer.progress.epoch + 1} of {self.epochs}",
            share,
            self._words(trainer.progress.loss_sum / done, share),
        )
        return self._stop_wanted()

    def on_epoch(self, trainer: Trainer, epoch: int, record: Mapping[str, float]) -> bool | None:
        words = [f"loss {record['loss']:.4f}"]
        if "validation_loss" in record:
            words.append(f"validation loss {record['validation_loss']:.4f}")
            words.append(f"right {record['validation_accuracy']:.1%}")
        self.say(f"Epoch {epoch + 1} of {self.epochs}: {', '.join(words)} ({duration(record['seconds'])})")
        now = time.monotonic()
        if self._validation_began is not None:
            self._validation_seconds = now - self._validation_began
        self._validation_began, self._last = None, now
        return None

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            note(line)

    # -- inside -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._stop_wanted():
            raise Stopped

    def _words(self, loss: float, share: float) -> str:
        words = [f"loss {loss:.3f}"]
        if self._seconds:
            left = (1 - share) * self.epochs * (self.photos * self._seconds + self._validation_seconds)
            words += [f"{1 / self._seconds:,.0f} photos/s", f"{duration(left)} left"]
        return ", ".join(words)

    def _show(self, doing: str, share: float | None, told: str) -> None:
        """`share` of what is being done is done; None leaves the bar as it is."""
        if self._bars is not None:
            done: dict[str, Any] = {} if share is None else {"completed": share, "total": 1.0}
            self._bars.update(self._task, description=doing, told=told, **done)
        elif time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            note(f"{doing}: {told}")


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _SMOOTHING * (value - mean)
