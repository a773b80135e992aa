"""Running a program: predictors, calibration, the choice of 8 or 16 bits, threads, the pause flag."""

from homespun.runtime.calibration import calibrate
from homespun.runtime.partial_quantization import MixedPrecision, mixed_precision, sensitivity
from homespun.runtime.predictor import Predictor
from homespun.runtime.rounding import round_weights
from homespun.runtime.statistics import channel_statistics

__all__ = [
    "MixedPrecision",
    "Predictor",
    "calibrate",
    "channel_statistics",
    "mixed_precision",
    "round_weights",
    "sensitivity",
]
