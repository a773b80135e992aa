"""Running a program: predictors, calibration, the choice of 8 or 16 bits, threads, the pause flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.runtime.calibration import calibrate as calibrate
    from homespun.runtime.partial_quantization import MixedPrecision as MixedPrecision
    from homespun.runtime.partial_quantization import mixed_precision as mixed_precision
    from homespun.runtime.partial_quantization import sensitivity as sensitivity
    from homespun.runtime.predictor import Predictor as Predictor
    from homespun.runtime.rounding import round_weights as round_weights
    from homespun.runtime.statistics import channel_statistics as channel_statistics

_HOMES = {
    "MixedPrecision": "partial_quantization",
    "Predictor": "predictor",
    "calibrate": "calibration",
    "channel_statistics": "statistics",
    "mixed_precision": "partial_quantization",
    "round_weights": "rounding",
    "sensitivity": "partial_quantization",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
