"""8-bit weights of a whole network, rounded so that errors cancel: what saving and compiling with "int8" use.

Rounding each weight to the nearest code leaves every output channel with a small constant error, and constants are what
networks such as EfficientNet-Lite bear least. Some codes are moved by one, away from the nearest, until the expected
output error of the channel is least. This needs no data: batch norm knows what values to expect (`moments`). With
data, `runtime.round_weights` does better.
"""

from __future__ import annotations

import numpy as np

from homespun.compression.feedback import round_with_feedback
from homespun.compression.moments import Moments, expected_moments
from homespun.compression.scales import MAX_CODE, largest_scales, least_error_scales, nearest_codes
from homespun.compression.statistics import Statistics, mixes_channels
from homespun.errors import OptionError
from homespun.graph import Array, Graph, Node

_WEIGHTED = ("conv2d", "linear")
SCALES = {"least_error": least_error_scales, "largest": largest_scales}
#: Share of the variance that the pixels under a small filter have in common: photos, and what filters make of them,
#: are smooth. Results hardly depend on it between 0.7 and 0.97.
SMOOTHNESS = 0.9


def quantize_weights(
    graph: Graph, scales: str = "least_error", statistics: Statistics | None = None
) -> dict[str, tuple[Array, Array]]:
    """Codes (int8) and scales (float32, one for each output channel) of all convolution and linear weights, by name,
    but for those that are marked to stay in 16 bits.

    `scales` are those with the least squared error of each channel, or "largest", of its largest weight, as
    `quantize_per_channel` has them. Codes are the nearest, or differ from it by one where that helps. Weights that are
    multiples of their scale already keep their codes and scales under either rule. With `statistics` of what they read,
    1x1 convolutions and linear layers are rounded by them (`feedback`).
    Source: an error model as in Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization",
    section 3, with second moments that are a rank-one matrix plus a diagonal, minimised greedily.
    Raises `OptionError` for another rule, `ModelError` if a weight is not finite.
    """
    if scales not in SCALES:
        raise OptionError(f"scales is {scales!r}; it can be {', '.join(repr(s) for s in SCALES)}")
    moments = expected_moments(graph)
    result: dict[str, tuple[Array, Array]] = {}
    for node in graph.nodes:
        tensor = graph.tensors[node.inputs[1]] if node.op in _WEIGHTED else None
        if tensor is None or tensor.data is None or tensor.dtype != "float32" or tensor.half or tensor.name in result:
            continue
        shape = tensor.data.shape
        columns = tensor.data.astype(np.float64).reshape(-1, shape[-1])
        scale = SCALES[scales](columns)
        known = None if statistics is None or not _mixes(node, shape) else statistics.get(node.inputs[0])
        if known is not None:
            codes = round_with_feedback(columns / scale, known.covariance + np.outer(known.mean, known.mean))
        else:
            common, own = _error_model(graph, node, shape, moments)
            codes = round_together(columns / scale, common, own)
        result[tensor.name] = (codes.astype(np.int8).reshape(shape), scale.astype(np.float32))
    return result


def _mixes(node: Node, shape: tuple[int, ...]) -> bool:
    """Whether a layer has one weight for each pair of an input and an output channel."""
    return mixes_channels(node) and int(np.prod(shape[:-2])) == 1


def as_float16(weights: Array) -> Array | None:
    """Weights (float32) as a file keeps them in 16 bits, or None if one is too large for that."""
    fits = float(np.abs(weights).max(initial=0.0)) < float(np.finfo(np.float16).max)
    return weights.astype(np.float16) if fits else None


def _error_model(graph: Graph, node: Node, shape: tuple[int, ...], moments: dict[str, Moments]) -> tuple[Array, Array]:
    """Vector `common` and diagonal `own`, (K, 1) or (K, channels) or (1, 1), of the inputs' second moments."""
    source = node.inputs[0]
    groups = int(node.attributes.get("groups", 1))  # type: ignore[arg-type]
    known = moments.get(source)
    if source in graph.inputs and len(shape) == 4:
        return np.full((1, 1), np.sqrt(SMOOTHNESS)), np.full((1, 1), 1.0 - SMOOTHNESS)
    if known is None:
        return np.zeros((1, 1)), np.ones((1, 1))
    mean, variance = known.mean, known.variance
    if groups == 1 and shape[-2] == mean.size:
        window = int(np.prod(shape[:-2]))
        return np.tile(mean, window)[:, None], np.tile(variance, window)[:, None]
    if groups == mean.size == shape[-1]:
        common = np.sqrt(mean**2 + SMOOTHNESS * variance)
        return common[None, :], (1.0 - SMOOTHNESS) * variance[None, :]
    return np.zeros((1, 1)), np.ones((1, 1))


def round_together(exact: Array, common: Array, own: Array) -> Array:
    """Whole numbers near `exact` (K, channels), each column chosen so that its expected squared error is small.

    The error of a column e is (common . e)^2 + sum(own * e^2). Starts at the nearest numbers and, as long as it helps,
    moves the one by one whose move helps most: up or down, each once at most. Never beyond +-127, and those stay, since
    they carry the scale; `exact` may be beyond, and what is clipped counts as error.
    """
    codes = nearest_codes(exact)
    error = codes - exact
    common, own = np.broadcast_to(common, exact.shape), np.broadcast_to(own, exact.shape)
    total = (common * error).sum(axis=0)
    cost = common**2 + own
    locked = np.abs(codes) >= MAX_CODE
    columns = np.arange(exact.shape[1])
    while True:
        # moving code i by d = +-1 changes the error by cost_i + 2 d (total common_i + own_i e_i)
        slope = 2.0 * (total * common + own * error)
        change = np.where(locked, np.inf, cost - np.abs(slope))
        best = change.argmin(axis=0)
        helps = change[best, columns] < -1e-9 * cost[best, columns]
        if not helps.any():
            return codes
        row, column = best[helps], columns[helps]
        step = -np.sign(slope[row, column])
        codes[row, column] += step
        error[row, column] += step
        total[column] += common[row, column] * step
        locked[row, column] = True
