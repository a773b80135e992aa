"""The joint graph of a training step, and its program: forward, loss, backward, update, planned as one.

Three programs share one state: "step" does everything; "gradients" stops at the gradients and adds them to a block
that the caller gives (virtual batches, federated learning); "apply" updates from such a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from homespun import _native
from homespun.compile.autodiff import GraphExtension, differentiate
from homespun.compile.lowering import EXTERNAL, STATE, ConstantPool, Lowered, Lowering, Operand, Use
from homespun.compile.memory import Buffer, aligned
from homespun.compile.passes.expand_for_training import RunningStatistics, expand_for_training
from homespun.compile.passes.fuse_training_blocks import fuse_training_blocks
from homespun.compile.passes.recompute import candidates, recompute, worthwhile
from homespun.compile.passes.select_rows_early import select_rows_early
from homespun.compile.passes.store_half import store_half
from homespun.compile.passes.update_by_product import update_by_product
from homespun.compile.passes.update_tables_by_rows import update_tables_by_rows
from homespun.compile.schedule import schedule
from homespun.errors import ShapeError
from homespun.graph import Array, Graph, Tensor, TensorType, infer
from homespun.graph.graph import Attribute
from homespun.ops.update import CONTROLS, HYPER, UPDATES

Mode = Literal["step", "gradients", "apply"]

HYPERS, RANDOM = "train/hyper", "train/random"
LOSS, CONTROL, SCALE = "train/loss", "train/control", "train/loss_scale"
#: States that every training graph has, beside the model's own.
COMMON_STATES = {
    HYPERS: TensorType((HYPER,)),
    RANDOM: TensorType((2,), "int64"),
    LOSS: TensorType(()),
    CONTROL: TensorType((CONTROLS,)),
    SCALE: TensorType(()),
}


class LossRule(Protocol):
    """What the compiler asks of a loss."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        """Append the loss and return its name: one float32."""


@dataclass(frozen=True)
class Update:
    """How one parameter is updated: the operator, its attributes, and the optimizer's states for it."""

    op: str
    attributes: Mapping[str, Attribute]
    states: tuple[str, ...]
    average: str = ""  # the state that holds an exponential moving average of the parameter
    average_decay: float = 0.0


@dataclass(frozen=True)
class TrainingPlan:
    """What is asked of the compiler, beside the model: all that a program depends on."""

    loss: LossRule
    targets: Sequence[TensorType]
    updates: Mapping[str, Update]  # by parameter; these are the trainable ones
    largest_norm: float = 0.0  # clip the norm of all gradients together to this; 0: don't
    fuse: bool = True
    storage: str = "float32"  # of activations and their gradients: also "bfloat16", and "float16" with a scaled loss
    recompute: tuple[str, ...] | None = None  # outputs of layers to compute again; None: where it costs next to nothing

    @property
    def scales_loss(self) -> bool:
        """Whether gradients are computed of a multiple of the loss, and looked at before any of them is used."""
        return self.storage == "float16"


@dataclass
class StateLayout:
    """Offsets of everything that outlives a step in one buffer: parameters, optimizer, statistics, results."""

    offsets: dict[str, int] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    size: int = 0

    def add(self, name: str, t: TensorType) -> None:
        """Append a tensor."""
        self.offsets[name], self.types[name] = self.size, t
        self.size += aligned(max(t.nbytes, 4))


