"""Keeping a trainer within a memory budget: compute layers again, then split the batch, then refuse.

A budget covers the arena, parameters, statistics and optimizer states of the part that is trained, and the block of
gradients that a split batch needs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from homespun.compile.training import Mode
from homespun.errors import BudgetError, OptionError

if TYPE_CHECKING:
    from homespun.training.programs import Programs

_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Choice:
    """What was chosen: samples that run at once (0: the whole batch), and the layers whose outputs are computed again
    (None: those where it costs next to nothing)."""

    micro_batch: int = 0
    recompute: tuple[str, ...] | None = None
    bytes: int = 0

    def __str__(self) -> str:
        parts = []
        if self.recompute:
            parts.append(f"computes the outputs of {len(self.recompute)} layers again in the backward pass")
        if self.micro_batch:
            parts.append(f"runs {self.micro_batch} samples at a time and adds their gradients")
        return "; ".join(parts) or "none"


def as_bytes(budget: int | str) -> int:
    """A budget as bytes: a number, or text as "96MB", "0.5 GiB". Raises `OptionError`."""
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", budget)
        if match is None or match.group(2).lower() not in _UNITS:
            raise OptionError(f"memory_budget is {budget!r}; write it like '96MB' or '1GiB'")
        budget = int(float(match.group(1)) * _UNITS[match.group(2).lower()])
    if not isinstance(budget, (int, float, np.number)) or not 0 < budget < math.inf:
        raise OptionError(f"memory_budget is {budget!r}; it must be a positive number of bytes, or text like '96MB'")
    return int(budget)


def choose(programs: Programs, batch: int, budget: int) -> Choice:
    """The fastest way to train within a budget. Raises `BudgetError`, saying the least that would do."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    tried: list[tuple[int, int]] = []
    for size in sizes:
        micro = 0 if size == batch else size
        found, smallest = _fit(programs, micro, size, budget)
        if found is not None:
            return found
        tried.append((smallest, size))
    least, size = min(tried)  # where parameters weigh most, a split batch takes more: the sum of gradients
    at_once = "the whole batch" if size == batch > 1 else "one sample" if size == 1 else f"{size} samples"
    raise BudgetError(
        f"memory_budget of {_in_words(budget)} is too small: the least, {at_once} at a time and as many layers "
        f"computed again as help, takes {_in_words(least)}"
    )


def _in_words(size: int) -> str:
    """Bytes as a person writes them, rounded up, so that a budget of what is said does do."""
    unit, name = (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{math.ceil(10 * size / unit) / 10:.1f} {name}"


def _fit(programs: Programs, micro: int, size: int, budget: int) -> tuple[Choice | None, int]:
    """(the choice with the fewest layers computed again that fits, or None; bytes of the smallest tried)."""
    mode: Mode = "gradients" if micro else "step"
    state = programs.state
    around = state.store.layout.size + (state.gradient_layout.size if micro else 0)
    draft = programs.draft(mode, size)
    usual = around + draft.arena(None)
    if usual <= budget:
        return Choice(micro, None, usual), usual
    candidates = draft.candidates()
    smallest = min(usual, around + draft.arena(candidates))
    if smallest > budget:
        return None, smallest
    low, high = 1, len(candidates)
    while low < high:  # more layers never take more memory, but for small buffers that happen to lie badly
        middle = (low + high) // 2
        if around + draft.least(candidates[:middle]) <= budget:
            high = middle
        else:
            low = middle + 1
    for count in range(low, len(candidates) + 1):  # nearly always the first: plans come close to the least
        needed = around + draft.arena(candidates[:count])
        if needed <= budget:
            return Choice(micro, candidates[:count], needed), needed
    return None, smallest
