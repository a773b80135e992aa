"""Epochs: fitting and evaluating a trainer on a data set, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.data import DataSet
from homespun.errors import MissingPackageError, OptionError, ShapeError
from homespun.graph import Array
from homespun.training.callback import Callback
from homespun.training.evaluation import LossProgram
from homespun.training.feature_cache import FeatureCache
from homespun.training.metrics import Accuracy, Metric
from homespun.training.schedules import Schedule
from homespun.training.steps import listed

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer

Batch = tuple[Any, Any]


@dataclass
class FitResult:
    """`history`: one record for each epoch: loss, learning rate, seconds, validation metrics."""

    history: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False

    def plot(self, path: str | None = None) -> Any:
        """Loss and validation values over epochs, drawn with matplotlib; saved to `path` if given. Raises
        `MissingPackageError` without matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingPackageError(
                "drawing needs matplotlib, which is not installed: pip install 'homespun[plots]'"
            ) from error

        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        for name in [k for k in (self.history[0] if self.history else {}) if k not in ("seconds", "learning_rate")]:
            axes.plot([r.get(name, np.nan) for r in self.history], label=name)
        axes.set_xlabel("epoch")
        axes.legend()
        if path:
            figure.savefig(path)
        return figure


def fit(
    trainer: Trainer,
    data: Any,
    epochs: int = 1,
    *,
    validation: Any = None,
    metrics: Sequence[Metric] = (),
    callbacks: Sequence[Callback] = (),
    schedule: Schedule | None = None,
    monitor: str | None = None,
    cache_features: bool = False,
) -> FitResult:
    """Train until `epochs` epochs are done, those counted that a checkpoint had done before.

    `data`: a pair of arrays, an iterable of (x, y) batches that is the same each time, or a `homespun.data` set.
    `cache_features` runs the frozen part once and keeps what it makes, of `validation` too where that is a data set
    (data must then not be augmented, which is checked where it can be). A schedule becomes the trainer's own;
    `monitor` names what of an epoch's record it looks at: by default the validation loss, without one the loss.
    Raises `OptionError` for arguments that make no sense, data without a batch, and an iterator, which is used up after
    one epoch, where more than one is to be done; before anything is learnt, but for a `monitor` that is in no record.
    """
    _check_arguments(epochs, metrics, callbacks, schedule)
    more = epochs - trainer.progress.epoch > 1
    check_data(data, again=not cache_features and (more or trainer.progress.batch > 0))
    if validation is not None:
        check_data(validation, again=more)
    if schedule is not None:
        trainer.schedule = schedule

    def tell() -> None:
        for callback in callbacks:
            callback.on_pause(trainer)

    with trainer.calling_when_paused(tell):
        return _epochs(trainer, data, epochs, validation, metrics, callbacks, monitor, cache_features)


def _epochs(
    trainer: Trainer,
    data: Any,
    epochs: int,
    validation: Any,
    metrics: Sequence[Metric],
    callbacks: Sequence[Callback],
    monitor: str | None,
    cache_features: bool,
) -> FitResult:
    size = trainer.batch * trainer.accumulate
    cached: FeatureCache | list[tuple[list[Array], Any]] | None = None
    if cache_features and trainer.progress.epoch < epochs:
        if isinstance(data, DataSet):
            cached = FeatureCache.to_train_with(trainer, data)
        else:
            cached = [(trainer.features(x), [np.array(a) for a in listed(y)]) for x, y in batches(data, 0, 0, size)]
        if isinstance(validation, DataSet):
            validation = FeatureCache.to_evaluate_with(trainer, validation)
    while trainer.progress.epoch < epochs:
        epoch, began = trainer.progress.epoch, time.monotonic()
        stopped = False
        for x, y in _source(trainer, data, cached, epoch, trainer.progress.batch, size):
            for callback in callbacks:
                callback.before_step(trainer)
            with trainer.undivided():
                result = trainer.step_on_features(x, y)
                trainer.progress.batch += 1
                trainer.progress.loss_sum += result.loss
                for callback in callbacks:
                    callback.after_update(trainer)
            wishes = [c.on_step(trainer, result) for c in callbacks]  # all are told, whatever the first says
            stopped = any(wishes)
            if stopped:
                break
        if stopped:
            return FitResult(trainer.progress.history, True)
        count = trainer.progress.batch
        if count == 0:
            raise OptionError(f"there is nothing to learn from: the data gave no batch in epoch {epoch + 1}")
        record = {"loss": trainer.progress.loss_sum / count, "learning_rate": trainer.learning_rate}
        if validation is not None:
            found = evaluate(trainer, validation, metrics=metrics)
            record |= {f"validation_{k}": v for k, v in found.items()}
        observed = record.get(monitor or "validation_loss", None if monitor else record["loss"])
        if observed is None:
            raise OptionError(f"monitor is {monitor!r}; an epoch's record has {', '.join(record)}")
        record["seconds"] = time.monotonic() - began
        trainer.progress.history.append(record)
        trainer.progress.epoch, trainer.progress.batch, trainer.progress.loss_sum = epoch + 1, 0, 0.0
        if trainer.schedule is not None:
            trainer.schedule.observe(observed)
        wishes = [c.on_epoch(trainer, epoch, record) for c in callbacks]
        if any(wishes):
            return FitResult(trainer.progress.history, True)
    return FitResult(trainer.progress.history)


