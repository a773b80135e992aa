"""A step's forward and backward pass in which every value is an output: to look at where something begins.

Nothing is fused, and nothing is written to parameters, statistics or optimizer states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from homespun import _native
from homespun.compile.lowering import STATE, ConstantPool, Lowering, Operand
from homespun.compile.training import StateLayout, TrainingPlan, joint_graph
from homespun.graph import Array, Graph, Node, Tensor, TensorType


class Inspection:
    """Runs the joint graph of a trained model, once for each batch that is to be looked at."""

    def __init__(
        self, model: Graph, plan: TrainingPlan, batch: int, layout: StateLayout, state: Array, isa: str, threads: int
    ) -> None:
        own = {t.name for t in model.with_role("parameter", "state")}
        states = {n: t for n, t in layout.types.items() if n not in own}
        graph, types, _ = joint_graph(model, replace(plan, fuse=False, recompute=()), "gradients", batch, states)
        graph.nodes = [n for n in graph.nodes if all(graph.tensors[o].role == "activation" for o in n.outputs if o)]
        self.nodes = list(graph.nodes)
        self._shown = {o: _as_float32(graph, types, o) for n in self.nodes for o in n.outputs if o}
        graph.outputs = list(self._shown.values())
        placed: dict[str, Operand] = {name: (STATE, at) for name, at in layout.offsets.items()}
        lowered = Lowering(graph, types, isa, threads, ConstantPool(), placed).assemble()
        self._types = [types[name] for name in graph.outputs]
        externals = len(graph.inputs) + len(graph.outputs)
        self._program = _native.Program(
            lowered.instructions, lowered.plan.size, lowered.constants.blob(), state, externals, threads, isa
        )

    def values(self, arrays: Sequence[Array]) -> Iterator[tuple[Node, Array]]:
        """(node, output) for every output of every node, in the order of the step; 16 bits widened to float32."""
        outputs = [np.empty(t.shape, t.dtype) for t in self._types]
        self._program.run([*arrays, *outputs])
        found = dict(zip(self._shown, outputs, strict=True))
        for node in self.nodes:
            for name in filter(None, node.outputs):
                yield node, found[name]


def _as_float32(graph: Graph, types: dict[str, TensorType], name: str) -> str:
    """A tensor that NumPy can read: the one of that name, or a cast of it."""
    if types[name].dtype not in ("bfloat16", "float16"):
        return name
    cast = graph.add_tensor(Tensor(graph.fresh_name(f"{name}/shown"), "activation"))
    graph.add_node("cast", (name,), (cast,), {"dtype": "float32"})
    types[cast] = TensorType(types[name].shape)
    return cast
