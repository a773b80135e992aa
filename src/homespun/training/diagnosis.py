"""Where values stop being finite: asked when a loss is NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.compile.compiler import load_program
from homespun.compile.lowering import ConstantPool, Lowering
from homespun.graph import infer

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


def diagnose(trainer: Trainer, x: Any, y: Any) -> str:
    """Runs the model forward, node by node, in inference mode, and names the first whose output is not finite."""
    for name, value in {**trainer.parameters(copy=False), **trainer.state(copy=False)}.items():
        if not np.isfinite(value).all():
            return f"{name!r} holds values that are not finite, after {trainer.step_count} steps"
    graph = trainer.model()
    arrays = trainer._inputs(x)
    for name, array in zip(graph.inputs, arrays, strict=True):
        if not np.isfinite(array).all():
            return f"input {name!r} holds values that are not finite"
    types = infer(graph, arrays[0].shape[0])
    graph.outputs = [o for n in graph.nodes for o in n.outputs if o]
    lowered = Lowering(graph, types, trainer.isa, trainer.threads, ConstantPool()).assemble()
    outputs = [np.empty(types[o].shape, types[o].dtype) for o in graph.outputs]
    program = load_program(lowered, len(arrays) + len(outputs), trainer.isa, trainer.threads)
    program.run([*arrays, *outputs])
    values = dict(zip(graph.outputs, outputs, strict=True))
    for node in graph.nodes:
        if any(o and not np.isfinite(values[o]).all() for o in node.outputs):
            return f"node {node} is the first whose output is not finite (in inference mode, step {trainer.step_count})"
    largest = max(float(np.abs(v).max(initial=0.0)) for v in values.values())
    return f"the forward pass is finite (largest value {largest:.3g}): the loss or its targets make it infinite"
