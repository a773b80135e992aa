"""Scales with the least squared error: never worse than the largest weight's, and kept by what is rounded already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import homespun as hs
from homespun.compression import dequantize_per_channel, quantize_per_channel, quantize_weights
from homespun.compression.scales import MAX_CODE, largest_scales, least_error_scales, nearest_codes
from homespun.graph import Graph

columns = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=30),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def squared_error(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.square(nearest_codes(w / scale) * scale - w).sum(axis=0)


@settings(deadline=None)
@given(w=columns)
def test_the_error_is_never_above_that_of_the_largest_weight_s_scale(w: np.ndarray) -> None:
    w = w.astype(np.float64)
    least, largest = least_error_scales(w), largest_scales(w)
    assert (squared_error(w, least) <= squared_error(w, largest)).all()
    codes = nearest_codes(w / least)
    full = (np.abs(w).max(axis=0) > MAX_CODE * 2.0**-100) & (np.abs(w).max(axis=0) > 0)
    assert (np.abs(codes).max(axis=0)[full] == MAX_CODE).all()


@settings(deadline=None)
@given(w=columns, gain=st.floats(1e-3, 1e3))
def test_rounded_weights_keep_codes_and_scales_with_a_norm_folded_in_too(w: np.ndarray, gain: float) -> None:
    w = np.where(np.abs(w) < 1e-20, 0, w)
    scale = least_error_scales(w.astype(np.float64))
    codes = nearest_codes(w / scale)
    rounded = dequantize_per_channel(codes.astype(np.int8), scale)
    np.testing.assert_array_equal(least_error_scales(rounded.astype(np.float64)), scale)
    np.testing.assert_array_equal(quantize_per_channel(rounded)[0], codes)
    folded = (rounded * np.float32(gain)).astype(np.float64)
    np.testing.assert_array_equal(least_error_scales(folded), largest_scales(folded))


def test_the_scale_is_as_good_as_any_of_a_finer_search() -> None:
    w = np.random.default_rng(0).standard_normal((9, 200))
    found = squared_error(w, least_error_scales(w))
    best = np.min([squared_error(w, largest_scales(w) * r) for r in np.linspace(0.8, 1.003, 500)], axis=0)
    assert found.sum() < 1.05 * best.sum()
    assert found.sum() < 0.95 * squared_error(w, largest_scales(w)).sum()


def outlier() -> Graph:
    """A linear layer: many weights between two codes, and one a little above the 127th."""
    b = hs.GraphBuilder("outlier")
    graph = b.build(b.linear(b.input("x", (401,)), "layer", 401, 1))
    graph.tensors["layer.weight"].data = np.append(np.full(400, 63.0), 127.4).astype(np.float32)[:, None]
    return graph


def test_a_network_s_weights_get_the_scale_of_least_error_and_largest_ones_if_told() -> None:
    graph = outlier()
    codes, scale = quantize_weights(graph)["layer.weight"]
    assert abs(float(scale[0]) - 1) < 1e-3
    assert codes[-1, 0] == 127
    codes, scale = quantize_weights(graph, scales="largest")["layer.weight"]
    assert float(scale[0]) == pytest.approx(127.4 / 127, rel=1e-4)
    with pytest.raises(hs.OptionError, match="least_error"):
        quantize_weights(graph, scales="best")


def test_a_model_rounded_by_the_largest_weights_stays_as_it_is() -> None:
    graph = hs.zoo.mobilenet_v2(classes=4, image_size=32, width=0.25)
    pairs = quantize_weights(graph, scales="largest")
    other = quantize_weights(graph)
    assert any((pairs[n][1] != other[n][1]).any() for n in pairs)
    for name, pair in pairs.items():
        graph.tensors[name].data = dequantize_per_channel(*pair)
    for name, (codes, scale) in quantize_weights(graph).items():
        np.testing.assert_array_equal(codes, pairs[name][0])
        np.testing.assert_array_equal(scale, pairs[name][1])
