"""A run of `homespun train`: begun or taken up from its checkpoint, paused by signals, saved now and then."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.commands.output import note, plural
from homespun.commands.pictures import CALIBRATION
from homespun.commands.training_progress import Stopped, TrainingProgress
from homespun.commands.training_settings import (
    Settings,
    begin_model,
    load_photos,
    new_schedule,
    new_trainer,
    with_head,
)
from homespun.errors import OptionError

if TYPE_CHECKING:
    from homespun import Trainer
    from homespun.data import ImageFolder
    from homespun.graph import Array
    from homespun.training.callbacks import Callback

_NAMED = 5


@contextmanager
def _unreadable_not_logged() -> Iterator[None]:
    """No warnings of photos that can't be read: the run tells of them itself."""
    log = logging.getLogger("homespun.data")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@dataclass
class Run:
    """Settings, and what may differ from one start of the run to the next."""

    settings: Settings
    checkpoint: Path
    epochs: int
    early_stop: int
    memory_budget: str | None
    threads: int
    workers: int
    save_every: float
    _trained: ImageFolder | None = field(default=None, init=False)

    @_unreadable_not_logged()
    def finish(self) -> tuple[Trainer, dict[str, Any] | None]:
        """Train to the end: the trainer, and what there is to tell; None instead if it was paused, and saved."""
        began = time.monotonic()
        trainer, train, validation, resumed = self._resumed() if self.checkpoint.exists() else self._begun()
        steps = train.steps(trainer.batch * trainer.accumulate)
        self._tell(trainer, train, validation)
        with _signals_noticed() as stop_wanted:
            finished = self._fit(trainer, train, validation, steps, stop_wanted)
        if not finished:
            return trainer, None
        last = trainer.progress.history[-1] if trainer.progress.history else {}
        accuracy = last.get("validation_accuracy")
        if validation is not None and self.settings.average:
            accuracy = trainer.evaluate(validation, averaged=True)["accuracy"]
        self._trained = train
        return trainer, {
            "checkpoint": str(self.checkpoint),
            "resumed": resumed,
            "classes": list(train.classes or ()),
            "photos": len(train),
            "validation_photos": 0 if validation is None else len(validation),
            "unreadable": [{"path": str(u.path), "reason": u.reason} for u in _unreadable(train, validation)],
            "epochs": trainer.progress.history,
            "steps": trainer.step_count,
            "validation_accuracy": accuracy,
            "memory": {**asdict(trainer.memory), "compromises": trainer.compromises},
            "seconds": time.monotonic() - began,
        }

    def calibration(self) -> Array:
        """Some of the photos that were learnt from, over all of them: what ranges of activations are measured on."""
        import numpy as np

        assert self._trained is not None
        count = len(self._trained)
        chosen = np.linspace(0, count - 1, min(count, CALIBRATION)).round().astype(int)
        return np.concatenate([x for x, _ in self._trained.subset(chosen).evaluation_batches(size=16)])

    # -- inside -------------------------------------------------------------------------------------------------

    def _begun(self) -> tuple[Trainer, ImageFolder, ImageFolder | None, bool]:
        settings = self.settings
        base, whence = begin_model(settings)
        train, validation = load_photos(settings, base, None, self.workers)
        model = with_head(base, train.classes or (), settings.seed)
        trainer = new_trainer(
            model,
            settings,
            memory_budget=self.memory_budget,
            threads=self.threads,
            epochs=self.epochs,
            steps=train.steps(settings.batch * settings.accumulate),
        )
        note(f"{base.name} {whence}{'' if model is base else ', with a new last layer'}.")
        return trainer, train, validation, False

    def _resumed(self) -> tuple[Trainer, ImageFolder, ImageFolder | None, bool]:
        import homespun as hs
        from homespun.graph.class_names import class_names
        from homespun.training.checkpoint import read_extra

        extra = read_extra(self.checkpoint)
        if "settings" not in extra:
            raise OptionError(f"{self.checkpoint} is a checkpoint, but not of `homespun train`")
        self.settings.check_same(extra["settings"], self.checkpoint)
        trainer = hs.Trainer.from_checkpoint(self.checkpoint, threads=self.threads, memory_budget=self.memory_budget)
        model = trainer.model()
        train, validation = load_photos(self.settings, model, class_names(model), self.workers)
        if train.fingerprint() != extra["photos"]:
            note("The photos are not those that the run began with: it goes on with those that are there now.")
        if self.epochs != extra["epochs"] and self.settings.schedule != "plateau":
            trainer.schedule = new_schedule(self.settings, self.epochs, train.steps(trainer.batch * trainer.accumulate))
        progress = trainer.progress
        if progress.epoch >= self.epochs:
            note(
                f"The run in {self.checkpoint} has done its {plural(progress.epoch, 'epoch')}. More --epochs go on "
                f"with it; without the file, it begins anew."
            )
        else:
            note(f"Going on with {self.checkpoint}, at epoch {progress.epoch + 1}, step {trainer.step_count}.")
        return trainer, train, validation, True

    def _tell(self, trainer: Trainer, train: ImageFolder, validation: ImageFolder | None) -> None:
        """What is about to be trained with what."""
        held = "" if validation is None else f", and {plural(len(validation), 'photo')} to validate with"
        note(f"{plural(len(train), 'photo')} in {len(train.classes or ())} classes{held}.")
        for empty in train.empty_classes:
            note(f"  {empty}: no photos in it; left out")
        wrong = _unreadable(train, validation)
        for unreadable in wrong[:_NAMED]:
            note(f"  left out: {unreadable.reason}")
        if len(wrong) > _NAMED:
            note(f"  left out: {len(wrong) - _NAMED:,} more")
        sizes = {name: value.size for name, value in trainer.parameters(copy=False).items()}
        trained = sum(sizes[name] for name in trainer.trainable)
        note(f"Training {trained:,} of {sum(sizes.values()):,} parameters.")
        if trainer.memory_budget is not None and trainer.compromises != "none":
            note(f"To keep within {trainer.memory_budget}, it {trainer.compromises}.")

    def _fit(
        self,
        trainer: Trainer,
        train: ImageFolder,
        validation: ImageFolder | None,
        steps: int,
        stop_wanted: Callable[[], bool],
    ) -> bool:
        """Whether it came to its end; if not, all that was done is saved."""
        from homespun.training.callbacks import CheckpointSaver, EarlyStop

        extra = {"settings": asdict(self.settings), "photos": train.fingerprint(), "epochs": self.epochs}
        saver = CheckpointSaver(self.checkpoint, seconds=self.save_every, extra=extra)
        size = trainer.batch * trainer.accumulate
        keeps = self.settings.keeps_features
        early = EarlyStop(patience=self.early_stop) if self.early_stop else None

        def ended() -> bool:
            progress = trainer.progress
            return progress.epoch >= self.epochs or (early is not None and early.reached(progress.history))

        if ended():
            return True
        display = TrainingProgress(self.epochs, steps, len(train), size, keeps_features=keeps, stop_wanted=stop_wanted)
        train.on_batch = display.reading
        if validation is not None:
            validation.on_batch = display.validating
        callbacks: list[Callback] = [display, saver] if early is None else [display, saver, early]
        with display, suppress(Stopped):
            trainer.fit(train, self.epochs, validation=validation, callbacks=callbacks, cache_features=keeps)
        if ended():
            return True
        saver.save(trainer)
        return False


def require_drawing(path: Path) -> None:
    """Raise `OptionError` if curves can't be drawn to a file, before hours of training."""
    if find_spec("matplotlib") is None:
        raise OptionError("--plot needs matplotlib, which is not installed: pip install 'homespun[plots]'")
    if path.suffix.lower() not in (".png", ".svg", ".pdf") or not path.absolute().parent.is_dir():
        raise OptionError(f"{path}: --plot writes .png, .svg or .pdf into a folder that there is")


def _unreadable(train: ImageFolder, validation: ImageFolder | None) -> list[Any]:
    """A split's two halves share one list; a validation folder has its own."""
    if validation is None or validation.unreadable is train.unreadable:
        return train.unreadable
    return [*train.unreadable, *validation.unreadable]


@contextmanager
def _signals_noticed() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or a request to end has come. The second one is not waited with."""
    wanted = False

    def notice(number: int, frame: Any) -> None:
        nonlocal wanted
        if wanted:
            raise KeyboardInterrupt
        wanted = True

    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