@dataclass(eq=False)
class TrainingProgram:
    """A program with what is needed to run it: `inputs` in order, then the gradient block if it has one."""

    lowered: Lowered
    program: _native.Program
    graph: Graph
    inputs: tuple[str, ...]
    results: tuple[Array, ...] = ()
    """What a step reports and lets its updates go on by, the loss and the guard's numbers: views of the state."""

    @property
    def updated(self) -> list[str]:
        """The parameters, in the order in which they are updated."""
        return [n.inputs[3] for n in self.graph.nodes if n.op in UPDATES]

    @cached_property
    def _first_change(self) -> int:
        uses = self.lowered.uses
        return next((i for i, use in enumerate(uses) if self._changes(use)), len(uses))

    @cached_property
    def _origins(self) -> dict[str, frozenset[str]]:
        """Of each tensor that the instructions before the first change make, what outside the arena it comes from."""
        origins: dict[str, frozenset[str]] = {}
        for use in self.lowered.uses[: self._first_change]:
            outside = frozenset(n for n in use.reads if n not in self.lowered.arena)
            read = outside.union(*(origins[n] for n in use.reads if n in origins))
            for n in use.writes:
                origins[n] = origins.get(n, frozenset()) | read
        return origins

    def settled_before(self, at: int) -> bool:
        """Whether the instructions before `at` have written to no parameter or state."""
        return at <= self._first_change

    def set_aside(self, at: int) -> Kept:
        """What the program needs to go on before instruction `at` when its arena has been given back.

        A step that has written to no parameter or state yet simply begins again. Later, what the forward pass made is
        computed again when it is needed, as far as it depends on nothing that was written since; the rest (gradients
        that are under way, mostly) stays where it is.
        """
        first = self._first_change
        if at <= first:
            return BEGIN_AGAIN
        uses = self.lowered.uses
        changed = frozenset(n for use in uses[first:at] for n in use.writes)
        live = {n: offset for offset, (n, b) in self._buffers() if b.first < at <= b.last}
        lost = [n for n in live if n in changed or not self._origins[n].isdisjoint(changed)]
        repeat = {n: i for n in lost if (i := self._single_maker(n, first, at, live)) is not None}
        spans = sorted((live[n], live[n] + self.lowered.arena[n].size) for n in lost if n not in repeat)
        return Kept(at, first, tuple(sorted(repeat.values())), tuple(spans), self.results)

    def _buffers(self) -> list[tuple[int, tuple[str, Buffer]]]:
        return list(zip(self.lowered.plan.offsets, self.lowered.arena.items(), strict=True))

    def _single_maker(self, name: str, first: int, at: int, live: Mapping[str, int]) -> int | None:
        """The one instruction that made a tensor, if all that it read is still there, unchanged."""
        uses = self.lowered.uses
        makers = [i for i in range(at) if name in uses[i].writes]
        if len(makers) != 1 or name in uses[makers[0]].reads:
            return None
        later = frozenset(n for use in uses[makers[0] : at] for n in use.writes)
        kept = all((n in live or n not in self.lowered.arena) and n not in later for n in uses[makers[0]].reads)
        return makers[0] if kept and makers[0] >= first else None

    def _changes(self, use: Use) -> bool:
        """Whether an instruction writes to what outlives the step (results apart, which are the same each time)."""
        tensors = self.graph.tensors
        return any(n in tensors and tensors[n].role in ("parameter", "state") for n in use.writes)


@dataclass(frozen=True)
class Kept:
    """How to go on at instruction `at`: run those before `replay` again, then those of `repeat`, and put back what was
    in the arena's `spans`, (begin, end) in ascending order, and in the step's `results`, which what runs again writes
    anew, of parameters that have changed.

    The spans stay in the arena while nothing runs, so that giving back the rest takes no time and no memory. They are
    copied when the program goes on, since what runs again uses their memory too.
    """

    at: int
    replay: int
    repeat: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    results: tuple[Array, ...] = ()
    copies: dict[int, Array] = field(default_factory=dict)  # by offset
    reported: list[Array] = field(default_factory=list)

    def give_back(self, program: _native.Program) -> None:
        """Give the arena back to the system, but for spans that have not been copied."""
        spans = () if self.copies else self.spans
        for begin, end in zip([0, *(e for _, e in spans)], [*(b for b, _ in spans), None], strict=True):
            program.release_arena(begin, end)

    def take_out(self, program: _native.Program) -> None:
        """Copy spans and results, unless an attempt to go on that was paused itself has done so."""
        if not self.copies:
            self.copies.update({begin: program.arena[begin:end].copy() for begin, end in self.spans})
        if not self.reported:
            self.reported.extend(view.copy() for view in self.results)

    def put_back(self, program: _native.Program) -> None:
        """Restore the spans, after instructions have run again."""
        for (begin, end), data in zip(self.spans, self.copies.values(), strict=True):
            program.arena[begin:end] = data
        for view, value in zip(self.results, self.reported, strict=True):
            view[...] = value


