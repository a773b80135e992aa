"""How much the loss would change without a channel, told by gradients: an importance for `prune_channels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.errors import ModelError, OptionError
from homespun.graph import Array, Graph
from homespun.training.fit import batches
from homespun.training.losses import Loss, LossFunction
from homespun.training.optim import SGD
from homespun.training.trainer import Trainer

_BATCH = 16


def channel_saliency(
    model: Graph, data: Any, loss: Loss | LossFunction, *, batch: int = _BATCH, threads: int = 2
) -> dict[str, Array]:
    """By the name of a norm's scale, or of a layer's bias: for each channel (C,) what it does to the loss, squared.

    Behind a norm with scale g and shift b a channel is g x + b; that it be gone changes the loss by g dL/dg + b dL/db,
    to first order. The mean of its square over the batches of `data` (pairs of arrays, batches, or a `homespun.data`
    set) is what `prune_channels(importance=...)` compares. Layers without a norm are told by weights and bias alike.
    Raises `ModelError` if there is neither norm nor bias, `OptionError` if there are no data.
    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", equation 8, with its gates placed
    behind batch norms.
    """
    trainer = Trainer(model, loss, SGD(0.0), batch=batch, threads=threads)
    norms = {node.inputs[0]: node for node in model.nodes if node.op == "batch_norm"}
    gates: dict[str, tuple[str, str]] = {n.inputs[1]: (n.inputs[1], n.inputs[2]) for n in norms.values()}
    for node in model.nodes:
        biased = node.op in ("conv2d", "linear") and len(node.inputs) > 2 and node.inputs[2] in model.parameters()
        if biased and node.outputs[0] not in norms:
            gates[node.inputs[2]] = (node.inputs[1], node.inputs[2])
    if not gates:
        raise ModelError(f"{model.name}: no batch norm and no bias, so that nothing tells its channels apart")
    totals, count = {name: np.zeros(model.data(name).shape) for name in gates}, 0
    for x, y in batches(data, 0, 0, batch):
        gradients = trainer.compute_gradients(x, y, copy=False)
        for name, parts in gates.items():
            each = [(gradients[p].astype(np.float64) * model.data(p)) for p in parts]
            totals[name] += np.square(sum(e.reshape(-1, e.shape[-1]).sum(axis=0) for e in each))
        count += 1
    if not count:
        raise OptionError("saliency needs data: there is not one batch")
    return {name: total / count for name, total in totals.items()}
