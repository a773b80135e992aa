"""Pass: round the weights of convolutions and linear layers to 8-bit codes, while batch norm is still there to help.

Weights are replaced by codes * scale in float32. The passes after it only multiply whole output channels, so
`quantize_layers` finds the same codes again: those that an int8 `.hsp` file of the model holds.
"""

from __future__ import annotations

from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.graph import Graph


def round_weights(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed. Arrays are replaced, never written to."""
    rounded = quantize_weights(graph)
    for name, (codes, scale) in rounded.items():
        graph.tensors[name].data = dequantize_per_channel(codes, scale)
    return bool(rounded)
