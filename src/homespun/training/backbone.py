"""A predictor that belongs to a trainer: it pauses with it, and its arena goes back to the system with the others."""

from __future__ import annotations

from homespun import _native
from homespun.graph import Array, Graph
from homespun.runtime import Predictor
from homespun.training.pause import InferenceProgram, PauseSwitch


class PausablePredictor(Predictor):
    """Runs the frozen part of a model, or all of it in an evaluation, through the switch of a trainer."""

    def __init__(self, model: Graph, batch: int, weights: str, threads: int, isa: str, switch: PauseSwitch) -> None:
        self._switch = switch
        self._pausable: dict[_native.Program, InferenceProgram] = {}
        super().__init__(model, batch, weights, threads, isa)

    def _execute(self, program: _native.Program, externals: list[Array]) -> None:
        if program not in self._pausable:
            self._pausable[program] = InferenceProgram(program)
            self._switch.add(self._pausable[program])
        self._switch.run(self._pausable[program], externals)
