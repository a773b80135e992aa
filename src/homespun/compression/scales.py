"""Scales of 8-bit weights: that of a channel's largest weight, and the one with the least squared error.

A scale below that of the largest weight clips it and makes the steps between all others finer. Both rules leave
weights alone that are codes times scales already, so that files can be saved and compiled again without drifting.
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
_CANDIDATES = 32
#: Up to this multiple of its own scale the largest weight still gets the code 127.
_HIGHEST = MAX_CODE / (MAX_CODE - 0.4)
#: Channels whose mean squared error, in steps, is below this are codes already: what a norm was folded into, too.
_EXACT = 1e-5


def largest_scales(columns: Array) -> Array:
    """Scales (float64, of 17 significant bits) of weights (K, channels) with which the largest gets the code 127.

    Raises `ModelError` if a weight is not finite.
    """
    largest = np.abs(columns).max(axis=0, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelError(f"weights of channel {int(np.argmin(np.isfinite(largest)))} are not finite")
    return np.where(largest <= SMALLEST_SCALE / 2, 1.0, np.maximum(_shortened(largest / MAX_CODE), SMALLEST_SCALE))


def least_error_scales(columns: Array) -> Array:
    """Scales (float64, of 17 significant bits) of weights (K, channels) with the least squared error of a channel.

    Found by trying: from where the largest weight, clipped, is as wrong alone as the whole channel is with its own
    scale, up to where it would no longer get the code 127. Raises `ModelError` if a weight is not finite.
    Source: Choukroun et al. 2019, "Low-bit quantization of neural networks for efficient inference".
    """
    scale = largest_scales(columns)
    error = _squared_error(columns, scale)
    searched = (error > _EXACT * len(columns) * scale**2) & (scale > SMALLEST_SCALE)
    if not searched.any():
        return scale
    columns, own, least = columns[:, searched], scale[searched], error[searched]
    best, lowest = own.copy(), 1.0 - np.sqrt(least) / (MAX_CODE * own)
    for t in np.linspace(0.0, 1.0, _CANDIDATES):
        tried = _shortened(own * (lowest + t * (_HIGHEST - lowest)))
        error = _squared_error(columns, tried)
        better = error < least
        best[better], least[better] = tried[better], error[better]
    scale[searched] = best
    return scale


def nearest_codes(exact: Array) -> Array:
    """Whole numbers nearest to weights over scales, clipped to what codes can be (float64, any shape)."""
    return np.clip(np.rint(exact), -MAX_CODE, MAX_CODE)


def _squared_error(columns: Array, scale: Array) -> Array:
    error: Array = np.square(nearest_codes(columns / scale) * scale - columns).sum(axis=0)
    return error


def _shortened(scale: Array) -> Array:
    """Rounded up to the bits that make codes times scales exact in float32."""
    mantissa, exponent = np.frexp(scale)
    shortened: Array = np.ldexp(np.ceil(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    return shortened