def _check_arguments(
    epochs: int, metrics: Sequence[Metric], callbacks: Sequence[Callback], schedule: Schedule | None
) -> None:
    if not isinstance(epochs, (int, np.integer)) or epochs < 0:
        raise OptionError(f"epochs is {epochs!r}; it must be a whole number, not negative")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise OptionError(f"{callback!r} is no callback; they are made as hs.callbacks.ProgressBar()")
    if not (schedule is None or isinstance(schedule, Schedule)):
        raise OptionError(f"schedule is {schedule!r}; it can be one of hs.schedules, as Cosine(1000)")
    check_metrics(metrics)


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raise `OptionError` for what is no metric."""
    for metric in metrics:
        if isinstance(metric, type) or not isinstance(metric, Metric):
            raise OptionError(f"{metric!r} is no metric; they are made as hs.metrics.TopK(5)")


def check_data(data: Any, again: bool) -> None:
    """Raise `OptionError` or `ShapeError` for what no batches can come from, or, with `again`, not twice."""
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(a, np.ndarray) for a in data):
        x, y = data
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise ShapeError(f"x {list(x.shape)} and y {list(y.shape)} differ in their number of samples")
    elif not hasattr(data, "batches") and not isinstance(data, Iterable):
        raise OptionError(
            f"data is {type(data).__name__}; it can be a pair of arrays, an iterable of batches or a data set"
        )
    elif isinstance(data, Iterator) and again:
        raise OptionError(
            "an iterator is used up after one epoch: pass a list, an object whose `__iter__` begins anew, or "
            "hs.data.Stream(lambda epoch: ...)"
        )


def evaluate(
    trainer: Trainer, data: Any, *, metrics: Sequence[Metric] = (), averaged: bool = False
) -> dict[str, float]:
    """Mean loss and metrics (accuracy, if none is named and targets are labels) of the model as it is now."""
    kept = isinstance(data, FeatureCache)
    predict = trainer.predictor(trainer.trained_part() if kept else trainer.model(averaged=averaged))
    losses = LossProgram(trainer.loss, trainer.isa)
    check_metrics(metrics)
    check_data(data, again=False)
    wanted = list(metrics)
    for metric in wanted:
        metric.reset()
    total, weight, count = 0.0, 0.0, 0
    plain = data.evaluation_batches(size=trainer.batch) if hasattr(data, "evaluation_batches") else None
    for x, y in batches(data, 0, 0, trainer.batch) if plain is None else plain:
        outputs, targets = listed(predict(*listed(x))), listed(y)
        if not wanted and not metrics and np.issubdtype(targets[0].dtype, np.integer):
            wanted.append(Accuracy())
        share = trainer.loss.counted(targets)
        total += share * losses(outputs, targets)
        weight += share
        count += outputs[0].shape[0]
        for metric in wanted:
            metric.update(outputs[0], targets[0])
    if count == 0:
        raise OptionError("there is nothing to evaluate on: the data set is empty")
    values = {"loss": total / weight if weight else 0.0}
    for metric in wanted:
        values |= metric.result()
    return values


def batches(data: Any, epoch: int, start: int, size: int) -> Iterator[Batch]:
    """(x, y) batches of at most `size` samples of one epoch, from batch `start` on."""
    if hasattr(data, "batches"):
        yield from data.batches(epoch=epoch, start=start, size=size)
    elif isinstance(data, tuple) and len(data) == 2 and all(isinstance(a, np.ndarray) for a in data):
        x, y = data
        for i in range(start * size, x.shape[0], size):
            yield x[i : i + size], y[i : i + size]
    else:
        yield from islice(iter(data), start, None)


def _source(
    trainer: Trainer,
    data: Any,
    cached: FeatureCache | list[tuple[list[Array], Any]] | None,
    epoch: int,
    start: int,
    size: int,
) -> Iterator[tuple[list[Array], Any]]:
    """Batches as what crosses the cut between the frozen and the trained part."""
    if isinstance(cached, FeatureCache):
        yield from cached.batches(epoch=epoch, start=start, size=size)
    elif cached is not None:
        yield from cached[start:]
    else:
        for x, y in batches(data, epoch, start, size):
            yield trainer.features(x), y
