"""Optimizers, one file each."""

from homespun.training.optim.adagrad import Adagrad
from homespun.training.optim.adam import Adam, AdamW
from homespun.training.optim.lion import Lion
from homespun.training.optim.optimizer import Group, Optimizer
from homespun.training.optim.rmsprop import RMSprop
from homespun.training.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Group", "Lion", "Optimizer", "RMSprop"]
