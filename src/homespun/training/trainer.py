"""`Trainer`: a model, compiled for training, that learns from NumPy arrays, one step at a time.

The frozen part of the model runs as an inference program; the rest as one program of forward, backward and update.
What a step does stands in `steps`, the state in `model_state`; fitting, files and pausing in modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from homespun.compile.compiler import MOST_THREADS, MemoryReport, choose_isa
from homespun.compile.training import TrainingProgram
from homespun.errors import OptionError
from homespun.graph import Array, Graph, check
from homespun.graph.inputs import input_arrays
from homespun.options import at_least_one, not_negative
from homespun.training.budget import as_bytes, choose
from homespun.training.loss_scale import LossScale
from homespun.training.losses import Loss, LossFunction, as_loss
from homespun.training.model_state import ModelState
from homespun.training.optim import Optimizer
from homespun.training.pause import PauseSwitch
from homespun.training.programs import STORAGE, Programs
from homespun.training.progress import Progress
from homespun.training.steps import Arrays, Stepping, StepResult, listed
from homespun.training.trainable import Trainable, trainable_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from homespun.training.backbone import PausablePredictor
    from homespun.training.fit import FitResult


class Trainer(Stepping):
    """Trains a model.

    `batch` samples run at once; a step takes up to `batch * accumulate` and updates once, as if they were one batch.
    `trainable`: "all", "head", "last:2" (blocks, and what comes after), name patterns, or a predicate on names; what
    depends on none of them runs as inference with `backbone_weights` ("float32" or "int8"). `precision` "mixed" stores
    activations as bfloat16, "mixed_float16" as float16, with a `loss_scale` that finds its value by itself; parameters,
    statistics and the loss are float32 always. `average` is the decay of an exponential moving average of the weights,
    kept beside them. `memory_budget` ("96MB", or bytes) bounds arena, parameters and optimizer state together.
    The model given is not changed.
    """

    def __init__(
        self,
        model: Graph,
        loss: Loss | LossFunction,
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
        batch, accumulate = at_least_one("batch", batch), at_least_one("accumulate", accumulate)
        threads = at_least_one("threads", threads)
        if threads > MOST_THREADS:
            raise OptionError(f"threads is {threads}; it can be at most {MOST_THREADS}")
        if not isinstance(seed, (int, np.integer)) or not -(2**63) <= seed < 2**63:
            raise OptionError(f"seed is {seed!r}; it must be a whole number of 64 bits")
        if not isinstance(model, Graph):
            raise OptionError(f"model is {model!r}; it must be a Graph, as hs.load and hs.zoo give")
        loss = as_loss(loss)
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"optimizer is {optimizer!r}; it can be one of hs.optim, as Adam(1e-3)")
        if not isinstance(precision, str) or precision not in STORAGE:
            raise OptionError(f"precision is {precision!r}; it can be {', '.join(map(repr, STORAGE))}")
        if loss_scale is not None and precision != "mixed_float16":
            raise OptionError(f"a loss_scale goes with precision 'mixed_float16', not with {precision!r}")
        average = not_negative("average", average)
        if average >= 1.0:
            raise OptionError(f"average is {average!r}; it can be 0 (none) up to but not 1")
        check(model)
        self.precision, self.threads, self.seed, self.isa = precision, threads, int(seed), choose_isa(isa)
        self.average, self.backbone_weights, self.memory_budget = average, backbone_weights, memory_budget
        if memory_budget is not None and not isinstance(memory_budget, str):
            self.memory_budget = as_bytes(memory_budget)
        self.progress = Progress()
        chosen = trainable_parameters(model, trainable)
        state, switch = ModelState(model, chosen, optimizer, average, seed), PauseSwitch()
        self.trainable = tuple(state.updates)
        programs = Programs(state, loss, optimizer, precision, threads, self.isa, switch)
        scale = loss_scale or LossScale() if precision == "mixed_float16" else None
        super().__init__(state, programs, switch, loss, optimizer, batch, accumulate, scale)
        self._backbone: PausablePredictor | None = None
        if memory_budget is not None:
            self._programs.choice = choose(self._programs, batch, as_bytes(memory_budget))

    # -- learning -----------------------------------------------------------------------------------------------

    def step(self, x: Arrays, y: Arrays) -> StepResult:
        """Learn from N samples, N at most `batch * accumulate`: x (N, ...) float32 and y as the loss wants it.

        Raises `ShapeError` for other shapes, `TrainingError` for targets out of range, a loss or a gradient that is not
        finite; the trainer's state is then as before, but where the message says that parameters had been updated
        before the gradient was met (docs/memory.md, "When gradients die").
        """
        return self.step_on_features(self.features(x), y)

    def features(self, x: Arrays) -> list[Array]:
        """What the frozen part makes of inputs: a step's first half, which may be computed once and kept."""
        arrays = self._inputs(x)
        frozen = self._state.split.frozen
        if frozen is None:
            return arrays
        named = dict(zip(self._state.whole.inputs, arrays, strict=True))
        with self._lock:
            if self._backbone is None:
                self._backbone = self.predictor(frozen, self.backbone_weights)
            made = self._backbone(*(named[n] for n in frozen.inputs))
        results = list(made) if isinstance(made, tuple) else [made]
        own = self._state.split.trained.inputs[len(self._state.split.features) :]
        return [*results, *(named[n] for n in own)]

    def trained_part(self) -> Graph:
        """The part of the model that is trained, as it is now: a model of what `features` gives."""
        return self._state.trained_part()

    def predictor(self, model: Graph, weights: str = "float32") -> PausablePredictor:
        """A predictor that pauses with this trainer, for its batch size, threads and instruction set."""
        from homespun.training.backbone import PausablePredictor

        return PausablePredictor(model, self.batch, weights, self.threads, self.isa, self._switch)

    def loss_of(self, x: Arrays, y: Arrays) -> float:
        """Mean loss of N samples in training mode, without learning from them."""
        return self.loss_on_features(self.features(x), y)

    # -- gradients in and out -----------------------------------------------------------------------------------

    def compute_gradients(self, x: Arrays, y: Arrays, *, copy: bool = True) -> dict[str, Array]:
        """Gradients of the mean loss over N samples, by parameter name. Running statistics follow, as in a step.

        With `copy=False` the arrays are views that the next call overwrites. Raises as `step` does.
        """
        views = self.gradients_on_features(self.features(x), y)
        return {n: v.copy() if copy else v for n, v in views.items()}

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

    def distill(self, teacher: Graph, data: Any, epochs: int = 1, **options: Any) -> FitResult:
        """Train on a teacher's logits; see `homespun.training.distillation.distill`."""
        from homespun.training.distillation import distill

        return distill(self, teacher, data, epochs, **options)

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

    def export(self, path: str | Path, weights: str = "float32", *, averaged: bool = False, **options: Any) -> None:
        """Write the model for inference: batch norm folded into weights, dropout gone. `options`: `activations` and
        `calibrate`, as `hs.save` has them."""
        from homespun.training.export import export

        export(self, path, weights, averaged=averaged, **options)

    def export_step(
        self, path: str | Path, batch: int | None = None, *, targets: Any = None, predictor: str | Path = ""
    ) -> None:
        """Write the step itself as a plain ONNX graph, which other runtimes train with; see
        `homespun.training.onnx_step`."""
        from homespun.training.onnx_step import export_step

        with self._lock:
            export_step(self, self._state, self._programs, path, batch, targets, predictor)

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

    def _inputs(self, x: Arrays) -> list[Array]:
        return input_arrays(self._state.whole, listed(x))

    def _main_program(self) -> TrainingProgram:
        return self._programs.main(self.batch)
