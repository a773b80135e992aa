"""Structured pruning: a network with fewer channels, really smaller and faster, and a graph like any other.

Which channels go together is worked out in `channels`; here it is decided which go. What comes out is fine-tuned as any
network is (`Trainer`), and best with its unpruned self as a teacher (`distill`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homespun.compression.channels import Coupling
from homespun.compression.fold import fold_removed
from homespun.compression.statistics import Statistics
from homespun.errors import ModelError, OptionError
from homespun.graph import Array, Graph, check
from homespun.graph.infer import flops

Importance = str | Mapping[str, Array]
#: No group loses more than this share, however little its channels seem to do.
MOST = 0.9
_BISECTIONS = 20


def prune_channels(
    model: Graph,
    fraction: float | None = None,
    *,
    keep_flops: float | None = None,
    importance: Importance = "l1",
    spread: str = "even",
    divisor: int = 8,
    statistics: Statistics | None = None,
) -> Graph:
    """A copy of a model with fewer channels in its layers; inputs and outputs stay as they are.

    `fraction` of the channels goes, or as many as it takes for at most `keep_flops` of the operations to be left.
    `spread` "even" takes the same share from every group of channels that go together, "global" takes the least
    important ones wherever they are. Layers keep multiples of `divisor` channels, which kernels are fast with.

    `importance` of a channel, always the mean over all that goes with it, relative to the mean of each tensor: "l1", of
    the weights (Li et al. 2017, "Pruning filters for efficient convnets"); "batch_norm", of the norms' scales (Liu et
    al. 2017, "Learning efficient convolutional networks through network slimming"); or arrays by parameter, such as
    |weight * gradient| of `Trainer.compute_gradients`, whose sums are compared as they are (Molchanov et al. 2019,
    "Importance estimation for neural network pruning").

    Raises `OptionError` for numbers that can't be, `ModelError` if nothing in the model can be pruned, or not so much.
    """
    if (fraction is None) == (keep_flops is None):
        raise OptionError("say either which fraction of channels goes or which share of the operations stays")
    if not 0.0 < (fraction if fraction is not None else keep_flops or 0.0) < 1.0:
        raise OptionError(f"fraction and keep_flops are between 0 and 1, not {fraction or keep_flops}")
    if spread not in ("even", "global") or divisor < 1:
        raise OptionError(f"spread is 'even' or 'global' and divisor at least 1, not {spread!r} and {divisor}")
    check(model)
    coupling = Coupling(model)
    if not coupling.groups:
        raise ModelError(f"{model.name}: no channel can be pruned: all meet the output, or operators without a rule")
    scores = unit_importance(model, coupling, importance)

    def removed(share: float) -> Array:
        return _removed(coupling.groups, scores, share, spread, divisor)

    def pruned(share: float) -> Graph:
        return coupling.without(model, removed(share))

    def result(share: float) -> Graph:
        gone = removed(share)
        return coupling.without(model if statistics is None else _folded(model, coupling, gone, statistics), gone)

    if fraction is not None:
        return result(fraction)
    assert keep_flops is not None
    most = keep_flops * flops(model)
    low, high = 0.0, 1.0
    if flops(pruned(high)) > most:
        least = flops(pruned(high)) / flops(model)
        raise ModelError(f"{model.name}: pruning leaves {least:.0%} of the operations at least, not {keep_flops:.0%}")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if flops(pruned(middle)) <= most else (middle, high)
    return result(high)


def _folded(model: Graph, coupling: Coupling, removed: Array, statistics: Statistics) -> Graph:
    """The model with what it reads of removed units folded into the rest."""
    gone = np.append(removed, False)  # the last is for unit -1
    channels = {t: gone[coupling.units_of[numbers]] for t, numbers in coupling.numbers.items() if t in statistics}
    return fold_removed(model, channels, statistics)


def unit_importance(model: Graph, coupling: Coupling, importance: Importance) -> Array:
    """How much each unit (count,) matters: see `prune_channels`."""
    total, faces = np.zeros(coupling.count), np.zeros(coupling.count)
    norms = {name for node in model.nodes if node.op == "batch_norm" for name in node.inputs[1:2]}
    for face in coupling.faces:
        tensor, there = model.tensors[face.tensor], face.units >= 0
        if isinstance(importance, str):
            counts = tensor.role == "parameter" and (importance == "l1" or face.tensor in norms)
            values = None if not counts else tensor.data
        else:
            values = importance.get(face.tensor) if tensor.data is not None else None
        if values is None or not there.any():
            continue
        if np.shape(values) != tensor.shape:
            raise OptionError(f"importance of {face.tensor!r} is {np.shape(values)}, expected {tensor.shape}")
        others = tuple(i for i in range(values.ndim) if i != face.axis)
        each = np.abs(values, dtype=np.float64).sum(axis=others)
        if isinstance(importance, str):
            each = each / max(float(each.mean()), 1e-30)
        np.add.at(total, face.units[there], each[there])
        np.add.at(faces, face.units[there], 1.0)
    if isinstance(importance, str) and importance not in ("l1", "batch_norm"):
        raise OptionError(f"importance is {importance!r}; it can be 'l1', 'batch_norm' or arrays by parameter")
    if not isinstance(importance, str):
        return total
    # Units that nothing speaks for, as those without a norm, are of average importance.
    return np.where(faces > 0, total / np.maximum(faces, 1.0), 1.0)


def _removed(groups: list[Array], scores: Array, share: float, spread: str, divisor: int) -> Array:
    """Which units go (count,), True."""
    removed = np.zeros(scores.size, bool)
    ranks = np.empty(scores.size, np.int64)
    ranks[np.argsort(scores, kind="stable")] = np.arange(scores.size)
    doomed = ranks < share * scores.size
    for group in groups:
        n = group.size
        wanted = n * (1.0 - share) if spread == "even" else n - doomed[group].sum()
        least = min(n, divisor) if spread == "even" else max(1.0, n * (1.0 - MOST))
        step = min(divisor, n)
        kept = min(n, max(step, int(max(wanted, least) / step + 0.5) * step))
        removed[group[np.argsort(scores[group], kind="stable")[: n - kept]]] = True
    return removed
