"""Training on the device: `Trainer`, losses, optimizers, schedules, metrics, callbacks, checkpoints, `splice`."""

from homespun.training import callbacks, detection, losses, metrics, optim, schedules
from homespun.training.distillation import match_features
from homespun.training.loss_scale import LossScale
from homespun.training.saliency import channel_saliency
from homespun.training.splice import splice
from homespun.training.steps import StepResult
from homespun.training.trainer import Trainer

__all__ = [
    "LossScale",
    "StepResult",
    "Trainer",
    "callbacks",
    "channel_saliency",
    "detection",
    "losses",
    "match_features",
    "metrics",
    "optim",
    "schedules",
    "splice",
]
