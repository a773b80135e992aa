"""Adam and AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from homespun.graph.graph import Attribute
from homespun.training.optim.optimizer import Betas


@dataclass
class Adam(Betas):
    """Adaptive moments, with bias correction; weight decay is added to the gradient. Source: Kingma & Ba 2015."""

    learning_rate: float = 1e-3
    op: ClassVar[str] = "adam"
    decoupled: ClassVar[bool] = False

    def states(self) -> tuple[str, ...]:
        return ("mean", "mean_square")

    def attributes(self) -> dict[str, Attribute]:
        a, b = self.betas
        return {"a": a, "b": b, "epsilon": self.epsilon, "decoupled": self.decoupled}

    def hyper(self, step: int) -> tuple[float, float]:
        a, b = self.betas
        return (1.0 / (1.0 - a**step), 1.0 / (1.0 - b**step) ** 0.5)

    def hyper_to_onnx(self, write: Any, step: str) -> tuple[Any, Any]:
        t = write("Cast", step, to=11)  # in float32, 1 - b^t has few digits in the first steps
        left = [write("Sub", np.float64(1), write("Pow", np.float64(beta), t)) for beta in self.betas]
        numbers = (write("Reciprocal", left[0]), write("Reciprocal", write("Sqrt", left[1])))
        return (write("Cast", numbers[0], to=1), write("Cast", numbers[1], to=1))


@dataclass
class AdamW(Adam):
    """Adam whose weight decay acts on the weights themselves. Source: Loshchilov & Hutter 2019."""

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True
