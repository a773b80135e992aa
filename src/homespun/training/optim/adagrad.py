"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from homespun.graph.graph import Attribute
from homespun.training.optim.optimizer import Optimizer


@dataclass
class Adagrad(Optimizer):
    """Gradient over the root of the sum of all its squares. Source: Duchi et al. 2011."""

    learning_rate: float = 0.01
    learning_rate_decay: float = 0.0
    epsilon: float = 1e-10
    op: ClassVar[str] = "adagrad"

    def states(self) -> tuple[str, ...]:
        return ("", "square_sum")

    def attributes(self) -> dict[str, Attribute]:
        return {"epsilon": self.epsilon}

    def hyper(self, step: int) -> tuple[float, float]:
        return (1.0 / (1.0 + (step - 1) * self.learning_rate_decay), 0.0)

    def hyper_to_onnx(self, write: Any, step: str) -> tuple[Any, Any]:
        slower = write("Add", write("Mul", write("Sub", step, 1.0), self.learning_rate_decay), 1.0)
        return (write("Reciprocal", slower), "")
