"""Training on the device: `Trainer`, losses, optimizers, schedules, metrics, callbacks, checkpoints, `splice`."""

from homespun.training import losses, optim
from homespun.training.trainer import StepResult, Trainer

__all__ = ["StepResult", "Trainer", "losses", "optim"]
