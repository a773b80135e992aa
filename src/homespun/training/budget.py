"""Keeping a trainer within a memory budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


@dataclass(frozen=True)
class Choice:
    """What was chosen: samples that run at once (0: the whole batch), layers whose outputs are computed again."""

    micro_batch: int = 0
    recompute: tuple[str, ...] | None = None


def choose(trainer: Trainer) -> Choice:
    """The fastest way to train within the trainer's budget."""
    return Choice()
