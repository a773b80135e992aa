"""Magnitude pruning while training: a callback that makes weights zero by a schedule and keeps them so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.compression.prune_weights import check_sparsity, cubic_sparsity, magnitude_mask, prunable_weights
from homespun.errors import OptionError
from homespun.graph import Array
from homespun.training.callback import Callback

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


class PruneWeights(Callback):
    """Makes the smallest weights of each trained layer zero, more and more from step `begin` to `end`, up to a share of
    `sparsity`; what is zero stays zero. With `end` 0 all of it goes at once.

    New weights are chosen every `every` steps. What went is read from the weights, where it is zero, so a run that is
    resumed goes on as it was; so does one that fine-tunes what `homespun.prune_weights` made.
    Source: Zhu & Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression".
    """

    def __init__(self, sparsity: float, begin: int = 0, end: int = 0, every: int = 10) -> None:
        check_sparsity(sparsity)
        if begin < 0 or every < 1 or end < 0:
            raise OptionError(f"begin and end are not negative, every at least 1; not {begin}, {end} and {every}")
        self.sparsity, self.begin, self.end, self.every = sparsity, begin, end, every
        self._masks: dict[str, Array] = {}

    def before_step(self, trainer: Trainer) -> None:
        """Before the first step: what is zero already."""
        if not self._masks:
            chosen = set(prunable_weights(trainer.model()))
            weights = trainer.parameters(copy=False, trainable_only=True)
            self._masks = {name: values != 0 for name, values in weights.items() if name in chosen}
            if not self._masks:
                raise OptionError("no weight that is trained can be pruned: convolutions and linear layers can")

    def after_update(self, trainer: Trainer) -> None:
        """Zero again what the update has moved, and now and then more."""
        done = trainer.step_count
        more = done % self.every == 0 or done == self.end or self.end <= self.begin
        share = cubic_sparsity(done, self.sparsity, self.begin, self.end) if more else 0.0
        weights = trainer.parameters(copy=False, trainable_only=True)
        averages = trainer.optimizer_state(copy=False)
        for name, mask in self._masks.items():
            weights[name][~mask] = 0
            if share > 1 - mask.mean():
                self._masks[name] = mask = magnitude_mask(weights[name], share)
                weights[name][~mask] = 0
            average = averages.get(f"average/{name}")
            if average is not None:
                average[~mask] = 0
