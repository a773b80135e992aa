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
from homespun.compile.lowering import Lowered
from homespun.compile.split import split
from homespun.compile.training import (
    COMMON_STATES,
    CONTROL,
    HYPERS,
    LOSS,
    RANDOM,
    Mode,
    StateLayout,
    TrainingPlan,
    TrainingProgram,
    Update,
    compile_training,
    lower_training,
    recompute_candidates,
)
from homespun.errors import OptionError, ShapeError, TrainingError
from homespun.graph import Array, Graph, TensorType, check, infer
from homespun.graph.inputs import input_arrays
from homespun.runtime import Predictor
from homespun.training.budget import Choice, as_bytes, choose
from homespun.training.losses import Loss, as_targets
from homespun.training.optim import Optimizer
from homespun.training.pause import PauseSwitch
from homespun.training.progress import Progress
from homespun.training.schedules import Schedule
from homespun.training.state import Store
from homespun.training.trainable import Trainable, trainable_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from homespun.training.fit import FitResult

Arrays = Array | Sequence[Array]


@dataclass(frozen=True)
class StepResult:
    """What one step did: mean loss over its samples before the update, the learning rate it used, its number (from 1),
    whether the update was left out, and the norm of all gradients together where the optimizer clips it."""

    loss: float
    learning_rate: float
    step: int
    skipped: bool = False
    gradient_norm: float | None = None


