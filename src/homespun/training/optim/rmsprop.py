"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from homespun.errors import OptionError
from homespun.graph.graph import Attribute
from homespun.training.optim.optimizer import Momentum


@dataclass
class RMSprop(Momentum):
    """Gradient over the root of its running mean square. Source: Hinton's Neural Networks lectures, 6e (2012)."""

    learning_rate: float = 0.01
    smoothing: float = 0.99
    epsilon: float = 1e-8
    op: ClassVar[str] = "rmsprop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.smoothing < 1.0:
            raise OptionError(f"smoothing is {self.smoothing}; it can be 0 up to but not 1")

    def states(self) -> tuple[str, ...]:
        return ("momentum" if self.momentum > 0 else "", "mean_square")

    def attributes(self) -> dict[str, Attribute]:
        return {"a": float(self.smoothing), "b": float(self.momentum), "epsilon": self.epsilon}