#: Of a program that has changed nothing that outlives its run.
BEGIN_AGAIN = Kept(0, 0, (), ())


@dataclass(frozen=True)
class FusedGraph:
    """A joint graph but for what is computed again, and the order; `inputs` are the names of its inputs in order."""

    graph: Graph
    types: dict[str, TensorType]
    inputs: list[str]
    control: str
    loss: str

    def ordered(self, again: Sequence[str] | None) -> tuple[Graph, dict[str, TensorType]]:
        """(graph, types) with the outputs of these layers computed again (None: where it costs next to nothing). Leaves
        this one as it is."""
        graph, types = self.graph.copy(), dict(self.types)
        for z in recompute(graph, worthwhile(candidates(graph, types)) if again is None else again):
            types[f"{z}/again"] = types[z]
        schedule(graph)
        graph.outputs = []
        for name, place in ((self.control, CONTROL), (self.loss, LOSS)):
            if name:
                graph.rename(name, f"{place}/now")
                types[f"{place}/now"] = types.pop(name)
        return graph, types


def joint_graph(
    model: Graph, plan: TrainingPlan, mode: Mode, batch: int, states: Mapping[str, TensorType]
) -> tuple[Graph, dict[str, TensorType], list[str]]:
    """(graph, types, names of its inputs in order) of one mode. `states` are those that are not the model's own."""
    fused = fused_graph(model, plan, mode, batch, states)
    return (*fused.ordered(plan.recompute), fused.inputs)


def fused_graph(
    model: Graph, plan: TrainingPlan, mode: Mode, batch: int, states: Mapping[str, TensorType]
) -> FusedGraph:
    """The first part of `joint_graph`."""
    graph = model.copy()
    graph.prune()
    for name, t in states.items():
        graph.add_tensor(_state(name, t))
    targets = [f"train/target{i}" for i in range(len(plan.targets))]
    trainable = list(plan.updates)
    types: dict[str, TensorType] = {}
    gradients: dict[str, str] = {}
    inputs: list[str] = []
    statistics: list[RunningStatistics] = []
    loss = ""

    if mode == "apply":
        graph.nodes, graph.inputs, graph.outputs = [], [], []
        types = {t.name: TensorType(t.shape, t.dtype) for t in graph.with_role("parameter", "state")}
        gradients = _gradient_block(graph, types, trainable)
    else:
        types = infer(model, batch)
        if plan.fuse and select_rows_early(graph, types):
            types = infer(graph, batch)
        statistics = expand_for_training(graph, types, set(trainable), RANDOM)
        for name, t in zip(targets, plan.targets, strict=True):
            graph.add_tensor(Tensor(name, "input", t.shape, t.dtype))
        inputs = [*graph.inputs, *targets]
        types = infer(graph, batch)
        if plan.storage != "float32":
            store_half(graph, types, plan.storage)
            types = infer(graph, batch)
        outputs = list(graph.outputs)
        build = GraphExtension(graph, types, prefix="loss")
        loss = plan.loss.build(build, outputs, targets)
        if types[loss] != TensorType(()):
            raise ShapeError(f"the loss has the type {types[loss]}; it must be one float32, shape ()")

    build = GraphExtension(graph, types, prefix="update")
    waits = mode == "apply" or (mode == "step" and (plan.largest_norm > 0 or plan.scales_loss))
    # Else the loss decides whether to begin to update, and updates need not wait for the last gradient.
    control = "" if waits else build.add("guard", [loss, "", HYPERS], "control")
    if loss:
        gradients = differentiate(graph, types, loss, trainable, SCALE if plan.scales_loss else "")
    if waits:
        total = ""
        for name in trainable:
            if name in gradients:
                total = build.add("add_square_sum", [total, gradients[name]], "square_sum")
        control = build.add("guard", [loss, total, HYPERS], "control", largest_norm=plan.largest_norm)
    for s in statistics:
        build.write(
            "update_statistics",
            [s.sums, control, s.mean, s.variance],
            [s.mean, s.variance],
            momentum=s.momentum,
            count=s.count,
        )
    if mode == "gradients":
        totals = _gradient_block(graph, types, trainable)
        for name, gradient in gradients.items():
            build.write("accumulate_gradient", [gradient, HYPERS, totals[name]], [totals[name]])
    else:
        for name, update in plan.updates.items():
            if name in gradients:
                _append_update(build, name, gradients[name], control, update)
    kept = [control, loss] if loss else [control]
    graph.inputs = inputs
    graph.outputs = kept
    if plan.fuse:
        update_tables_by_rows(graph)
        fuse_training_blocks(graph)
        update_by_product(graph, types)
    else:
        graph.prune()
    return FusedGraph(graph, types, inputs, control, loss)


