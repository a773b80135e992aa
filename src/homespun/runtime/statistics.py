"""Statistics of channels, measured on data: what pruning and rounding want to know about a network's activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.compression.statistics import ChannelStatistics, mixing_layers
from homespun.errors import ModelError
from homespun.graph import Array, Graph, check, infer
from homespun.runtime.predictor import Predictor
from homespun.runtime.samples import input_batches

#: Wider tensors are not measured: their covariances would take more than 128 MiB each.
WIDEST = 4096
#: Samples that run at once. All that is measured of a batch is kept.
_BATCH = 2


def channel_statistics(model: Graph, data: Any, *, threads: int = 2) -> dict[str, ChannelStatistics]:
    """Means and covariances of the channels that each convolution of one group and each linear layer reads, by tensor.

    `data`: the inputs as one array (N, ...), a tuple of arrays for a model with several inputs, a list or iterator of
    such batches, or a `homespun.data` set: some hundred samples that are like what the model will see. Pixels count
    each. Left out are inputs of the model and tensors of more than `WIDEST` channels. Takes 8 C^2 bytes for a tensor of
    C channels. Raises `OptionError` if there are no data or a value is not finite, `ShapeError` for data of another
    shape, `ModelError` if no layer reads what another made.
    """
    check(model)
    types = infer(model, batch=1)
    read = dict.fromkeys(node.inputs[0] for node in mixing_layers(model))
    names = [n for n in read if n not in model.inputs and types[n].shape[-1] <= WIDEST]
    if not names:
        raise ModelError(f"{model.name}: no layer with weights reads what another layer makes")
    probe = model.copy()
    probe.outputs = names
    predict = Predictor(probe, batch=_BATCH, threads=threads)
    totals = {n: np.zeros(types[n].shape[-1]) for n in names}
    products = {n: np.zeros((types[n].shape[-1],) * 2) for n in names}
    counts = dict.fromkeys(names, 0)
    for inputs in input_batches(data, _BATCH):
        made = predict(*inputs)
        for name, values in zip(names, made if isinstance(made, tuple) else (made,), strict=True):
            pixels: Array = values.reshape(-1, values.shape[-1])
            totals[name] += pixels.sum(axis=0, dtype=np.float64)
            products[name] += pixels.T @ pixels
            counts[name] += len(pixels)
    found = {}
    for name in names:
        mean = totals[name] / counts[name]
        covariance = products.pop(name) / counts[name] - np.outer(mean, mean)
        found[name] = ChannelStatistics(mean, covariance, counts[name])
    return found
