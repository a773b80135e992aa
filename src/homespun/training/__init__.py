"""Training on the device: `Trainer`, losses, optimizers, schedules, metrics, callbacks, checkpoints, `splice`."""

from homespun.training import callbacks, detection, losses, metrics, optim, schedules
from homespun.training.loss_scale import LossScale
from homespun.training.splice import splice
from homespun.training.steps import StepResult
from homespun.training.trainer import Trainer

__all__ = [
    "LossScale",
    "StepResult",
    "Trainer",
    "callbacks",
    "detection",
    "losses",
    "metrics",
    "optim",
    "schedules",
    "splice",
]
