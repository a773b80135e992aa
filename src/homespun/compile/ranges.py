"""How large activations get, known without running the model: what `quantize_layers` spreads 8-bit codes over.

Batch norm says what mean and deviation to expect in each channel. A calibration on data, where there is one, can take
the place of `expected_limits`: it has to return the same mapping.
"""

from __future__ import annotations

import numpy as np

from homespun.compression.moments import expected_moments
from homespun.graph import Array, Graph

#: Deviations above the mean that are still told apart. For MobileNetV2 and EfficientNet-Lite0 on photos 7 and 8 are
#: best; 5 clips what matters, 12 is too coarse for channels that are small.
DEVIATIONS = 8.0
#: Limit of channels that batch norm expects to be zero always: they may still be larger on unusual images.
SMALLEST_LIMIT = 0.02


def expected_limits(graph: Graph) -> dict[str, Array]:
    """For outputs of `relu` and `relu6` behind a batch norm: what each channel hardly ever exceeds (float64, (C,)).

    To be called before batch norms are folded; passes that fuse activations keep the names of their outputs.
    """
    moments = expected_moments(graph)
    limits: dict[str, Array] = {}
    for node in graph.nodes:
        known = moments.get(node.inputs[0]) if node.op in ("relu", "relu6") else None
        if known is not None:
            limit = known.mean + DEVIATIONS * np.sqrt(known.variance)
            limits[node.outputs[0]] = np.maximum(limit, SMALLEST_LIMIT)
    return limits
