"""What optimizers have in common: options, per-group factors, state names; a subclass says only what it updates how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from homespun.errors import OptionError
from homespun.graph.graph import Attribute
from homespun.options import not_negative

#: The largest finite float32: kernels are told numbers as that.
MOST = 3.4028234e38


@dataclass(frozen=True)
class Group:
    """Parameters whose names match one of `patterns` (or the one pattern) learn at `rate` times the learning rate;
    `weight_decay` replaces the optimizer's where it is given."""

    patterns: tuple[str, ...] | str
    rate: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        patterns = (self.patterns,) if isinstance(self.patterns, str) else tuple(self.patterns)
        if not all(isinstance(p, str) for p in patterns):
            raise OptionError(
                f"patterns of a group are {self.patterns!r}; they must be names of parameters, * for any part"
            )
        object.__setattr__(self, "patterns", patterns)
        not_negative("rate of a group", self.rate, MOST)
        if self.weight_decay is not None:
            not_negative("weight_decay of a group", self.weight_decay, MOST)

    def matches(self, name: str) -> bool:
        """Whether a parameter belongs to the group."""
        return any(fnmatchcase(name, p) for p in self.patterns)  # a tuple by now


@dataclass
class Optimizer:
    """Base: `learning_rate` may be changed at any time; the first group that matches a parameter applies to it.

    `clip_norm` limits the norm of all gradients together, `clip_value` the size of each value.
    """

    learning_rate: float
    weight_decay: float = 0.0
    groups: Sequence[Group] = ()
    clip_norm: float = 0.0
    clip_value: float = 0.0
    #: Kernel, and names of the states that each parameter has: "" where a position is not used.
    op: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "epsilon", "learning_rate_decay"):
            if hasattr(self, name):
                setattr(self, name, not_negative(name, getattr(self, name), MOST))
        for name in ("clip_norm", "clip_value"):  # infinite: looked at, not clipped
            setattr(self, name, not_negative(name, getattr(self, name)))

    def states(self) -> tuple[str, ...]:
        """Names of the states of each parameter, by position; "" for a position that stays empty."""
        return ()

    def attributes(self) -> dict[str, Attribute]:
        """What the kernel is told, beside the group's factors."""
        return {}

    def hyper(self, step: int) -> tuple[float, float]:
        """Two numbers for the step (counted from 1) that the kernel reads beside the learning rate."""
        return (0.0, 0.0)

    def hyper_to_onnx(self, write: Any, step: str) -> tuple[Any, Any]:
        """The same two numbers, written as ONNX nodes from the number of the step (float32)."""
        return ("", "")

    def attributes_for(self, name: str) -> dict[str, Attribute]:
        """What the kernel is told for one parameter."""
        group = next((g for g in self.groups if g.matches(name)), Group(()))
        decay = self.weight_decay if group.weight_decay is None else group.weight_decay
        given: dict[str, Attribute] = {"rate": float(group.rate), "decay": float(decay)}
        if self.clip_value > 0:
            given["clip"] = float(self.clip_value)
        return {**given, **self.attributes()}

    def options(self) -> Mapping[str, object]:
        """Everything that makes this optimizer what it is, for a checkpoint."""
        values = {k: v for k, v in vars(self).items() if k != "groups"}
        values["groups"] = [[list(g.patterns), g.rate, g.weight_decay] for g in self.groups]
        return values


@dataclass
class Momentum(Optimizer):
    """Base of optimizers with a momentum that may be zero."""

    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum < 1.0:
            raise OptionError(f"momentum is {self.momentum}; it can be 0 up to but not 1")


@dataclass
class Betas(Optimizer):
    """Base of optimizers with two decay rates."""

    betas: tuple[float, float] = field(default=(0.9, 0.999))
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        if not all(0.0 <= b < 1.0 for b in self.betas):
            raise OptionError(f"betas are {self.betas}; each can be 0 up to but not 1")
