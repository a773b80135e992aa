"""8-bit weights chosen on data: rounded by how channels go together, and what is left wrong on average made good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.graph import Array, Graph, Node, check
from homespun.runtime.predictor import Predictor
from homespun.runtime.samples import input_batches
from homespun.runtime.statistics import channel_statistics

#: Samples that run at once. All outputs of layers of a batch are kept: 27 MB a sample for MobileNetV2.
_BATCH = 2
#: Samples, from all over the data, that means are measured on, once for each layer.
_FOR_MEANS = 64


def round_weights(model: Graph, data: Any, *, threads: int = 2) -> Graph:
    """A copy of a model in float32 whose weights are those of 8 bits, with outputs on `data` as near as it gets.

    Saved or compiled with weights "int8" it keeps them: nothing is rounded again. 1x1 convolutions and linear layers
    are rounded by the covariances of what they read (`compression.feedback`), all others as without data. Then, from
    the first layer to the last, the mean of each output channel is brought back to what it was: running means of norms,
    or biases, take the difference.

    `data`: the inputs as one array (N, ...), a tuple of arrays for a model with several inputs, a list or iterator of
    such batches, or a `homespun.data` set: some dozen to some hundred samples that are like what the model will see.
    Runs half the model on 64 samples for each layer. Raises `OptionError` if there are no data or a value is not
    finite, `ShapeError` for data of another shape, `ModelError` if no layer reads what another made.
    Source of the means: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
    section 4.2 and appendix D.
    """
    check(model)
    batches = list(input_batches(data, _BATCH))
    codes = quantize_weights(model, statistics=channel_statistics(model, batches, threads=threads))
    result = model.copy()
    for name, pair in codes.items():
        result.tensors[name].data = dequantize_per_channel(*pair)
    readers = model.consumers()
    outputs = [(node.outputs[0], *found) for node in model.nodes if (found := _constant(model, node, readers))]
    if not outputs:
        return result
    some = batches[:: max(1, len(batches) * _BATCH // _FOR_MEANS)]
    wanted = _means(model, [name for name, _, _ in outputs], some, threads)
    for name, constant, sign in outputs:
        moved = _means(result, [name], some, threads)[name] - wanted[name]
        tensor = result.tensors[constant]
        tensor.data = (result.data(constant) + sign * moved).astype(np.float32)
    return result


def _constant(model: Graph, layer: Node, readers: Mapping[str, list[Node]]) -> tuple[str, float] | None:
    """The array that a constant of a layer's output goes into, and the sign with which: None if there is none, or if
    something else reads it too."""
    if layer.op not in ("conv2d", "linear"):
        return None
    behind = readers.get(layer.outputs[0], [])
    if len(behind) == 1 and behind[0].op == "batch_norm" and layer.outputs[0] not in model.outputs:
        found, sign = behind[0].inputs[3], 1.0
    else:
        found, sign = (*layer.inputs, "")[2], -1.0
    good = bool(found) and model.tensors[found].data is not None and len(readers[found]) == 1
    return (found, sign) if good else None


def _means(model: Graph, outputs: list[str], batches: list[tuple[Array, ...]], threads: int) -> dict[str, Array]:
    """Mean of each channel (C,) of some tensors, over samples and pixels."""
    probe = model.copy()
    probe.outputs = outputs
    probe.prune()
    probe.inputs = [n for n in probe.inputs if n in probe.tensors]
    taken = [model.inputs.index(n) for n in probe.inputs]
    predict = Predictor(probe, _BATCH, threads=threads)
    sums: dict[str, Array] = {}
    count = dict.fromkeys(outputs, 0)
    for inputs in batches:
        made = predict(*(inputs[i] for i in taken))
        for name, values in zip(outputs, made if isinstance(made, tuple) else (made,), strict=True):
            pixels = values.reshape(-1, values.shape[-1])
            sums[name] = sums.get(name, 0.0) + pixels.sum(axis=0, dtype=np.float64)
            count[name] += len(pixels)
    return {name: total / count[name] for name, total in sums.items()}
