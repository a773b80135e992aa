"""The loss of given outputs and targets: the loss's own graph, compiled alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homespun.compile.autodiff import GraphExtension
from homespun.compile.compiler import load_program
from homespun.compile.lowering import ConstantPool, Lowering
from homespun.graph import Array, Graph, Tensor, TensorType, infer
from homespun.training.losses import Loss, as_targets


class LossProgram:
    """Computes a loss in inference. Programs are kept for each combination of shapes."""

    def __init__(self, loss: Loss, isa: str) -> None:
        self.loss, self.isa = loss, isa
        self._programs: dict[tuple[TensorType, ...], object] = {}

    def __call__(self, outputs: Sequence[Array], targets: Sequence[Array]) -> float:
        """Mean loss over the samples."""
        arrays = [np.ascontiguousarray(o, np.float32) for o in outputs]
        types = [TensorType(a.shape) for a in arrays]
        target_types, target_arrays = as_targets(self.loss, types, [np.asarray(t) for t in targets])
        key = (*types, *target_types)
        if key not in self._programs:
            self._programs[key] = self._compile(types, target_types)
        value = np.zeros((), np.float32)
        self._programs[key].run([*arrays, *target_arrays, value])  # type: ignore[attr-defined]
        return float(value)

    def _compile(self, outputs: Sequence[TensorType], targets: Sequence[TensorType]) -> object:
        graph = Graph("loss")
        names = [f"output{i}" for i in range(len(outputs))] + [f"target{i}" for i in range(len(targets))]
        for name, t in zip(names, (*outputs, *targets), strict=True):
            graph.add_tensor(Tensor(name, "input", t.shape, t.dtype))
        graph.inputs = names
        types = infer(graph)
        build = GraphExtension(graph, types, prefix="")
        graph.outputs = [self.loss.build(build, names[: len(outputs)], names[len(outputs) :])]
        lowered = Lowering(graph, types, self.isa, 1, ConstantPool()).assemble()
        return load_program(lowered, len(graph.inputs) + 1, self.isa, 1)
