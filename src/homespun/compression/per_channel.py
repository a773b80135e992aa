"""8-bit weights, symmetric, one scale for each channel: what `.hsp` files store and int8 programs multiply with.

Scales have at most 17 significant bits. A code has 7 and a float32 24, so `code * scale` is exact, and quantising
dequantised weights again gives the same codes and the same scales: a model can be saved, loaded, and saved or compiled
again without drifting.
"""

from __future__ import annotations

import numpy as np

from homespun.errors import ModelError
from homespun.graph import Array

#: Largest code. -128 is left out, so that codes are symmetric and a product of two fits 15 bits.
MAX_CODE = 127
#: Channels whose largest weight is smaller than 127 times this get small codes; those of less than half of it, zeros.
SMALLEST_SCALE = 2.0**-100
_SCALE_BITS = 17


def quantize_per_channel(weights: Array, axis: int = -1) -> tuple[Array, Array]:
    """Codes (int8, shape of `weights`) and scales (float32, one for each index of `axis`): weights ~ codes * scales.

    Every channel's largest weight gets the code 127 or -127, the others the nearest; a channel of zeros the scale 1.
    Raises `ModelError` if a weight is not finite.
    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 2.
    """
    rows = np.moveaxis(np.asarray(weights, np.float32), axis, 0)
    flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
    scale = channel_scales(flat.T)
    codes = np.rint(flat / scale[:, None]).astype(np.int8)
    shaped = np.moveaxis(codes.reshape(rows.shape), 0, axis)
    return np.ascontiguousarray(shaped), scale.astype(np.float32)


def dequantize_per_channel(codes: Array, scale: Array, axis: int = -1) -> Array:
    """float32 weights: codes * scales, exact where the scales come from `quantize_per_channel`."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    return codes.astype(np.float32) * scale.astype(np.float32).reshape(shape)


def channel_scales(columns: Array) -> Array:
    """Scales (float64, rounded up to 17 significant bits) of weights (K, channels)."""
    largest = np.abs(columns).max(axis=0, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelError(f"weights of channel {int(np.argmin(np.isfinite(largest)))} are not finite")
    mantissa, exponent = np.frexp(largest / MAX_CODE)
    scale = np.ldexp(np.ceil(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    return np.where(largest <= SMALLEST_SCALE / 2, 1.0, np.maximum(scale, SMALLEST_SCALE))
