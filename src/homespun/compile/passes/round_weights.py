"""Pass: round the weights of convolutions and linear layers to 8-bit codes, while batch norm is still there to help.
Those that are marked to stay in 16 bits become what a file holds of them.

Weights are replaced by codes * scale in float32. The passes after it only multiply whole output channels, so
`quantize_layers` finds the same codes again: those that an int8 `.hsp` file of the model holds.
"""

from __future__ import annotations

import numpy as np

from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.compression.rounding import as_float16
from homespun.graph import Graph


def round_weights(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed. Arrays are replaced, never written to."""
    rounded = quantize_weights(graph)
    for name, (codes, scale) in rounded.items():
        graph.tensors[name].data = dequantize_per_channel(codes, scale)
    kept = [t for t in graph.tensors.values() if t.half and t.data is not None]
    for tensor in kept:
        assert tensor.data is not None
        stored = as_float16(tensor.data)
        tensor.data = tensor.data if stored is None else stored.astype(np.float32)
    return bool(rounded or kept)
