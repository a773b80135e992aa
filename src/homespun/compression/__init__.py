"""Smaller models: 8-bit weights, pruning. Stands between the graph and the formats and programs that keep weights small."""

from homespun.compression.per_channel import dequantize_per_channel, quantize_per_channel
from homespun.compression.prune_channels import prune_channels
from homespun.compression.rounding import quantize_weights

__all__ = ["dequantize_per_channel", "prune_channels", "quantize_per_channel", "quantize_weights"]
