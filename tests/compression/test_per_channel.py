"""8-bit weights by channel: error bounds, and codes that survive every further round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import homespun as hs
from homespun.compression import dequantize_per_channel, quantize_per_channel

weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@settings(deadline=None)
@given(w=weights, data=st.data())
def test_every_weight_is_within_half_a_step(w: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-w.ndim, w.ndim - 1))
    codes, scale = quantize_per_channel(w, axis)
    assert codes.dtype == np.int8
    assert codes.shape == w.shape
    assert scale.shape == (w.shape[axis],)
    assert codes.min(initial=0) >= -127
    steps = np.moveaxis(np.broadcast_to(scale, (*np.delete(w.shape, axis), w.shape[axis])), -1, axis)
    assert (np.abs(dequantize_per_channel(codes, scale, axis) - w) <= 0.500001 * steps).all()


@settings(deadline=None)
@given(w=weights)
def test_a_second_round_gives_the_same_codes_and_scales(w: np.ndarray) -> None:
    codes, scale = quantize_per_channel(w)
    again = quantize_per_channel(dequantize_per_channel(codes, scale))
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scale)


@settings(deadline=None)
@given(w=weights, gain=st.floats(1e-3, 1e3))
def test_multiplying_channels_keeps_the_codes(w: np.ndarray, gain: float) -> None:
    """Folding a batch norm does this to weights that have been rounded."""
    w = np.where(np.abs(w) < 1e-20, 0, w)
    codes, scale = quantize_per_channel(w)
    folded = dequantize_per_channel(codes, scale) * np.float32(gain)
    np.testing.assert_array_equal(quantize_per_channel(folded)[0], codes)


def test_each_channel_has_its_own_scale_and_its_largest_weight_the_largest_code() -> None:
    w = np.array([[1.0, 100.0, 0.0], [-0.6, -25.0, 0.0]], np.float32)
    codes, scale = quantize_per_channel(w)
    np.testing.assert_array_equal(codes, [[127, 127, 0], [-76, -32, 0]])
    np.testing.assert_allclose(scale, [1 / 127, 100 / 127, 1], rtol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_channel(bad: float) -> None:
    w = np.ones((3, 4), np.float32)
    w[1, 2] = bad
    with pytest.raises(hs.ModelError, match="channel 2"):
        quantize_per_channel(w)
