"""From a model to a program that runs: passes, shapes, lowering, memory plan, in that order."""

from __future__ import annotations

from dataclasses import dataclass

from homespun import _native
from homespun.compile.lowering import ConstantPool, Lowered, Lowering
from homespun.errors import OptionError
from homespun.graph import Graph, infer


@dataclass(frozen=True)
class MemoryReport:
    """Where the bytes go. All in bytes.

    `arena` is what the plan takes for activations and scratch, `lower_bound` the most that is alive at one moment in
    this schedule (no plan can take less), `without_reuse` what it would be if every tensor had memory of its own,
    `parameters` the weights in the form in which they are kept, `optimizer` its state.
    """

    arena: int
    lower_bound: int
    without_reuse: int
    parameters: int
    optimizer: int = 0

    def __str__(self) -> str:
        mb = 1e6
        share = self.arena / self.lower_bound if self.lower_bound else 1.0
        return (
            f"arena {self.arena / mb:.1f} MB ({share:.2f}x the lower bound, {self.without_reuse / mb:.1f} MB without "
            f"reuse), parameters {self.parameters / mb:.1f} MB, optimizer {self.optimizer / mb:.1f} MB"
        )


#: Of one program, as the executor has it.
MOST_THREADS = 256


def choose_isa(isa: str | None) -> str:
    """The instruction set to compile for: the CPU's best, or the one asked for. Raises `OptionError`."""
    usable = list(_native.isas())
    if isa is None:
        return usable[0]
    if isa not in usable:
        raise OptionError(f"instruction set {isa!r} is not usable here; usable are {', '.join(usable)}")
    return isa


def lower(graph: Graph, batch: int, isa: str, threads: int, constants: ConstantPool) -> Lowered:
    """Lower a graph that the passes have prepared, for one batch size."""
    return Lowering(graph, infer(graph, batch), isa, threads, constants).assemble()


def load_program(lowered: Lowered, externals: int, isa: str, threads: int) -> _native.Program:
    """Hand a lowered program to the executor."""
    return _native.Program(
        lowered.instructions, lowered.plan.size, lowered.constants.blob(), None, externals, threads, isa
    )


def report(lowered: Lowered) -> MemoryReport:
    """What a lowered program takes."""
    return MemoryReport(
        arena=lowered.plan.size,
        lower_bound=lowered.plan.lower_bound,
        without_reuse=lowered.unshared_bytes,
        parameters=lowered.constants.size,
    )
