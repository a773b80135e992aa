"""What a trainer does with arrays: steps, gradients, updates, and who may look at the state meanwhile.

`Stepping` begins where the frozen part of the model ends; `Trainer` is built on it and knows the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np

from homespun.compile.training import CONTROL, HYPERS, LOSS, RANDOM, SCALE, Mode, TrainingProgram
from homespun.errors import PausedError, ShapeError, TrainingError
from homespun.graph import Array
from homespun.options import not_negative
from homespun.training.loss_scale import LossScale
from homespun.training.losses import Loss
from homespun.training.model_state import ModelState, named_arrays
from homespun.training.optim import Optimizer
from homespun.training.optim.optimizer import MOST
from homespun.training.pause import PauseSwitch
from homespun.training.programs import Programs
from homespun.training.state import Store

if TYPE_CHECKING:
    from homespun.compile.inspection import Inspection
    from homespun.training.schedules import Schedule

Arrays = Array | Sequence[Array]
Part = tuple[Sequence[Array], Sequence[Array]]  # features and targets of one micro-batch


@dataclass(frozen=True)
class StepResult:
    """What one step did: mean loss over its samples before the update, the learning rate it used, its number (from 1),
    whether it was skipped (a gradient overflowed float16; it does not count then), and the norm of all gradients
    together where the optimizer clips it."""

    loss: float
    learning_rate: float
    step: int
    skipped: bool = False
    gradient_norm: float | None = None


class Stepping:
    """Steps of a model's trained part. A step takes up to `batch * accumulate` samples, `batch` at once."""

    def __init__(
        self,
        state: ModelState,
        programs: Programs,
        switch: PauseSwitch,
        loss: Loss,
        optimizer: Optimizer,
        batch: int,
        accumulate: int,
        loss_scale: LossScale | None,
    ) -> None:
        self.loss, self.optimizer, self.batch, self.accumulate = loss, optimizer, batch, accumulate
        self.loss_scale = loss_scale
        self.step_count = 0
        self.schedule: Schedule | None = None
        self._state, self._programs, self._switch = state, programs, switch
        self._store = state.store
        self._gradients: Store | None = None
        self._lock = RLock()
        self._divisions = 0  # blocks of `undivided` that are open
        self._amid_parts = False  # statistics have followed some micro-batches of a step

    @property
    def learning_rate(self) -> float:
        """Of the next step: the optimizer's, times the schedule's factor. Setting it sets the optimizer's."""
        factor = self.schedule.factor(self.step_count) if self.schedule is not None else 1.0
        return self.optimizer.learning_rate * factor

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.learning_rate = not_negative("learning_rate", value, most=MOST)

    def step_on_features(self, features: Sequence[Array], y: Arrays) -> StepResult:
        """A step from what `features` gave for the inputs, so that the frozen part need not run again."""
        with self.undivided():
            return self._step(self._parts(features, listed(y)))

    def gradients_on_features(self, features: Sequence[Array], y: Arrays) -> dict[str, Array]:
        """Gradients as `compute_gradients` gives them, as views, from what crosses the cut of the frozen part."""
        with self.undivided():
            parts = self._parts(features, listed(y))
            views = self._gradient_store().views
            while True:
                self._set_hyper()
                loss, before = self._accumulate(parts)
                finite = all(np.isfinite(v).all() for v in views.values())
                if math.isfinite(loss) and finite:
                    break
                self._store.fill(before)
                if self.loss_scale is None or not math.isfinite(loss):
                    what = "gradients are not finite" if math.isfinite(loss) else f"loss is {loss}"
                    raise TrainingError(f"the {what}; ask `diagnose(x, y)` where it begins")
                self.loss_scale.overflowed()
            if self.loss_scale is not None:
                for view in views.values():
                    view /= self.loss_scale.value
            return views

    def apply_gradients(self, gradients: Mapping[str, Array]) -> StepResult:
        """Update from gradients by parameter name, as if a step had computed them; a parameter left out gets zero.

        Raises `TrainingError` for an unknown name or values that are not finite, `ShapeError` for another shape;
        nothing is changed then.
        """
        with self.undivided():
            store = self._gradient_store()
            arrays = named_arrays(gradients, store.views, "apply_gradients")
            for name, view in store.views.items():
                view[...] = arrays.get(name, 0)
            rate = self.learning_rate
            self._set_hyper(scale=1.0)
            done = self._run("apply", (), ())
            return self._finished(done, math.nan, rate, {})

    def loss_on_features(self, features: Sequence[Array], y: Arrays) -> float:
        """Mean loss in training mode, without learning, from what crosses the cut of the frozen part."""
        with self.undivided():
            parts = self._parts(features, listed(y))
            self._set_hyper()
            loss, before = self._accumulate(parts)
            self._store.fill(before)
            return loss

    def inspections(self, features: Sequence[Array], y: Arrays) -> Iterator[tuple[list[Array], Inspection]]:
        """For each micro-batch of a step its arrays, and a program that shows every value it computes of them."""
        self._set_hyper()
        for i, part in enumerate(self._parts(features, listed(y))):
            self._store[RANDOM][1] = self.step_count + (i << 40)
            inspection, arrays = self._programs.inspection(*part)
            yield arrays, inspection

    # -- who may look at the state ------------------------------------------------------------------------------

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """No step runs inside the block: what is read there belongs together.

        Waits for the end of a step that runs. While the trainer is paused it takes the state as it stands; if the step
        that stands still has begun to change it, that step is finished first, and the pause goes on after it. Raises
        `PausedError` where only the caller itself could finish the step.
        """
        while not self._lock.acquire(timeout=0.01):
            with self._switch.held() as held:
                if held and self.settled:
                    yield
                    return
            if held:
                self._switch.finish()
        try:
            self._check_settled()
            yield
        finally:
            self._lock.release()

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """For what belongs to a step but is counted elsewhere: no checkpoint of another thread, and no Ctrl-C that came
        when parameters had begun to change, falls between what is done inside the block."""
        with self._lock:
            self._divisions += 1
            try:
                yield
            finally:
                self._divisions -= 1
                if self._divisions == 0:
                    self._switch.finished()
            if self._divisions == 0:
                self._switch.raise_interruption()

    def _check_settled(self) -> None:
        if not self.settled:
            raise PausedError(
                f"step {self.step_count + 1} stands still half done, and it is this thread that must finish it: save "
                "from another thread, which finishes it first, or when it has ended"
            )

    @property
    def settled(self) -> bool:
        """Whether parameters, statistics and optimizer states are those after a whole number of steps. While a trainer
        is paused in the middle of a step that is so until the step's first update."""
        return self._switch.settled and not self._amid_parts

    @contextmanager
    def calling_when_paused(self, function: Callable[[], None]) -> Iterator[None]:
        """Inside the block the thread that trains calls a function whenever it has come to stand still in a step."""
        self._switch.listeners.append(function)
        try:
            yield
        finally:
            self._switch.listeners.remove(function)

    # -- inside -------------------------------------------------------------------------------------------------

    def _step(self, parts: list[Part]) -> StepResult:
        rate = self.learning_rate
        self._set_hyper()
        before: Mapping[str, Array] = {}
        done: TrainingProgram | None = None
        if len(parts) == 1 and not self._programs.choice.micro_batch:
            self._store[RANDOM][1] = self.step_count
            done = self._run("step", *parts[0])
            loss = float(self._store[LOSS])
        else:
            loss, before = self._accumulate(parts)
            if math.isfinite(loss):
                done = self._run("apply", (), ())
        if done is None or not math.isfinite(loss):
            self._store.fill(before)
            raise TrainingError(
                f"step {self.step_count + 1}: the loss is {loss}; nothing was updated. Look at the data, lower the "
                f"learning rate ({self.learning_rate:g}), or ask `diagnose(x, y)` where it begins"
            )
        return self._finished(done, loss, rate, before)

    def _finished(self, done: TrainingProgram, loss: float, rate: float, before: Mapping[str, Array]) -> StepResult:
        """Account for an update that was tried: it counts, unless a gradient was not finite."""
        good, norm, count = (float(self._store[CONTROL][i]) for i in (0, 2, 3))
        if not good:
            self._store.fill(before)
            if self.loss_scale is None:
                raise TrainingError(f"step {self.step_count + 1}: {self._refused(done, int(count))}")
            self.loss_scale.overflowed()
            return StepResult(loss, rate, self.step_count, skipped=True)
        if self.loss_scale is not None:
            self.loss_scale.kept()
        self.step_count += 1
        return StepResult(loss, rate, self.step_count, gradient_norm=norm if self.optimizer.clip_norm > 0 else None)

    def _refused(self, done: TrainingProgram, updated: int) -> str:
        """What a step that met a gradient that is not finite says; `updated` parameters had been changed before it."""
        advice = f"Lower the learning rate ({self.learning_rate:g}), or ask `diagnose(x, y)` where it begins"
        if not updated:
            return f"the gradients are not finite; nothing was updated. {advice}"
        names = done.updated
        return (
            f"the gradient of {names[updated]!r} is not finite. It and all that follow stay as they were, as do the "
            f"statistics, but {updated} of {len(names)} parameters, {names[0]!r} to {names[updated - 1]!r}, had been "
            f"updated: restore a checkpoint. {advice}; with clip_norm=math.inf all gradients are looked at first"
        )

    def _gradient_store(self) -> Store:
        if self._gradients is None:
            self._gradients = Store(self._state.gradient_layout)
        return self._gradients

    def _set_hyper(self, scale: float = 0.0) -> None:
        """Numbers that the programs read: of the next step, and the loss scale (0: the one that holds)."""
        scale = scale or (self.loss_scale.value if self.loss_scale is not None else 1.0)
        first, second = self.optimizer.hyper(self.step_count + 1)
        self._store[HYPERS][:4] = (self.learning_rate, first, second, 1.0 / scale)
        self._store[SCALE][...] = scale

    def _parts(self, features: Sequence[Array], targets: Sequence[Array]) -> list[Part]:
        """A step's samples in micro-batches."""
        if not targets or any(a.ndim == 0 for a in targets):
            raise ShapeError("targets must be arrays with one entry, or one row, for each sample")
        counts = {a.shape[0] for a in (*features, *targets)}
        count = features[0].shape[0]
        most = self.batch * self.accumulate
        if len(counts) != 1 or not 1 <= count <= most:
            sizes = ", ".join(str(a.shape[0]) for a in (*features, *targets))
            raise ShapeError(f"a step takes 1 to {most} samples, as many of each input and target; {sizes} given")
        size = self._programs.choice.micro_batch or self.batch
        return [
            ([a[i : i + size] for a in features], [a[i : i + size] for a in targets]) for i in range(0, count, size)
        ]

    def _accumulate(self, parts: Sequence[Part]) -> tuple[float, dict[str, Array]]:
        """Gradients of the mean over all parts into the gradient block: (mean loss, the statistics before)."""
        # All are prepared before one runs: a bad label in the last part leaves the statistics alone.
        runs = [self._prepared("gradients", *part) for part in parts]
        weights = [self.loss.counted(targets) for _, targets in parts]
        shares = [w / (sum(weights) or 1.0) for w in weights]
        for view in self._gradient_store().views.values():
            view[...] = 0
        total = 0.0
        before = self._state.moving_statistics()
        try:
            for i, (run, share) in enumerate(zip(runs, shares, strict=True)):
                self._store[RANDOM][1] = self.step_count + (i << 40)
                self._store[HYPERS][4] = share
                self._switch.run(*run)
                self._switch.raise_interruption()
                self._amid_parts = True
                total += share * float(self._store[LOSS])
                if not math.isfinite(total):
                    break
        except BaseException:
            self._store.fill(before)
            raise
        finally:
            self._amid_parts = False
        return total, before

    def _run(self, mode: Mode, features: Sequence[Array], targets: Sequence[Array]) -> TrainingProgram:
        compiled, arrays = self._prepared(mode, features, targets)
        self._switch.run(compiled, arrays)
        return compiled

    def _prepared(
        self, mode: Mode, features: Sequence[Array], targets: Sequence[Array]
    ) -> tuple[TrainingProgram, list[Array]]:
        compiled, arrays = self._programs.prepared(mode, features, targets)
        if mode != "step":
            arrays.append(self._gradient_store().bytes)
        return compiled, arrays


def listed(x: Arrays) -> list[Array]:
    """One array or several, as a list of arrays."""
    return [np.asarray(a) for a in x] if isinstance(x, (list, tuple)) and not np.isscalar(x[0]) else [np.asarray(x)]
