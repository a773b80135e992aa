"""Homespun trains neural networks where the data lives.

The public API of the engine. Names are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from homespun.lazy import lazy

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

_HOMES = {
    "Graph": "graph",
    "GraphBuilder": "graph",
    "LossScale": "training",
    "MemoryReport": "compile",
    "MixedPrecision": "runtime",
    "Predictor": "runtime",
    "StepResult": "training",
    "Trainer": "training",
    "calibrate": "runtime",
    "callbacks": "training",
    "channel_saliency": "training",
    "channel_statistics": "runtime",
    "data": "",
    "load": "formats",
    "losses": "training",
    "match_features": "training",
    "metrics": "training",
    "mixed_precision": "runtime",
    "optim": "training",
    "prune_channels": "compression",
    "prune_weights": "compression",
    "round_weights": "runtime",
    "save": "formats",
    "schedules": "training",
    "sensitivity": "runtime",
    "splice": "training",
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
    *_HOMES,
]


lazy(__name__, _HOMES, first="ops")  # which fills the table of operators that graphs are checked against


def __dir__() -> list[str]:
    return sorted(__all__)
