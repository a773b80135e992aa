"""Learning-rate schedules: factors by which the optimizer's learning rate is multiplied, as functions of the step.

Steps count from 0. All but `Plateau` are pure functions, so a resumed run needs nothing but its step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from homespun.errors import OptionError


@dataclass
class Schedule:
    """Base: the factor is one for ever. `Constant` is its name in the public API."""

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at a step."""
        return 1.0

    def observe(self, value: float) -> None:
        """Told the monitored value after each epoch."""


Constant = Schedule


@dataclass
class StepDecay(Schedule):
    """Multiplies by `gamma` every `every` steps."""

    every: int = 1000
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(f"every is {self.every}; it must be at least 1")

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.every))


@dataclass
class Cosine(Schedule):
    """Half a cosine from 1 to `least` over `steps`. Source: Loshchilov & Hutter 2017, equation 5, one period."""

    steps: int = 1000
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"steps is {self.steps}; it must be at least 1")

    def factor(self, step: int) -> float:
        share = min(1.0, step / self.steps)
        return self.least + (1.0 - self.least) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass
class OneCycle(Schedule):
    """From `1 / start` up to 1 over the first `warm` share of `steps`, then down to `1 / end`, both along cosines.

    Source: Smith & Topin 2018, "Super-Convergence", with cosines as PyTorch has it.
    """

    steps: int = 1000
    warm: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        if self.steps < 2 or not 0.0 < self.warm < 1.0:
            raise OptionError(f"steps must be at least 2 and warm between 0 and 1, not {self.steps} and {self.warm}")

    def factor(self, step: int) -> float:
        top = self.warm * self.steps - 1.0
        step = min(step, self.steps - 1)
        if step <= top:
            return _cosine(1.0 / self.start, 1.0, step / max(1.0, top))
        return _cosine(1.0, 1.0 / (self.start * self.end), (step - top) / (self.steps - 1.0 - top))


def _cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass
class WarmUp(Schedule):
    """Rises linearly over the first `steps`, then follows another schedule, which begins there."""

    steps: int = 100
    then: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise OptionError(f"steps is {self.steps}; it must not be negative")

    def factor(self, step: int) -> float:
        if step < self.steps:
            return (step + 1) / (self.steps + 1)
        return self.then.factor(step - self.steps)

    def observe(self, value: float) -> None:
        self.then.observe(value)


@dataclass
class Plateau(Schedule):
    """Multiplies by `gamma` when the monitored value has not fallen (with `maximise`: risen), by more than `threshold`
    times its size, for more than `patience` epochs."""

    patience: int = 3
    gamma: float = 0.1
    threshold: float = 1e-4
    least: float = 0.0
    maximise: bool = False
    best: float = math.inf
    waited: int = 0
    current: float = 1.0

    def __post_init__(self) -> None:
        if self.patience < 0 or not 0.0 < self.gamma <= 1.0:
            raise OptionError(f"patience must be at least 0 and gamma in (0, 1], not {self.patience} and {self.gamma}")

    def factor(self, step: int) -> float:
        return self.current

    def observe(self, value: float) -> None:
        value = -value if self.maximise else value
        least_better = self.best - self.threshold * abs(self.best) if math.isfinite(self.best) else self.best
        if value < least_better:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.current, self.waited = max(self.least, self.current * self.gamma), 0


_KINDS = {kind.__name__: kind for kind in (Schedule, StepDecay, Cosine, OneCycle, WarmUp, Plateau)}


def describe(schedule: Schedule) -> dict[str, object]:
    """A schedule and where it stands, as JSON."""
    values = {k: describe(v) if isinstance(v, Schedule) else v for k, v in vars(schedule).items()}
    return {"kind": type(schedule).__name__, **{k: "inf" if v == math.inf else v for k, v in values.items()}}


def from_description(described: dict[str, object]) -> Schedule:
    """The schedule that `describe` described."""
    values = {k: v for k, v in described.items() if k != "kind"}
    kind = _KINDS[str(described["kind"])]
    return kind(
        **{k: from_description(v) if isinstance(v, dict) else math.inf if v == "inf" else v for k, v in values.items()}
    )
