"""Training on the device: `Trainer`, losses, optimizers, schedules, metrics, callbacks, checkpoints, `splice`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.training import callbacks as callbacks
    from homespun.training import detection as detection
    from homespun.training import losses as losses
    from homespun.training import metrics as metrics
    from homespun.training import optim as optim
    from homespun.training import schedules as schedules
    from homespun.training.distillation import match_features as match_features
    from homespun.training.loss_scale import LossScale as LossScale
    from homespun.training.saliency import channel_saliency as channel_saliency
    from homespun.training.splice import splice as splice
    from homespun.training.steps import StepResult as StepResult
    from homespun.training.trainer import Trainer as Trainer

_HOMES = {
    "LossScale": "loss_scale",
    "StepResult": "steps",
    "Trainer": "trainer",
    "callbacks": "",
    "channel_saliency": "saliency",
    "detection": "",
    "losses": "",
    "match_features": "distillation",
    "metrics": "",
    "optim": "",
    "schedules": "",
    "splice": "splice",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
