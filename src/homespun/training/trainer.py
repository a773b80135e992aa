"""`Trainer`: a model, compiled for training, that learns from NumPy arrays, one step at a time.

The frozen part of the model runs as an inference program; the rest as one program of forward, backward and update.
Fitting, checkpoints and pausing stand in modules of their own; this one holds the state and runs the programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from homespun.compile.compiler import MemoryReport, choose_isa
from homespun.compile.training import CONTROL, HYPERS, LOSS, RANDOM, SCALE, Mode, TrainingProgram
from homespun.errors import OptionError, ShapeError, TrainingError
from homespun.graph import Array, Graph, check
from homespun.graph.inputs import input_arrays
from homespun.runtime import Predictor
from homespun.training.budget import as_bytes, choose
from homespun.training.loss_scale import LossScale
from homespun.training.losses import Loss
from homespun.training.model_state import ModelState, check_named
from homespun.training.optim import Optimizer
from homespun.training.pause import PauseSwitch
from homespun.training.programs import STORAGE, Programs
from homespun.training.progress import Progress
from homespun.training.schedules import Schedule
from homespun.training.state import Store
from homespun.training.trainable import Trainable, trainable_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from homespun.training.fit import FitResult

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


class Trainer:
    """Trains a model.

    `batch` samples run at once; a step takes up to `batch * accumulate` and updates once, as if they were one batch.
    `trainable`: "all", "head", name patterns, or a predicate on names; what depends on none of them runs as inference
    with `backbone_weights` ("float32" or "int8"). `precision` "mixed" stores activations as bfloat16, "mixed_float16"
    as float16, with a `loss_scale` that finds its value by itself; parameters, statistics and the loss are float32
    always. `average` is the decay of an exponential moving average of the weights, kept beside them. `memory_budget`
    ("96MB", or bytes) bounds arena, parameters and optimizer state together. The model given is not changed.
    """

    def __init__(
        self,
        model: Graph,
        loss: Loss,
        optimizer: Optimizer,
        batch: int = 8,
        accumulate: int = 1,
        trainable: Trainable = "all",
        precision: str = "float32",
        memory_budget: int | str | None = None,
        threads: int = 2,
        seed: int = 0,
        *,
        average: float = 0.0,
        backbone_weights: str = "float32",
        loss_scale: LossScale | None = None,
        isa: str | None = None,
    ) -> None:
        if batch < 1 or accumulate < 1 or threads < 1:
            raise OptionError(
                f"batch, accumulate and threads must be at least 1, not {batch}, {accumulate} and {threads}"
            )
        if precision not in STORAGE:
            raise OptionError(f"precision is {precision!r}; it can be {', '.join(map(repr, STORAGE))}")
        if loss_scale is not None and precision != "mixed_float16":
            raise OptionError(f"a loss_scale goes with precision 'mixed_float16', not with {precision!r}")
        if not 0.0 <= average < 1.0:
            raise OptionError(f"average is {average}; it can be 0 (none) up to but not 1")
        check(model)
        self.loss, self.optimizer = loss, optimizer
        self.batch, self.accumulate, self.precision, self.threads, self.seed = (
            batch,
            accumulate,
            precision,
            threads,
            seed,
        )
        self.average, self.backbone_weights, self.isa = average, backbone_weights, choose_isa(isa)
        self.memory_budget = memory_budget
        self.loss_scale = loss_scale or LossScale() if precision == "mixed_float16" else None
        self.trainable = tuple(trainable_parameters(model, trainable))
        self.step_count = 0
        self.schedule: Schedule | None = None
        self.progress = Progress()
        self._state = ModelState(model, self.trainable, optimizer, average, seed)
        self._store = self._state.store
        self._switch = PauseSwitch()
        self._programs = Programs(self._state, loss, optimizer, precision, threads, self.isa, self._switch)
        self._backbone: Predictor | None = None
        self._gradients: Store | None = None
        self._lock = RLock()
        if memory_budget is not None:
            self._programs.choice = choose(self._programs, batch, as_bytes(memory_budget))

    # -- learning -----------------------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """Of the next step: the optimizer's, times the schedule's factor. Setting it sets the optimizer's."""
        factor = self.schedule.factor(self.step_count) if self.schedule is not None else 1.0
        return self.optimizer.learning_rate * factor

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not (value >= 0 and math.isfinite(value)):
            raise OptionError(f"learning_rate is {value}; it must be finite and not negative")
        self.optimizer.learning_rate = float(value)

    def step(self, x: Arrays, y: Arrays) -> StepResult:
        """Learn from N samples, N at most `batch * accumulate`: x (N, ...) float32 and y as the loss wants it.

        Raises `ShapeError` for other shapes, `TrainingError` for targets out of range or a loss that is not finite; the
        trainer's state is then as before.
        """
        return self.step_on_features(self.features(x), y)

    def step_on_features(self, features: Sequence[Array], y: Arrays) -> StepResult:
        """A step from what `features` gave for the inputs, so that the frozen part need not run again."""
        with self._lock:
            return self._step(self._parts(features, _listed(y)))

    def _step(self, parts: list[Part]) -> StepResult:
        rate = self.learning_rate
        self._set_hyper()
        before: Mapping[str, Array] = {}
        if len(parts) == 1 and not self._programs.choice.micro_batch:
            self._store[RANDOM][1] = self.step_count
            self._run("step", *parts[0])
            loss = float(self._store[LOSS])
        else:
            before = self._state.moving_statistics()
            loss = self._accumulate(parts)
            if math.isfinite(loss):
                self._run("apply", (), ())
        if not math.isfinite(loss):
            self._store.fill(before)
            raise TrainingError(
                f"step {self.step_count + 1}: the loss is {loss}; nothing was updated. Look at the data, lower the "
                f"learning rate ({self.learning_rate:g}), or ask `diagnose(x, y)` where it begins"
            )
        return self._finished(loss, rate, before)

    def _finished(self, loss: float, rate: float, before: Mapping[str, Array]) -> StepResult:
        """Account for an update that was tried: it counts, unless a gradient was not finite."""
        updated, _, norm, _ = (float(v) for v in self._store[CONTROL])
        if not updated:
            self._store.fill(before)
            if self.loss_scale is None:
                raise TrainingError(
                    f"step {self.step_count + 1}: the gradients are not finite; nothing was updated. Lower the "
                    f"learning rate ({self.learning_rate:g}), or ask `diagnose(x, y)`"
                )
            self.loss_scale.overflowed()
            return StepResult(loss, rate, self.step_count, skipped=True)
        if self.loss_scale is not None:
            self.loss_scale.kept()
        self.step_count += 1
        return StepResult(loss, rate, self.step_count, gradient_norm=norm if self.optimizer.clip_norm > 0 else None)

    def features(self, x: Arrays) -> list[Array]:
        """What the frozen part makes of inputs: a step's first half, which may be computed once and kept."""
        arrays = self._inputs(x)
        frozen = self._state.split.frozen
        if frozen is None:
            return arrays
        if self._backbone is None:
            self._backbone = Predictor(frozen, self.batch, self.backbone_weights, self.threads, self.isa)
        named = dict(zip(self._state.whole.inputs, arrays, strict=True))
        made = self._backbone(*(named[n] for n in frozen.inputs))
        results = list(made) if isinstance(made, tuple) else [made]
        own = self._state.split.trained.inputs[len(self._state.split.features) :]
        return [*results, *(named[n] for n in own)]

    def loss_of(self, x: Arrays, y: Arrays) -> float:
        """Mean loss of N samples in training mode, without learning from them."""
        with self._lock:
            before = self._state.moving_statistics()
            parts = self._parts(self.features(x), _listed(y))
            self._set_hyper()
            loss = self._accumulate(parts)
            self._store.fill(before)
            return loss

    # -- gradients in and out -----------------------------------------------------------------------------------

    def compute_gradients(self, x: Arrays, y: Arrays, *, copy: bool = True) -> dict[str, Array]:
        """Gradients of the mean loss over N samples, by parameter name. Running statistics follow, as in a step.

        With `copy=False` the arrays are views that the next call overwrites. Raises as `step` does.
        """
        with self._lock:
            parts = self._parts(self.features(x), _listed(y))
            before = self._state.moving_statistics()
            views = self._gradient_store().views
            while True:
                self._set_hyper()
                loss = self._accumulate(parts)
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
            return {n: v.copy() if copy else v for n, v in views.items()}

    def apply_gradients(self, gradients: Mapping[str, Array]) -> StepResult:
        """Update from gradients by parameter name, as if a step had computed them; a parameter left out gets zero.

        Raises `TrainingError` for an unknown name or values that are not finite, `ShapeError` for another shape;
        nothing is changed then.
        """
        with self._lock:
            store = self._gradient_store()
            for name, value in gradients.items():
                check_named(name, value, store.views, "apply_gradients")
                if not np.isfinite(value).all():
                    raise TrainingError(f"apply_gradients: {name!r} has values that are not finite")
            for name, view in store.views.items():
                if name in gradients:
                    np.copyto(view, gradients[name])
                else:
                    view[...] = 0
            rate = self.learning_rate
            self._set_hyper(scale=1.0)
            self._run("apply", (), ())
            return self._finished(math.nan, rate, {})

    def parameters(self, *, copy: bool = True, trainable_only: bool = False) -> dict[str, Array]:
        """All parameters by name, as the model has them; views of the trainer's own memory where `copy` is False."""
        return self._state.parameters(copy=copy, names=self.trainable if trainable_only else None)

    def load_parameters(self, values: Mapping[str, Array]) -> None:
        """Set parameters by name; those left out stay. Raises as `apply_gradients`, with nothing changed."""
        with self._lock:
            self._state.load_parameters(values)
            frozen = self._state.split.frozen
            if frozen is not None and any(n in frozen.tensors for n in values):
                self._backbone = None  # its weights are packed; it is compiled afresh when next needed

    def state(self, *, copy: bool = True) -> dict[str, Array]:
        """Running statistics by name."""
        return self._state.statistics(copy=copy)

    def optimizer_state(self, *, copy: bool = True) -> dict[str, Array]:
        """The optimizer's states and the averages of weights, by "optimizer/parameter/name" and "average/parameter"."""
        return self._state.optimizer_state(copy=copy)

    def load_optimizer_state(self, values: Mapping[str, Array]) -> None:
        """Set states of the optimizer by name. Raises as `apply_gradients`, with nothing changed."""
        with self._lock:
            self._state.load_optimizer_state(values)

    def averaged_parameters(self) -> dict[str, Array]:
        """Parameters with the moving averages of the trained ones in their place. Needs `average`."""
        return self._state.averaged_parameters()

    def model(self, *, averaged: bool = False) -> Graph:
        """The model with the parameters and statistics it has now: for `Predictor`, `save`, another trainer."""
        return self._state.model(averaged=averaged)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """No step runs inside the block: what is read there belongs together."""
        with self._lock:
            yield

    def training_state(self) -> dict[str, Array]:
        """Views of all that a checkpoint holds beside the model: optimizer states, averages, random state."""
        return self._state.training_state()

    def take_over(self, graph: Graph, states: Mapping[str, Array]) -> None:
        """Continue from a model's parameters and statistics and from training states of the same names and shapes."""
        with self._lock:
            self._state.take_over(graph, states)
            self._backbone = None

    # -- pausing ------------------------------------------------------------------------------------------------

    def pause(self, release_memory: bool = False, timeout: float | None = None) -> bool:
        """Stop between two kernels, from any thread or signal handler; steps wait until `resume`.

        With `release_memory` the arenas go back to the system too. Returns once that is so; False after `timeout`
        seconds if it is not yet. Called by the thread that trains, it holds from the next step on.
        """
        return self._switch.pause(release_memory, timeout)

    def resume(self) -> None:
        """Go on exactly where `pause` stopped."""
        self._switch.resume()

    @property
    def paused(self) -> bool:
        """Whether a pause has been asked for."""
        return self._switch.requested

    # -- fitting, files -----------------------------------------------------------------------------------------

    def fit(self, data: Any, epochs: int = 1, **options: Any) -> FitResult:
        """Train for some epochs; see `homespun.training.fit.fit`."""
        from homespun.training.fit import fit

        return fit(self, data, epochs, **options)

    def evaluate(self, data: Any, **options: Any) -> dict[str, float]:
        """Loss and metrics of the model in inference mode; see `homespun.training.fit.evaluate`."""
        from homespun.training.fit import evaluate

        return evaluate(self, data, **options)

    def save_checkpoint(self, path: str | Path, **extra: Any) -> None:
        """Write everything that training goes on from; see `homespun.training.checkpoint`."""
        from homespun.training.checkpoint import save_checkpoint

        save_checkpoint(self, path, **extra)

    def restore(self, path: str | Path) -> None:
        """Come to the state of a checkpoint. Raises `FormatError`, with nothing changed, if it is another model's."""
        from homespun.training.checkpoint import restore

        restore(self, path)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> Self:
        """The trainer of a checkpoint, exactly as it was."""
        from homespun.training.checkpoint import load_checkpoint

        return load_checkpoint(cls, path, **options)  # type: ignore[no-any-return]

    def export(
        self, path: str | Path, weights: str = "float32", *, averaged: bool = False, calibrate: Any = None
    ) -> None:
        """Write the model for inference: batch norm folded into weights, dropout gone. See `hs.save` for the rest."""
        from homespun.training.export import export

        export(self, path, weights, averaged=averaged, calibrate=calibrate)

    def diagnose(self, x: Arrays, y: Arrays) -> str:
        """Where, in the order of the forward pass, values stop being finite: a sentence for a person to read."""
        from homespun.training.diagnosis import diagnose

        return diagnose(self, x, y)

    @property
    def memory(self) -> MemoryReport:
        """Bytes of the step of a full batch, the frozen part's program not counted."""
        return self._programs.memory(self.batch)

    @property
    def state_bytes(self) -> int:
        """Parameters, statistics and optimizer states."""
        return self._store.layout.size

    @property
    def compromises(self) -> str:
        """What was done to keep within `memory_budget`, in words."""
        return str(self._programs.choice)

    # -- inside -------------------------------------------------------------------------------------------------

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

    def _inputs(self, x: Arrays) -> list[Array]:
        return input_arrays(self._state.whole, _listed(x))

    def _parts(self, features: Sequence[Array], targets: Sequence[Array]) -> list[Part]:
        """A step's samples in micro-batches."""
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

    def _accumulate(self, parts: Sequence[Part]) -> float:
        """Gradients of the mean over all parts into the gradient block; returns the mean loss."""
        count = sum(f[0].shape[0] for f, _ in parts)
        shares = [f[0].shape[0] / count for f, _ in parts]
        # All are prepared before one runs: a bad label in the last part leaves the statistics alone.
        runs = [self._prepared("gradients", *part, share) for part, share in zip(parts, shares, strict=True)]
        for view in self._gradient_store().views.values():
            view[...] = 0
        total = 0.0
        for i, (run, share) in enumerate(zip(runs, shares, strict=True)):
            self._store[RANDOM][1] = self.step_count + (i << 40)
            self._switch.run(*run)
            total += share * float(self._store[LOSS])
            if not math.isfinite(total):
                break
        return total

    def _run(self, mode: Mode, features: Sequence[Array], targets: Sequence[Array]) -> None:
        self._switch.run(*self._prepared(mode, features, targets, 1.0))

    def _prepared(
        self, mode: Mode, features: Sequence[Array], targets: Sequence[Array], share: float
    ) -> tuple[TrainingProgram, list[Array]]:
        compiled, arrays = self._programs.prepared(mode, features, targets, share)
        if mode != "step":
            arrays.append(self._gradient_store().bytes)
        return compiled, arrays

    def _main_program(self) -> TrainingProgram:
        return self._programs.main(self.batch)


def _listed(x: Arrays) -> list[Array]:
    return [np.asarray(a) for a in x] if isinstance(x, (list, tuple)) and not np.isscalar(x[0]) else [np.asarray(x)]