def _state(name: str, t: TensorType) -> Tensor:
    """A state that lives in a buffer of the trainer: it carries no data of its own, only one zero, repeated."""
    return Tensor(name, "state", t.shape, t.dtype, np.broadcast_to(np.zeros((), t.dtype), t.shape))


def _gradient_block(graph: Graph, types: dict[str, TensorType], parameters: Sequence[str]) -> dict[str, str]:
    names = {}
    for name in parameters:
        t = types[name]
        names[name] = graph.add_tensor(_state(gradient_name(name), t))
        types[names[name]] = t
    return names


def gradient_name(parameter: str) -> str:
    """The tensor of a parameter's gradient in the caller's block."""
    return f"gradients/{parameter}"


def _append_update(build: GraphExtension, name: str, gradient: str, control: str, update: Update) -> None:
    states = (*update.states, "", "")[:2]
    written = [name, *(s for s in update.states if s)]
    build.write(update.op, [gradient, HYPERS, control, name, *states], written, **update.attributes)
    if update.average:
        build.write("average_parameters", [name, control, update.average], [update.average], decay=update.average_decay)


def lower_training(
    model: Graph,
    plan: TrainingPlan,
    mode: Mode,
    batch: int,
    layout: StateLayout,
    gradient_layout: StateLayout,
    isa: str,
    threads: int,
) -> tuple[Lowered, Graph, tuple[str, ...]]:
    """Build and plan one program: (the program as data, its graph, the names of its inputs in order)."""
    graph, types, inputs = joint_graph(model, plan, mode, batch, other_states(model, layout))
    placed = places(mode, len(inputs), layout, gradient_layout)
    lowered = Lowering(graph, types, isa, threads, ConstantPool(), placed).assemble()
    return lowered, graph, tuple(inputs)


def other_states(model: Graph, layout: StateLayout) -> dict[str, TensorType]:
    """The states of a layout that are not the model's own."""
    own = {t.name for t in model.with_role("parameter", "state")}
    return {n: t for n, t in layout.types.items() if n not in own}


def places(mode: Mode, inputs: int, layout: StateLayout, gradient_layout: StateLayout) -> dict[str, Operand]:
    """Where tensors of a program are that outlive it."""
    placed: dict[str, Operand] = {name: (STATE, at) for name, at in layout.offsets.items()}
    placed[f"{LOSS}/now"], placed[f"{CONTROL}/now"] = placed[LOSS], placed[CONTROL]
    if mode != "step":
        placed |= {gradient_name(n): (EXTERNAL + inputs, at) for n, at in gradient_layout.offsets.items()}
    return placed


def compile_training(
    model: Graph,
    plan: TrainingPlan,
    mode: Mode,
    batch: int,
    layout: StateLayout,
    gradient_layout: StateLayout,
    state: Array,
    isa: str,
    threads: int,
) -> TrainingProgram:
    """Build, plan and load one program over a state buffer that all programs of a trainer share."""
    lowered, graph, inputs = lower_training(model, plan, mode, batch, layout, gradient_layout, isa, threads)
    externals = len(inputs) + (mode != "step")
    program = _native.Program(
        lowered.instructions, lowered.plan.size, lowered.constants.blob(), state, externals, threads, isa
    )
    spans = [(layout.offsets[name], layout.types[name].nbytes) for name in (LOSS, CONTROL)]
    results = tuple(state[begin : begin + size] for begin, size in spans)
    return TrainingProgram(lowered, program, graph, inputs, results)
