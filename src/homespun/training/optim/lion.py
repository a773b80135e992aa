"""Lion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from homespun.graph.graph import Attribute
from homespun.training.optim.optimizer import Betas


@dataclass
class Lion(Betas):
    """Steps of one size, in the direction of an interpolated momentum. Source: Chen et al. 2023, algorithm 2."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = field(default=(0.9, 0.99))
    op: ClassVar[str] = "lion"

    def states(self) -> tuple[str, ...]:
        return ("momentum",)

    def attributes(self) -> dict[str, Attribute]:
        return {"a": self.betas[0], "b": self.betas[1]}