class Trainer:
    """Trains a model.

    `batch` samples run at once; a step takes up to `batch * accumulate` and updates once, as if they were one batch.
    `trainable`: "all", "head", name patterns, or a predicate on names; what depends on none of them runs as inference
    with `backbone_weights` ("float32" or "int8"). `precision` "mixed" stores activations as bfloat16. `average` is the
    decay of an exponential moving average of the weights, kept beside them. `memory_budget` ("96MB", or bytes) bounds
    arena, parameters and optimizer state together. The model given is not changed.
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
        isa: str | None = None,
    ) -> None:
        if batch < 1 or accumulate < 1 or threads < 1:
            raise OptionError(
                f"batch, accumulate and threads must be at least 1, not {batch}, {accumulate} and {threads}"
            )
        if precision not in ("float32", "mixed"):
            raise OptionError(f"precision is {precision!r}; it can be 'float32' or 'mixed'")
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
        self.trainable = tuple(trainable_parameters(model, trainable))
        self.step_count = 0
        self.schedule: Schedule | None = None
        self.progress = Progress()
        self._whole = model.copy()
        self._split = split(self._whole, self.trainable)
        self._updates = {name: self._update(name) for name in self.trainable}
        self._store = Store(self._layout())
        graph = self._split.trained
        self._store.fill({t.name: t.data for t in graph.with_role("parameter", "state") if t.data is not None})
        self._store[RANDOM][:] = (seed, 0)
        self._begin_averages()
        self._programs: dict[Any, TrainingProgram] = {}
        self._backbone: Predictor | None = None
        self._gradients: Store | None = None
        self._lock = RLock()
        self._switch = PauseSwitch()
        self._choice = Choice()
        if memory_budget is not None:
            self._choice = choose(self, as_bytes(memory_budget))

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

    def _step(self, parts: list[tuple[list[Array], list[Array]]]) -> StepResult:
        rate = self.learning_rate
        self._set_hyper(self.step_count + 1)
        if len(parts) == 1 and not self._choice.micro_batch:
            self._store[RANDOM][1] = self.step_count
            self._run("step", *parts[0])
        else:
            before = self._statistics()
            loss = self._accumulate(parts)
            if not math.isfinite(loss):
                self._store.fill(before)
            else:
                self._run("apply", (), ())
            self._store[LOSS][...] = loss
        loss = float(self._store[LOSS])
        control = self._store[CONTROL]
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {self.step_count + 1}: the loss is {loss}; nothing was updated. Look at the data, lower the "
                f"learning rate ({self.learning_rate:g}), or ask `diagnose(x, y)` where it begins"
            )
        self.step_count += 1
        norm = float(control[2]) if self.optimizer.clip_norm > 0 else None
        return StepResult(loss, rate, self.step_count, bool(control[0] == 0.0), norm)

    def features(self, x: Arrays) -> list[Array]:
        """What the frozen part makes of inputs: a step's first half, which may be computed once and kept."""
        arrays = self._inputs(x)
        frozen = self._split.frozen
        if frozen is None:
            return arrays
        if self._backbone is None:
            self._backbone = Predictor(frozen, self.batch, self.backbone_weights, self.threads, self.isa)
        named = dict(zip(self._whole.inputs, arrays, strict=True))
        made = self._backbone(*(named[n] for n in frozen.inputs))
        results = list(made) if isinstance(made, tuple) else [made]
        own = self._split.trained.inputs[len(self._split.features) :]
        return [*results, *(named[n] for n in own)]

    def loss_of(self, x: Arrays, y: Arrays) -> float:
        """Mean loss of N samples in training mode, without learning from them."""
        with self._lock:
            before = self._statistics()
            loss = self._accumulate(self._parts(self.features(x), _listed(y)))
            self._store.fill(before)
            return loss

    # -- gradients in and out -----------------------------------------------------------------------------------

    def compute_gradients(self, x: Arrays, y: Arrays, *, copy: bool = True) -> dict[str, Array]:
        """Gradients of the mean loss over N samples, by parameter name. Running statistics follow, as in a step.

        With `copy=False` the arrays are views that the next call overwrites. Raises as `step` does.
        """
        with self._lock:
            parts = self._parts(self.features(x), _listed(y))
            before = self._statistics()
            self._set_hyper(self.step_count + 1)
            loss = self._accumulate(parts)
            if not math.isfinite(loss):
                self._store.fill(before)
                raise TrainingError(f"the loss is {loss}; there are no gradients")
            views = self._gradient_store().views
            return {n: v.copy() if copy else v for n, v in views.items()}

    def apply_gradients(self, gradients: Mapping[str, Array]) -> StepResult:
        """Update from gradients by parameter name, as if a step had computed them; a parameter left out gets zero.

        Raises `TrainingError` for an unknown name and `ShapeError` for another shape; nothing is changed then.
        """
        with self._lock:
            store = self._gradient_store()
            for name, value in gradients.items():
                self._check_named(name, value, store.views, "apply_gradients")
            for name, view in store.views.items():
                if name in gradients:
                    np.copyto(view, gradients[name])
                else:
                    view[...] = 0
            self._set_hyper(self.step_count + 1)
            self._run("apply", (), ())
            self.step_count += 1
            control = self._store[CONTROL]
            norm = float(control[2]) if self.optimizer.clip_norm > 0 else None
            return StepResult(math.nan, self.learning_rate, self.step_count, bool(control[0] == 0.0), norm)

    def parameters(self, *, copy: bool = True, trainable_only: bool = False) -> dict[str, Array]:
        """All parameters by name, as the model has them; views of the trainer's own memory where `copy` is False."""
        names = self.trainable if trainable_only else tuple(self._whole.parameters())
        found = {n: self._store[n] if n in self._store else self._whole.data(n) for n in names}
        return {n: v.copy() if copy else v for n, v in found.items()}

    def load_parameters(self, values: Mapping[str, Array]) -> None:
        """Set parameters by name; those left out stay. Raises as `apply_gradients`, with nothing changed."""
        with self._lock:
            known = self._whole.parameters()
            for name, value in values.items():
                self._check_named(name, value, known, "load_parameters")
            for name, value in values.items():
                self._whole.tensors[name].data = np.array(value, np.float32)
                if name in self._store:
                    np.copyto(self._store[name], value)
            frozen = self._split.frozen
            if frozen is not None and any(n in frozen.tensors for n in values):
                for name in values:
                    if name in frozen.tensors:
                        frozen.tensors[name].data = self._whole.tensors[name].data
                self._backbone = None  # its weights are packed; it is compiled afresh when next needed

    def state(self, *, copy: bool = True) -> dict[str, Array]:
        """Running statistics by name."""
        names = [t.name for t in self._whole.with_role("state")]
        found = {n: self._store[n] if n in self._store else self._whole.data(n) for n in names}
        return {n: v.copy() if copy else v for n, v in found.items()}

    def optimizer_state(self, *, copy: bool = True) -> dict[str, Array]:
        """The optimizer's states and the averages of weights, by "optimizer/parameter/name" and "average/parameter"."""
        names = [s for u in self._updates.values() for s in (*u.states, u.average) if s]
        return {n: self._store[n].copy() if copy else self._store[n] for n in names}

    def load_optimizer_state(self, values: Mapping[str, Array]) -> None:
        """Set states of the optimizer by name. Raises as `apply_gradients`, with nothing changed."""
        with self._lock:
            known = self.optimizer_state(copy=False)
            for name, value in values.items():
                self._check_named(name, value, known, "load_optimizer_state")
            self._store.fill(values)

    def averaged_parameters(self) -> dict[str, Array]:
        """Parameters with the moving averages of the trained ones in their place. Needs `average`."""
        if self.average == 0:
            raise OptionError("this trainer keeps no average of its weights; make it with average=0.999 or so")
        return {
            n: self._store[f"average/{n}"].copy() if n in self._updates else v for n, v in self.parameters().items()
        }

    def model(self, *, averaged: bool = False) -> Graph:
        """The model with the parameters and statistics it has now: for `Predictor`, `save`, another trainer."""
        graph = self._whole.copy()
        values = self.averaged_parameters() if averaged else self.parameters()
        for name, value in {**values, **self.state()}.items():
            graph.tensors[name].data = value
        return graph

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """No step runs inside the block: what is read there belongs together."""
        with self._lock:
            yield

    def training_state(self) -> dict[str, Array]:
        """Views of all that a checkpoint holds beside the model: optimizer states, averages, random state."""
        return {**self.optimizer_state(copy=False), RANDOM: self._store[RANDOM]}

    def take_over(self, graph: Graph, states: Mapping[str, Array]) -> None:
        """Continue from a model's parameters and statistics and from training states of the same names and shapes."""
        with self._lock:
            for t in graph.with_role("state"):
                assert t.data is not None
                self._whole.tensors[t.name].data = np.array(t.data)
                if t.name in self._store:
                    np.copyto(self._store[t.name], t.data)
                frozen = self._split.frozen
                if frozen is not None and t.name in frozen.tensors:
                    frozen.tensors[t.name].data = self._whole.tensors[t.name].data
            self.load_parameters(graph.parameters())
            self._store.fill(states)
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

    def export(self, path: str | Path, weights: str = "float32", *, averaged: bool = False) -> None:
        """Write the model for inference: batch norm folded into weights, dropout gone."""
        from homespun.training.export import export

        export(self, path, weights, averaged=averaged)

    def diagnose(self, x: Arrays, y: Arrays) -> str:
        """Where, in the order of the forward pass, values stop being finite: a sentence for a person to read."""
        from homespun.training.diagnosis import diagnose

        return diagnose(self, x, y)

    @property
    def memory(self) -> MemoryReport:
        """Bytes of the step of a full batch, the frozen part's program not counted."""
        lowered = self._main_program().lowered
        trained = {n for n in self._store.views if not n.startswith(("optimizer/", "average/", "train/"))}
        return MemoryReport(
            arena=lowered.plan.size,
            lower_bound=lowered.plan.lower_bound,
            without_reuse=lowered.unshared_bytes,
            parameters=sum(self._store[n].nbytes for n in trained) + lowered.constants.size,
            optimizer=sum(v.nbytes for v in self.optimizer_state(copy=False).values()),
        )

    # -- inside -------------------------------------------------------------------------------------------------

    def _update(self, name: str) -> Update:
        states = tuple(f"optimizer/{name}/{s}" if s else "" for s in self.optimizer.states())
        average = f"average/{name}" if self.average > 0 else ""
        return Update(self.optimizer.op, self.optimizer.attributes_for(name), states, average, self.average)

    def _layout(self) -> StateLayout:
        layout = StateLayout()
        for t in self._split.trained.with_role("parameter", "state"):
            layout.add(t.name, TensorType(t.shape, t.dtype))
        for name, update in self._updates.items():
            for state in (*update.states, update.average):
                if state:
                    layout.add(state, layout.types[name])
        for name, common in COMMON_STATES.items():
            layout.add(name, common)
        return layout

    def _begin_averages(self) -> None:
        for name, update in self._updates.items():
            if update.average:
                np.copyto(self._store[update.average], self._store[name])

    def _gradient_layout(self) -> StateLayout:
        layout = StateLayout()
        for name in self._updates:
            layout.add(name, self._store.layout.types[name])
        return layout

    def _gradient_store(self) -> Store:
        if self._gradients is None:
            self._gradients = Store(self._gradient_layout())
        return self._gradients

    def _statistics(self) -> dict[str, Array]:
        names = [t.name for t in self._split.trained.with_role("state")]
        return {n: self._store[n].copy() for n in names if n in self._store}

    def _set_hyper(self, step: int) -> None:
        first, second = self.optimizer.hyper(step)
        self._store[HYPERS][:4] = (self.learning_rate, first, second, 1.0)

    def _inputs(self, x: Arrays) -> list[Array]:
        return input_arrays(self._whole, _listed(x))

    def _parts(self, features: Sequence[Array], targets: Sequence[Array]) -> list[tuple[list[Array], list[Array]]]:
        """A step's samples in micro-batches."""
        counts = {a.shape[0] for a in (*features, *targets)}
        count = features[0].shape[0]
        most = self.batch * self.accumulate
        if len(counts) != 1 or not 1 <= count <= most:
            sizes = ", ".join(str(a.shape[0]) for a in (*features, *targets))
            raise ShapeError(f"a step takes 1 to {most} samples, as many of each input and target; {sizes} given")
        size = self._choice.micro_batch or self.batch
        return [
            ([a[i : i + size] for a in features], [a[i : i + size] for a in targets]) for i in range(0, count, size)
        ]

    def _accumulate(self, parts: Sequence[tuple[Sequence[Array], Sequence[Array]]]) -> float:
        """Gradients of the mean over all parts into the gradient block; returns the mean loss."""
        for view in self._gradient_store().views.values():
            view[...] = 0
        count = sum(f[0].shape[0] for f, _ in parts)
        total = 0.0
        for i, (features, targets) in enumerate(parts):
            self._store[RANDOM][1] = self.step_count + (i << 40)
            share = features[0].shape[0] / count
            self._run("gradients", features, targets, share)
            total += share * float(self._store[LOSS])
            if not math.isfinite(total):
                break
        return total

    def _run(self, mode: Mode, features: Sequence[Array], targets: Sequence[Array], share: float = 1.0) -> None:
        compiled, arrays = self._prepared(mode, features, targets, share)
        if mode != "step":
            arrays.append(self._gradient_store().bytes)
        self._switch.run(compiled, arrays)

    def _prepared(
        self, mode: Mode, features: Sequence[Array], targets: Sequence[Array], share: float
    ) -> tuple[TrainingProgram, list[Array]]:
        """The program for these arrays, compiled if it is the first of its kind, and the arrays as it wants them."""
        if mode == "apply":
            return self._program("apply", 1, (), 1.0), []
        batch = features[0].shape[0]
        types, arrays = as_targets(self.loss, self._output_types(batch), targets)
        program = self._program(mode, batch, tuple(types), share)
        return program, [*(np.ascontiguousarray(f) for f in features), *arrays]

    def _output_types(self, batch: int) -> list[TensorType]:
        types = infer(self._split.trained, batch)
        return [types[o] for o in self._split.trained.outputs]

    def _program(self, mode: Mode, batch: int, targets: tuple[TensorType, ...], share: float) -> TrainingProgram:
        key = (mode, batch, targets, share)
        if key not in self._programs:
            compiled = compile_training(
                self._split.trained,
                self._plan(targets, share, self._choice.recompute),
                mode,
                batch,
                self._store.layout,
                self._gradient_layout(),
                self._store.bytes,
                self.isa,
                self.threads,
            )
            self._switch.add(compiled)
            self._programs[key] = compiled
        return self._programs[key]

    def _plan(self, targets: tuple[TensorType, ...], share: float, recompute: tuple[str, ...] | None) -> TrainingPlan:
        return TrainingPlan(
            self.loss,
            targets,
            self._updates,
            largest_norm=self.optimizer.clip_norm,
            gradient_factor=share,
            half=self.precision == "mixed",
            recompute=recompute,
        )

    def _likely_targets(self, batch: int) -> tuple[TensorType, ...]:
        """What targets will be before the first are seen: labels, where the loss takes them."""
        outputs = self._output_types(batch)
        labels = [np.zeros(outputs[0].shape[:-1], np.int64)]
        return tuple(self.loss.target_types(outputs, labels))

    def planned(self, mode: Mode, batch: int, recompute: tuple[str, ...] | None) -> Lowered:
        """A program as it would be, for those who look for one that fits a budget."""
        plan = self._plan(self._likely_targets(batch), 1.0, recompute)
        layouts = (self._store.layout, self._gradient_layout())
        return lower_training(self._split.trained, plan, mode, batch, *layouts, self.isa, self.threads)[0]

    def candidates(self, mode: Mode, batch: int) -> tuple[str, ...]:
        """Layers that could be computed again in the backward pass, the best bargains first."""
        plan = self._plan(self._likely_targets(batch), 1.0, ())
        return recompute_candidates(self._split.trained, plan, mode, batch, self._store.layout)

    @property
    def state_bytes(self) -> int:
        """Parameters, statistics and optimizer states."""
        return self._store.layout.size

    @property
    def gradient_bytes(self) -> int:
        """A block of all gradients, which virtual batches need."""
        return self._gradient_layout().size

    @property
    def compromises(self) -> str:
        """What was done to keep within `memory_budget`, in words."""
        return str(self._choice)

    def _main_program(self) -> TrainingProgram:
        """The program of a full batch: the one that ran, else the one that integer labels would need."""
        mode: Mode = "step" if not self._choice.micro_batch else "gradients"
        batch = self._choice.micro_batch or self.batch
        for key, compiled in self._programs.items():
            if key[:2] == (mode, batch):
                return compiled
        return self._program(mode, batch, self._likely_targets(batch), 1.0)

    @staticmethod
    def _check_named(name: str, value: Array, known: Mapping[str, Any], what: str) -> None:
        if name not in known:
            near = ", ".join(list(known)[:3])
            raise TrainingError(f"{what}: there is no {name!r}; names are like {near}")
        expected = getattr(known[name], "shape", None)
        if expected is not None and tuple(np.shape(value)) != tuple(expected):
            raise ShapeError(f"{what}: {name!r} has the shape {np.shape(value)}, expected {tuple(expected)}")


def _listed(x: Arrays) -> list[Array]:
    return [np.asarray(a) for a in x] if isinstance(x, (list, tuple)) and not np.isscalar(x[0]) else [np.asarray(x)]
