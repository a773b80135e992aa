"""Where values stop being finite: asked when a loss is NaN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.compile.compiler import load_program
from homespun.compile.lowering import ConstantPool, Lowering
from homespun.graph import Array, Graph, Node, infer

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


def diagnose(trainer: Trainer, x: Any, y: Any) -> str:
    """Names the first node, in the order of a step, whose output is not finite: in the frozen part, in the forward pass
    as training runs it, in the loss, or in the backward pass. Nothing is changed."""
    step = f"step {trainer.step_count + 1}"
    for name, value in {**trainer.parameters(copy=False), **trainer.state(copy=False)}.items():
        if not np.isfinite(value).all():
            return f"{name!r} holds values that are not finite, before {step}"
    with trainer.standing_still():
        return _in_a_step(trainer, x, y, step)


def _in_a_step(trainer: Trainer, x: Any, y: Any, step: str) -> str:
    whole, frozen = trainer._state.whole, trainer._state.split.frozen
    inputs = dict(zip(whole.inputs, trainer._inputs(x), strict=True))
    for name, array in inputs.items():
        if not np.isfinite(array).all():
            return f"input {name!r} holds values that are not finite, in {step}"
    features = trainer.features(x)
    if not all(np.isfinite(f).all() for f in features):
        assert frozen is not None  # the inputs are finite, so something has been computed from them
        node = _first(_inference(frozen, [inputs[n] for n in frozen.inputs], trainer))
        return f"node {node} of the frozen part is the first whose output is not finite, in {step}"
    largest = 0.0
    for arrays, inspection in trainer.inspections(features, y):
        for node, value in inspection.values(arrays):
            if not np.isfinite(value).all():
                where = "backward" if node.outputs[0].startswith("gradient/") else "forward"
                return f"node {node} is the first whose output is not finite, in the {where} pass of {step}"
            largest = max(largest, float(np.abs(value).max(initial=0.0)))
    return f"all values of {step} are finite, forward and backward (the largest is {largest:.3g})"


def _first(values: Iterable[tuple[Node, Array]]) -> Node | None:
    return next((node for node, value in values if not np.isfinite(value).all()), None)


def _inference(model: Graph, arrays: list[Array], trainer: Trainer) -> Iterable[tuple[Node, Array]]:
    """(node, output) of a frozen graph, its batch norms not folded."""
    graph = model.copy()
    types = infer(graph, arrays[0].shape[0])
    graph.outputs = [o for n in graph.nodes for o in n.outputs if o]
    lowered = Lowering(graph, types, trainer.isa, trainer.threads, ConstantPool()).assemble()
    outputs = [np.empty(types[o].shape, types[o].dtype) for o in graph.outputs]
    program = load_program(lowered, len(arrays) + len(outputs), trainer.isa, trainer.threads)
    program.run([*arrays, *outputs])
    values = dict(zip(graph.outputs, outputs, strict=True))
    return [(node, values[o]) for node in graph.nodes for o in node.outputs if o]
