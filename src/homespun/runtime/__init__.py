"""Running a program: predictors, threads, the pause flag."""

from homespun.runtime.predictor import Predictor

__all__ = ["Predictor"]
