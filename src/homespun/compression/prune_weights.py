"""Magnitude pruning: the smallest weights of each layer become zero, and stay so while the others are fine-tuned.

What it gives is a file that compresses; shapes, memory and time stay as they are. For a network that is really smaller
see `prune_channels`. While training, `homespun.callbacks.PruneWeights` does it bit by bit.
"""

from __future__ import annotations

import numpy as np

from homespun.errors import OptionError
from homespun.graph import Array, Graph, check
from homespun.graph.graph import data_of


def prune_weights(model: Graph, sparsity: float) -> Graph:
    """A copy of a model with this share of each layer's weights, the smallest, zero.

    Layers are those of `prunable_weights`. Source: Han et al. 2015, "Learning both weights and connections for
    efficient neural networks", section 3.
    """
    check_sparsity(sparsity)
    check(model)
    result = model.copy()
    for name in prunable_weights(model):
        weights = model.data(name)
        result.tensors[name].data = np.where(magnitude_mask(weights, sparsity), weights, np.float32(0))
    return result


def prunable_weights(model: Graph) -> list[str]:
    """Weights of convolutions and linear layers. Depthwise filters and those that read the model's input stay whole:
    they are few, and hurt most (Zhu & Gupta 2017, section 4)."""
    names = []
    for node in model.nodes:
        tensor = model.tensors[node.inputs[1]] if node.op in ("conv2d", "linear") else None
        if tensor is None or tensor.role != "parameter" or node.inputs[0] in model.inputs:
            continue
        if int(node.attributes.get("groups", 1)) != data_of(tensor).shape[-1] or data_of(tensor).shape[-1] == 1:  # type: ignore[arg-type]
            names.append(tensor.name)
    return list(dict.fromkeys(names))


def magnitude_mask(weights: Array, sparsity: float) -> Array:
    """True where weights stay: all but the `sparsity` share of smallest magnitude, of equal ones the first go."""
    gone = round(sparsity * weights.size)
    mask = np.ones(weights.size, bool)
    mask[np.argsort(np.abs(weights), axis=None, kind="stable")[:gone]] = False
    return mask.reshape(weights.shape)


def cubic_sparsity(step: int, final: float, begin: int, end: int) -> float:
    """Sparsity after `step` steps: none before `begin`, then quickly and ever more slowly up to `final` at `end`.

    s = final * (1 - (1 - (step - begin) / (end - begin))^3). Source: Zhu & Gupta 2017, "To prune, or not to prune",
    equation 1.
    """
    if step < begin:
        return 0.0
    done = 1.0 if end <= begin else min(1.0, (step - begin) / (end - begin))
    return final * (1.0 - (1.0 - done) ** 3)


def check_sparsity(sparsity: float) -> None:
    """Raise `OptionError` for a share that can't be."""
    if not 0.0 < sparsity < 1.0:
        raise OptionError(f"sparsity is {sparsity}; it is the share of weights that become zero, between 0 and 1")
