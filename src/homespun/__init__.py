"""Homespun trains neural networks where the data lives.

The public API of the engine. Names are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from homespun.errors import (
    BudgetError,
    FormatError,
    HomespunError,
    MissingPackageError,
    ModelError,
    OptionError,
    PausedError,
    ShapeError,
    TrainingError,
)

if TYPE_CHECKING:
    from homespun import data as data
    from homespun import zoo as zoo
    from homespun.compile import MemoryReport as MemoryReport
    from homespun.compression import prune_channels as prune_channels
    from homespun.compression import prune_weights as prune_weights
    from homespun.formats import load as load
    from homespun.formats import save as save
    from homespun.graph import Graph as Graph
    from homespun.graph import GraphBuilder as GraphBuilder
    from homespun.runtime import MixedPrecision as MixedPrecision
    from homespun.runtime import Predictor as Predictor
    from homespun.runtime import calibrate as calibrate
    from homespun.runtime import channel_statistics as channel_statistics
    from homespun.runtime import mixed_precision as mixed_precision
    from homespun.runtime import round_weights as round_weights
    from homespun.runtime import sensitivity as sensitivity
    from homespun.training import LossScale as LossScale
    from homespun.training import StepResult as StepResult
    from homespun.training import Trainer as Trainer
    from homespun.training import callbacks as callbacks
    from homespun.training import channel_saliency as channel_saliency
    from homespun.training import losses as losses
    from homespun.training import match_features as match_features
    from homespun.training import metrics as metrics
    from homespun.training import optim as optim
    from homespun.training import schedules as schedules
    from homespun.training.splice import splice as splice

__version__ = "0.1.0"

_LAZY = {
    "Graph": "homespun.graph",
    "GraphBuilder": "homespun.graph",
    "LossScale": "homespun.training",
    "MemoryReport": "homespun.compile",
    "MixedPrecision": "homespun.runtime",
    "Predictor": "homespun.runtime",
    "StepResult": "homespun.training",
    "Trainer": "homespun.training",
    "calibrate": "homespun.runtime",
    "callbacks": "homespun.training",
    "channel_saliency": "homespun.training",
    "channel_statistics": "homespun.runtime",
    "data": "",
    "load": "homespun.formats",
    "losses": "homespun.training",
    "match_features": "homespun.training",
    "metrics": "homespun.training",
    "mixed_precision": "homespun.runtime",
    "optim": "homespun.training",
    "prune_channels": "homespun.compression",
    "prune_weights": "homespun.compression",
    "round_weights": "homespun.runtime",
    "save": "homespun.formats",
    "schedules": "homespun.training",
    "sensitivity": "homespun.runtime",
    "splice": "homespun.training",
    "zoo": "",
}

__all__ = [
    "BudgetError",
    "FormatError",
    "HomespunError",
    "MissingPackageError",
    "ModelError",
    "OptionError",
    "PausedError",
    "ShapeError",
    "TrainingError",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        # With `name` and `obj` Python says which name was probably meant.
        raise AttributeError(f"module 'homespun' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    import_module("homespun.ops")  # fills the table of operators that graphs are checked against
    module = _LAZY[name]
    value = getattr(import_module(module), name) if module else import_module(f"homespun.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
