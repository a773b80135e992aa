"""Where a fit stands: the data cursor and what it has seen so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from homespun.errors import OptionError


@dataclass
class Progress:
    """Epochs done, batches of the current epoch done, the sum of their losses, one record for each epoch done."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        counts = all(isinstance(n, int) and n >= 0 for n in (self.epoch, self.batch))
        records = isinstance(self.history, list) and all(isinstance(r, dict) for r in self.history)
        if not counts or not records or not isinstance(self.loss_sum, (int, float)):
            raise OptionError(f"{self}: epoch and batch are counts, history is a list of records")
