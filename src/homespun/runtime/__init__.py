"""Running a program: predictors, calibration, threads, the pause flag."""

from homespun.runtime.calibration import calibrate
from homespun.runtime.predictor import Predictor

__all__ = ["Predictor", "calibrate"]
