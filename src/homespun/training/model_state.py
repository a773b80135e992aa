"""The model in training, by name: what of it is frozen, what is trained, and everything that outlives a step.

Parameters, running statistics, optimizer states and averages live in one `Store` that the programs of a trainer write
to; what is frozen stays in the model's own arrays. The trainer's methods about names end here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from homespun.compile.split import split
from homespun.compile.training import COMMON_STATES, RANDOM, StateLayout, Update
from homespun.errors import OptionError, ShapeError, TrainingError
from homespun.graph import Array, Graph, TensorType
from homespun.training.optim import Optimizer
from homespun.training.state import Store


class ModelState:
    """A copy of a model, cut where training begins, with its optimizer's states.

    `trainable` are names of parameters; `average` is the decay of an exponential moving average of them, 0 for none.
    """

    def __init__(self, model: Graph, trainable: Sequence[str], optimizer: Optimizer, average: float, seed: int) -> None:
        self.whole = model.copy()
        self.split = split(self.whole, trainable)
        for node in self.split.trained.nodes:
            for name in filter(None, node.outputs):  # what was measured is not true of what learns
                self.whole.tensors[name].limit = None
        self.average = average
        read = self.split.trained.tensors  # a parameter that no output depends on has no gradient and is left alone
        self.updates = {name: self._update(name, optimizer) for name in trainable if name in read}
        graph = self.split.trained
        tables = {n.inputs[1] for n in graph.nodes if n.op == "embedding"}
        self.store = Store(self._layout(), [s for n in tables & set(self.updates) for s in self.updates[n].states if s])
        self.store.fill({t.name: t.data for t in graph.with_role("parameter", "state") if t.data is not None})
        for tensor in (*self.whole.tensors.values(), *graph.tensors.values()):
            if tensor.name in self.store:  # or the arrays that were copied would live on, beside the copies
                tensor.data = self.store[tensor.name]
        self.store[RANDOM][:] = (seed, 0)
        for name, update in self.updates.items():
            if update.average:
                np.copyto(self.store[update.average], self.store[name])
        self.gradient_layout = StateLayout()
        for name in self.updates:
            self.gradient_layout.add(name, self.store.layout.types[name])

    def _update(self, name: str, optimizer: Optimizer) -> Update:
        states = tuple(f"optimizer/{name}/{s}" if s else "" for s in optimizer.states())
        average = f"average/{name}" if self.average > 0 else ""
        return Update(optimizer.op, optimizer.attributes_for(name), states, average, self.average)

    def _layout(self) -> StateLayout:
        layout = StateLayout()
        for t in self.split.trained.with_role("parameter", "state"):
            layout.add(t.name, TensorType(t.shape, t.dtype))
        for name, update in self.updates.items():
            for state in (*update.states, update.average):
                if state:
                    layout.add(state, layout.types[name])
        for name, common in COMMON_STATES.items():
            layout.add(name, common)
        return layout

    @property
    def trained_bytes(self) -> int:
        """Parameters and statistics of the part that is trained."""
        names = (t.name for t in self.split.trained.with_role("parameter", "state"))
        return sum(self.store[n].nbytes for n in names)

    # -- out ----------------------------------------------------------------------------------------------------

    def parameters(self, *, copy: bool = True, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Parameters by name; views of the store, or of the frozen part, where `copy` is False."""
        return self._found(tuple(self.whole.parameters()) if names is None else names, copy)

    def statistics(self, *, copy: bool = True) -> dict[str, Array]:
        """Running statistics by name."""
        return self._found([t.name for t in self.whole.with_role("state")], copy)

    def moving_statistics(self) -> dict[str, Array]:
        """Copies of those statistics that a step may change: to put them back if it is not to count."""
        return {t.name: self.store[t.name].copy() for t in self.split.trained.with_role("state")}

    def optimizer_state(self, *, copy: bool = True) -> dict[str, Array]:
        """The optimizer's states and the averages, by "optimizer/parameter/name" and "average/parameter"."""
        return self._found([s for u in self.updates.values() for s in (*u.states, u.average) if s], copy)

    def training_state(self) -> dict[str, Array]:
        """Views of all that a checkpoint holds beside the model: optimizer states, averages, random state."""
        return {**self.optimizer_state(copy=False), RANDOM: self.store[RANDOM]}

    def averaged_parameters(self) -> dict[str, Array]:
        """Parameters with the moving averages of the trained ones in their place. Raises `OptionError` without any."""
        if self.average == 0:
            raise OptionError("this trainer keeps no average of its weights; make it with average=0.999 or so")
        return {n: self.store[f"average/{n}"].copy() if n in self.updates else v for n, v in self.parameters().items()}

    def model(self, *, averaged: bool = False) -> Graph:
        """The whole model with the parameters and statistics it has now."""
        graph = self.whole.copy()
        values = self.averaged_parameters() if averaged else self.parameters()
        for name, value in {**values, **self.statistics()}.items():
            graph.tensors[name].data = value
        return graph

    def trained_part(self) -> Graph:
        """What lies behind the cut, with the parameters and statistics it has now: a model of features."""
        graph = self.split.trained.copy()
        for t in graph.with_role("parameter", "state"):
            t.data = self.store[t.name].copy()
        return graph

    def _found(self, names: Sequence[str], copy: bool) -> dict[str, Array]:
        found = {n: self.store[n] if n in self.store else self.whole.data(n) for n in names}
        return {n: v.copy() if copy else v for n, v in found.items()}

    # -- in -----------------------------------------------------------------------------------------------------

    def load_parameters(self, values: Mapping[str, Array]) -> None:
        """Set parameters by name. Raises `TrainingError` or `ShapeError`, with nothing changed."""
        self._set(named_arrays(values, self.whole.parameters(), "load_parameters"))

    def load_optimizer_state(self, values: Mapping[str, Array]) -> None:
        """Set states of the optimizer by name. Raises as `load_parameters`."""
        self.store.fill(named_arrays(values, self.optimizer_state(copy=False), "load_optimizer_state"))

    def take_over(self, graph: Graph, states: Mapping[str, Array]) -> None:
        """Go on from a model's parameters and statistics, and from training states, all of the names that are here."""
        self.load_parameters(graph.parameters())
        self._set({t.name: np.array(t.data) for t in graph.with_role("state")})
        self.store.fill(states)

    def _set(self, values: Mapping[str, Array]) -> None:
        """Put arrays in place wherever a tensor is held: in the whole model, its frozen part, the store."""
        frozen = self.split.frozen
        if frozen is not None and any(
            n in frozen.tensors and not np.array_equal(self.whole.data(n), v) for n, v in values.items()
        ):
            for tensor in (*self.whole.tensors.values(), *frozen.tensors.values()):
                tensor.limit = None  # it was measured with other weights
        for name, value in values.items():
            if name in self.store:
                np.copyto(self.store[name], value)
            else:
                self.whole.tensors[name].data = value
            if frozen is not None and name in frozen.tensors:
                frozen.tensors[name].data = value


def named_arrays(values: Mapping[str, Array], known: Mapping[str, Any], what: str) -> dict[str, Array]:
    """Copies of a caller's arrays as float32. Raises `TrainingError` for a name that is not known and for values that
    are not finite, or not in float32, and `ShapeError` for another shape than the known array's."""
    if not isinstance(values, Mapping):
        raise TrainingError(f"{what} takes arrays by name, not {type(values).__name__}")
    arrays = {}
    for name, value in values.items():
        if name not in known:
            near = f"names are like {', '.join(list(known)[:3])}" if known else "this trainer has none"
            raise TrainingError(f"{what}: there is no {name!r}; {near}")
        given, expected = np.asarray(value), tuple(known[name].shape)
        if given.shape != expected:
            raise ShapeError(f"{what}: {name!r} has the shape {given.shape}, expected {expected}")
        if given.dtype.kind not in "buif":
            raise ShapeError(f"{what}: {name!r} is of {given.dtype}, expected numbers")
        with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused
            arrays[name] = np.array(given, np.float32)
        if not np.isfinite(arrays[name]).all():
            raise TrainingError(f"{what}: {name!r} has values that are not finite")
    return arrays
