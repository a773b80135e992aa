"""Dynamic loss scaling, which training with float16 storage needs: gradients are computed of `value` times the loss, so
that small ones do not vanish, and divided again in float32 before the update."""

from __future__ import annotations

from dataclasses import dataclass

from homespun.errors import OptionError, TrainingError

#: Below this the values themselves overflow, and no scale can help.
LEAST = 2.0**-24


@dataclass
class LossScale:
    """Halves when a gradient overflows (that step is skipped), doubles after `patience` good steps in a row.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2, as NVIDIA's guide makes it dynamic.
    """

    value: float = 2.0**15
    patience: int = 1000
    good: int = 0

    def __post_init__(self) -> None:
        if not LEAST <= self.value <= 2.0**100 or self.patience < 1 or self.good < 0:
            raise OptionError(f"{self}: the value must be positive and the patience at least 1")

    def kept(self) -> None:
        """A step was made with this scale."""
        self.good += 1
        if self.good >= self.patience:
            self.value, self.good = min(2.0 * self.value, 2.0**100), 0

    def overflowed(self) -> None:
        """A gradient was not finite. Raises `TrainingError` where that can't be for want of range."""
        if self.value / 2.0 < LEAST:
            raise TrainingError(
                f"gradients are not finite even with a loss scale of {self.value:g}; nothing was updated. Lower the "
                "learning rate, or train with precision='mixed'"
            )
        self.value, self.good = self.value / 2.0, 0
