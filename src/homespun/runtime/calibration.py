"""Calibration: how large a model's activations get on data like those it will see, for 8-bit programs.

What is measured stays with the model (`Tensor.limit`), is saved with it, and used by `Predictor(weights="int8")`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.compile.ranges import keep_limits, upper_bound
from homespun.graph import Array, Graph, check, infer
from homespun.runtime.predictor import Predictor
from homespun.runtime.samples import input_batches

#: Codes are spread over this multiple of the largest value measured: other data reach further than a few samples do.
#: On photos 2 is best for MobileNetV2 and no worse than anything for EfficientNet-Lite0; 1 clips what matters.
MARGIN = 2.0
#: Samples that run at once. All measured activations of a batch are kept: 27 MB a sample for MobileNetV2.
_BATCH = 2


def calibrate(model: Graph, data: Any, *, threads: int = 2) -> Graph:
    """The model with the limits of its activations, measured on `data`; the model given is not changed.

    `data`: the inputs as one array (N, ...), a tuple of arrays for a model with several inputs, a list or iterator of
    such batches, or a `homespun.data` set. A few dozen samples that are like what the model will see are enough.
    Measured are activations between 0 and a bound (`relu6`, `clip`), which 8-bit programs store as codes. Raises
    `OptionError` if there are no data or a value is not finite, `ShapeError` for data of another shape.
    """
    check(model)
    calibrated = model.copy()
    types = infer(model, batch=1)
    bounded = [node.outputs[0] for node in model.nodes if upper_bound(node) is not None]
    names = [name for name in bounded if len(types[name].shape) > 1]
    probe = model.copy()
    probe.outputs = names or list(model.outputs)
    predict = Predictor(probe, batch=_BATCH, threads=threads)
    largest: dict[str, Array] = {}
    for inputs in input_batches(data, _BATCH):
        made = predict(*inputs)
        for name, values in zip(probe.outputs, made if isinstance(made, tuple) else (made,), strict=True):
            most = values.max(axis=tuple(range(values.ndim - 1)))
            largest[name] = np.maximum(most, largest.get(name, most))
    keep_limits(calibrated, {name: MARGIN * largest[name].astype(np.float64) for name in names})
    return calibrated
