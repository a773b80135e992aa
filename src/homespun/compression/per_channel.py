"""8-bit weights, symmetric, one scale for each channel: what `.hsp` files store and int8 programs multiply with.

Scales have at most 17 significant bits. A code has 7 and a float32 24, so `code * scale` is exact, and quantising
dequantised weights again gives the same codes and the same scales: a model can be saved, loaded, and saved or compiled
again without drifting.
"""

from __future__ import annotations

import numpy as np

from homespun.errors import ModelError, OptionError
from homespun.graph import Array

#: Largest code. -128 is left out, so that codes are symmetric and a product of two fits 15 bits.
MAX_CODE = 127
#: Channels whose largest weight is smaller than 127 times this are kept as zeros and small codes.
SMALLEST_SCALE = 2.0**-100
_SCALE_BITS = 17
_METHODS = ("absmax", "mse")
#: Shares of the largest weight that the "mse" search tries as the end of the range.
_CLIPS = np.linspace(0.6, 1.0, 41)


def quantize_per_channel(weights: Array, axis: int = -1, method: str = "absmax") -> tuple[Array, Array]:
    """Codes (int8, shape of `weights`) and scales (float32, one for each index of `axis`): weights ~ codes * scales.

    `method` "absmax" ends the range at the channel's largest weight; "mse" where the squared error over the channel
    is least, larger weights being clipped. Either way a channel's largest code is 127, so the codes survive another
    round. A channel of zeros gets the scale 1. Raises `ModelError` if a weight is not finite.
    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 2.
    """
    if method not in _METHODS:
        raise OptionError(f"method is {method!r}; it can be {' or '.join(repr(m) for m in _METHODS)}")
    rows = np.moveaxis(np.asarray(weights, np.float32), axis, 0)
    flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelError(f"weights of channel {int(np.argmin(np.isfinite(largest)))} are not finite")
    scale = _scale_of(largest)
    if method == "mse":
        scale = _least_error(flat, largest, scale)
    codes = np.clip(np.rint(flat / scale[:, None]), -MAX_CODE, MAX_CODE).astype(np.int8)
    shaped = np.moveaxis(codes.reshape(rows.shape), 0, axis)
    return np.ascontiguousarray(shaped), scale.astype(np.float32)


def dequantize_per_channel(codes: Array, scale: Array, axis: int = -1) -> Array:
    """float32 weights: codes * scales, exact where the scales come from `quantize_per_channel`."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    return codes.astype(np.float32) * scale.astype(np.float32).reshape(shape)


def _scale_of(end: Array) -> Array:
    """Scales (float64) for ranges that end at `end`, rounded up to 17 significant bits."""
    mantissa, exponent = np.frexp(end / MAX_CODE)
    scale = np.ldexp(np.ceil(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    return np.where(end == 0.0, 1.0, np.maximum(scale, SMALLEST_SCALE))


def _least_error(flat: Array, largest: Array, scale: Array) -> Array:
    """For each channel the scale, among those that `_CLIPS` give, with the least squared error."""
    best = np.full(len(scale), np.inf)
    for clip in _CLIPS:
        tried = _scale_of(largest * clip)
        codes = np.clip(np.rint(flat / tried[:, None]), -MAX_CODE, MAX_CODE)
        error = np.square(codes * tried[:, None] - flat).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        scale = np.where(better, tried, scale)
    return scale
