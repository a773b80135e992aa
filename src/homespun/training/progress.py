"""Where a fit stands: the data cursor and what it has seen so far."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Epochs done, batches of the current epoch done, the sum of their losses, one record for each epoch done."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
