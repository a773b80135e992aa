"""Smaller models: 8-bit weights, pruning. Stands between the graph and what keeps weights small: formats, programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.compression.per_channel import dequantize_per_channel as dequantize_per_channel
    from homespun.compression.per_channel import quantize_per_channel as quantize_per_channel
    from homespun.compression.prune_channels import prune_channels as prune_channels
    from homespun.compression.prune_weights import prune_weights as prune_weights
    from homespun.compression.rounding import quantize_weights as quantize_weights

_HOMES = {
    "dequantize_per_channel": "per_channel",
    "prune_channels": "prune_channels",
    "prune_weights": "prune_weights",
    "quantize_per_channel": "per_channel",
    "quantize_weights": "rounding",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
