"""Pass over a joint graph: compute the gradient of a linear layer's weights in their update, and never store it.

Rule 1: an update whose gradient is that of a `linear_backward`'s weights, and that nobody else reads, takes the layer's
input and its output's gradient instead. The kernel multiplies them a few rows of weights at a time, while it updates
these: what is written and read again is less by the size of the weights, several times over.
Rule 2: there are so few rows (samples, or tokens) that the output's gradient stays in the cache from one part of the
weights to the next, and that there is more to gain than the product could lose by being split.
Rule 3: input and gradient are there as they are: neither is still to be normalised or activated while it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from homespun.graph import Graph, Node, TensorType
from homespun.graph.operator import attributes
from homespun.ops.training_convolution import COEFFICIENTS, GRADIENT_COEFFICIENTS, G, X
from homespun.ops.training_norm import rows_of
from homespun.ops.update import UPDATES

#: The most rows, and values of the output's gradient.
MOST_ROWS, MOST_VALUES = 32, 64 << 10
_WEIGHT_GRADIENT = 2  # among the outputs of `linear_backward`


def update_by_product(graph: Graph, types: Mapping[str, TensorType]) -> bool:
    """Apply the pass in place; True if anything changed."""
    producers, consumers = graph.producers(), graph.consumers()
    changed = False
    for node in graph.nodes:
        layer = producers.get(node.inputs[0]) if node.op in UPDATES else None
        if layer is None or layer.op != "linear_backward" or layer.outputs[_WEIGHT_GRADIENT] != node.inputs[0]:
            continue
        if len(consumers[node.inputs[0]]) > 1 or not _fits(layer, types):
            continue
        hyper, control, parameter, *states = node.inputs[1:6]
        node.inputs = (layer.inputs[G], hyper, control, parameter, *states, "", layer.inputs[X])
        layer.outputs = (*layer.outputs[:_WEIGHT_GRADIENT], "", *layer.outputs[_WEIGHT_GRADIENT + 1 :])
        changed = True
    if changed:
        graph.prune()
    return changed


def _fits(layer: Node, types: Mapping[str, TensorType]) -> bool:
    if layer.inputs[COEFFICIENTS] or layer.inputs[GRADIENT_COEFFICIENTS]:
        return False
    g = types[layer.inputs[G]]
    if attributes(layer)["input_activation"] != "none" or g.dtype != types[layer.inputs[X]].dtype:
        return False
    return rows_of(g) <= MOST_ROWS and g.size <= MOST_VALUES
