"""What values to expect in each channel of a network, without any data: mean and variance from batch norm's parameters.

Quantisation uses them to know which rounding errors matter. Behind a batch norm values are taken as normal with its
shift as mean and its scale as deviation (Nagel et al. 2019, "Data-free quantization through weight equalization and
bias correction", section 4.2); activations and sums are worked out from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from homespun.graph import Array, Graph

_PASSED_ON = ("dropout", "identity", "flatten", "global_average_pool", "average_pool", "max_pool")
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel (float64, shape (channels,))."""

    mean: Array
    variance: Array


def expected_moments(graph: Graph) -> dict[str, Moments]:
    """Moments of the tensors for which they are known; behind operators that are not handled here they are not.

    Pooling passes them on as they are: the mean stays, and only ratios of variances between channels are used.
    """
    known: dict[str, Moments] = {}
    for node in graph.nodes:
        given = [known.get(name) for name in node.inputs]
        found: Moments | None = None
        if node.op == "batch_norm":
            scale, shift = (graph.data(n).astype(np.float64) for n in node.inputs[1:3])
            found = Moments(shift, np.square(scale))
        elif given[0] is None:
            continue
        elif node.op in _PASSED_ON:
            found = given[0]
        elif node.op in ("relu", "relu6"):
            found = clipped(given[0], 6.0 if node.op == "relu6" else math.inf)
        elif node.op == "add" and given[1] is not None and given[0].mean.shape == given[1].mean.shape:
            found = Moments(given[0].mean + given[1].mean, given[0].variance + given[1].variance)
        if found is not None:
            known[node.outputs[0]] = found
    return known


def clipped(moments: Moments, high: float) -> Moments:
    """Moments of min(max(x, 0), high) for normal x: those of a normal distribution censored on both sides."""
    mean, deviation = moments.mean, np.sqrt(np.maximum(moments.variance, 1e-12))
    low_z = -mean / deviation
    below, low_density = _normal(low_z)
    above, high_density, tail = np.ones_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    if math.isfinite(high):
        above, high_density = _normal((high - mean) / deviation)
        tail = 1.0 - above
    inside = above - below
    first = mean * inside + deviation * (low_density - high_density)
    second = (mean**2 + deviation**2) * inside + deviation * mean * low_density
    if math.isfinite(high):
        second -= deviation * (mean + high) * high_density
        first, second = first + high * tail, second + high**2 * tail
    return Moments(first, np.maximum(second - first**2, 0.0))


def _normal(z: Array) -> tuple[Array, Array]:
    """Distribution and density of the standard normal."""
    return 0.5 * (1.0 + _erf(z / math.sqrt(2.0))), np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
