"""What a pruned channel said, said by those that stay: the weights of whatever reads it take it over.

A layer that reads channel j with weights w_j loses nothing if j is what least squares makes of the channels that stay,
x_j ~ mean_j + sum_k B_kj (x_k - mean_k): w_j goes to the weights of these, and what is constant to the bias. What no
linear function of the others gives is lost. Nothing has to be trained.
Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks", section 3.2, here in closed form
from covariances.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homespun.compression.statistics import ChannelStatistics, Statistics, mixing_layers
from homespun.errors import ShapeError
from homespun.graph import Array, Graph, Node
from homespun.graph.operator import attributes

#: Added to variances, as a share of their mean: covariances of some photos are not to be believed to the last digit.
RIDGE = 1e-3
#: With fewer pixels than this for each channel that stays, least squares finds what is not there.
ENOUGH = 2


def fold_removed(model: Graph, removed: Mapping[str, Array], statistics: Statistics) -> Graph:
    """A copy of a model whose layers no longer need some channels: all shapes are as before, nothing is pruned yet.

    `removed`: by tensor which of its channels go (C,), True. A layer stays as it is where there are no statistics of
    what it reads, or of fewer than `ENOUGH` pixels for each channel that stays, or where another layer has the same
    weights. Raises `ShapeError` for statistics of another number of channels.
    """
    result = model.copy()
    readers = model.consumers()
    for node in mixing_layers(result):
        gone, known = removed.get(node.inputs[0]), statistics.get(node.inputs[0])
        if gone is None or known is None or not gone.any() or gone.all() or len(readers[node.inputs[1]]) > 1:
            continue
        if known.mean.shape != gone.shape:
            raise ShapeError(f"statistics of {node.inputs[0]!r} are of {known.mean.size} channels, not {gone.size}")
        if known.count < ENOUGH * np.count_nonzero(~gone):
            continue
        weights = result.data(node.inputs[1])
        by_input = np.moveaxis(weights.astype(np.float64), -2, 0)  # (C, window..., outputs)
        padded = _reads_padding(node, weights)
        slopes, constants = _least_squares(known, gone, through_zero=padded)
        by_input[~gone] += np.tensordot(slopes, by_input[gone], 1)
        shift = np.tensordot(constants, by_input[gone], 1).reshape(-1, weights.shape[-1]).sum(axis=0)
        by_input[gone] = 0.0
        result.tensors[node.inputs[1]].data = np.ascontiguousarray(np.moveaxis(by_input, 0, -2), dtype=np.float32)
        if not padded:
            _shift_outputs(result, node, shift, readers)
    return result


def _least_squares(known: ChannelStatistics, gone: Array, *, through_zero: bool) -> tuple[Array, Array]:
    """Slopes (stay, go) and constants (go,) of the channels that go as linear functions of those that stay."""
    moments = known.covariance + (np.outer(known.mean, known.mean) if through_zero else 0.0)
    stay = ~gone
    own = moments[np.ix_(stay, stay)]
    ridge = max(RIDGE * float(np.trace(own)) / len(own), 1e-30)
    slopes = np.linalg.solve(own + ridge * np.eye(len(own)), moments[np.ix_(stay, gone)])
    constants = np.zeros(gone.sum()) if through_zero else known.mean[gone] - known.mean[stay] @ slopes
    return slopes, constants


def _reads_padding(node: Node, weights: Array) -> bool:
    """Whether some windows reach over the edge, where channels are zero: constants would be wrong there."""
    if node.op != "conv2d" or weights.shape[:2] == (1, 1):
        return False
    padding = attributes(node)["padding"]
    return padding != "valid" and (isinstance(padding, str) or any(padding))


def _shift_outputs(graph: Graph, node: Node, shift: Array, readers: Mapping[str, list[Node]]) -> None:
    """Add a constant to each output channel of a layer: to its bias, or to the norm that alone reads it."""
    output = node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    alone = readers.get(output, []) if output not in graph.outputs else []
    linear = attributes(node)["activation"] == "none"
    normalised = linear and len(alone) == 1 and alone[0].op == "batch_norm"
    if bias and graph.tensors[bias].data is not None and len(readers[bias]) == 1:
        graph.tensors[bias].data = (graph.data(bias) + shift).astype(np.float32)
    elif not bias and normalised and len(readers[alone[0].inputs[3]]) == 1:
        mean = graph.tensors[alone[0].inputs[3]]
        mean.data = (graph.data(mean.name) - shift).astype(np.float32)
    else:
        before = 0.0 if not bias else graph.data(bias)
        name = graph.add_array(
            graph.fresh_name(f"{node.inputs[1]}.bias"), (before + shift).astype(np.float32), "parameter"
        )
        node.inputs = (*node.inputs[:2], name, *node.inputs[3:])
