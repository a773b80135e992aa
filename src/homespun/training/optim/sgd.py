"""Stochastic gradient descent, with momentum and Nesterov's variant, as PyTorch defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from homespun.errors import OptionError
from homespun.graph.graph import Attribute
from homespun.training.optim.optimizer import Momentum


@dataclass
class SGD(Momentum):
    """m = momentum m + g; w -= rate m (Nesterov: rate (g + momentum m)), g with weight decay added.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    learning_rate: float = 0.01
    nesterov: bool = False
    op: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise OptionError("nesterov needs a momentum above 0")

    def states(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum > 0 else ()

    def attributes(self) -> dict[str, Attribute]:
        return {"a": float(self.momentum), "nesterov": self.nesterov}
