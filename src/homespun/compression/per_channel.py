"""8-bit weights, symmetric, one scale for each channel: what `.hsp` files store and int8 programs multiply with.

Scales have at most 17 significant bits. A code has 7 and a float32 24, so `code * scale` is exact, and quantising
dequantised weights again gives the same codes and the same scales: a model can be saved, loaded, and saved or compiled
again without drifting.
"""

from __future__ import annotations

import numpy as np

from homespun.compression.scales import largest_scales
from homespun.graph import Array


def quantize_per_channel(weights: Array, axis: int = -1) -> tuple[Array, Array]:
    """Codes (int8, shape of `weights`) and scales (float32, one for each index of `axis`): weights ~ codes * scales.

    Every channel's largest weight gets the code 127 or -127, the others the nearest; a channel of zeros the scale 1.
    Raises `ModelError` if a weight is not finite.
    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 2.
    """
    rows = np.moveaxis(np.asarray(weights, np.float32), axis, 0)
    flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
    scale = largest_scales(flat.T)
    codes = np.rint(flat / scale[:, None]).astype(np.int8)
    shaped = np.moveaxis(codes.reshape(rows.shape), 0, axis)
    return np.ascontiguousarray(shaped), scale.astype(np.float32)


def dequantize_per_channel(codes: Array, scale: Array, axis: int = -1) -> Array:
    """float32 weights: codes * scales, exact where the scales come from `quantize_per_channel`."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    return codes.astype(np.float32) * scale.astype(np.float32).reshape(shape)
