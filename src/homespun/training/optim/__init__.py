"""Optimizers, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.training.optim.adagrad import Adagrad as Adagrad
    from homespun.training.optim.adam import Adam as Adam
    from homespun.training.optim.adam import AdamW as AdamW
    from homespun.training.optim.lion import Lion as Lion
    from homespun.training.optim.optimizer import Group as Group
    from homespun.training.optim.optimizer import Optimizer as Optimizer
    from homespun.training.optim.rmsprop import RMSprop as RMSprop
    from homespun.training.optim.sgd import SGD as SGD

_HOMES = {
    "Adagrad": "adagrad",
    "Adam": "adam",
    "AdamW": "adam",
    "Group": "optimizer",
    "Lion": "lion",
    "Optimizer": "optimizer",
    "RMSprop": "rmsprop",
    "SGD": "sgd",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
