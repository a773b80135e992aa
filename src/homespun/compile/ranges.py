"""How large activations get: what `quantize_layers` spreads 8-bit codes over.

Batch norm says what mean and deviation to expect in each channel, without any data. What was measured on data
(`runtime.calibrate`), or was expected before batch norms were folded away (`training.export`), is on the tensors.
"""

from __future__ import annotations

import numpy as np

from homespun.compression.moments import expected_moments
from homespun.graph import Array, Graph, Node
from homespun.graph.operator import attributes

#: Deviations above the mean that are still told apart. For MobileNetV2 and EfficientNet-Lite0 on photos 7 and 8 are
#: best; 5 clips what matters, 12 is too coarse for channels that are small.
DEVIATIONS = 8.0
#: Limit of channels that batch norm expects to be zero always: they may still be larger on unusual images.
SMALLEST_LIMIT = 0.02


def upper_bound(node: Node) -> float | None:
    """The upper end of what a node writes, if its activation, fused or its own, keeps that between 0 and a bound."""
    a = attributes(node)
    activation = a.get("activation", node.op)
    if activation == "relu6":
        return 6.0
    if activation != "clip":
        return None
    low, high = (float(a[key]) for key in (("alpha", "beta") if "activation" in a else ("low", "high")))
    return high if low == 0.0 < high < np.inf else None


def activation_limits(graph: Graph) -> dict[str, Array]:
    """For activations of known bounds: what each channel hardly ever exceeds, float64, (C,) or ().

    The smaller of what was measured and what batch norm expects. To be called before batch norms are folded; passes
    that fuse activations keep the names of their outputs.
    """
    limits = expected_limits(graph)
    for tensor in graph.with_role("activation"):
        if tensor.limit is not None:
            limit = np.maximum(tensor.limit.astype(np.float64), SMALLEST_LIMIT)
            limits[tensor.name] = np.minimum(limit, limits.get(tensor.name, np.inf))
    return limits


def expected_limits(graph: Graph) -> dict[str, Array]:
    """For outputs of `relu6` behind a batch norm: what each channel hardly ever exceeds (float64, (C,))."""
    moments = expected_moments(graph)
    limits: dict[str, Array] = {}
    for node in graph.nodes:
        known = moments.get(node.inputs[0]) if node.op == "relu6" else None
        if known is not None:
            limit = known.mean + DEVIATIONS * np.sqrt(known.variance)
            limits[node.outputs[0]] = np.maximum(limit, SMALLEST_LIMIT)
    return limits


def keep_limits(graph: Graph, limits: dict[str, Array]) -> None:
    """Put limits on a graph's tensors, rounded to float16."""
    for name, limit in limits.items():
        graph.tensors[name].limit = np.clip(limit, SMALLEST_LIMIT, np.finfo(np.float16).max).astype(np.float16)
