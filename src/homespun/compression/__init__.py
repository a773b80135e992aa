"""Smaller models: 8-bit weights, pruning. Stands between the graph and what keeps weights small: formats, programs."""

from homespun.compression.per_channel import dequantize_per_channel, quantize_per_channel
from homespun.compression.prune_channels import prune_channels
from homespun.compression.prune_weights import prune_weights
from homespun.compression.rounding import quantize_weights

__all__ = ["dequantize_per_channel", "prune_channels", "prune_weights", "quantize_per_channel", "quantize_weights"]
