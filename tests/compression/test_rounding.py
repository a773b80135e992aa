"""Rounding of a whole network: what batch norm says about values is true, and rounding by it beats the nearest code."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun.compression import dequantize_per_channel, quantize_per_channel, quantize_weights
from homespun.compression.moments import Moments, clipped, expected_moments
from homespun.compression.rounding import round_together
from homespun.graph import Graph
from tests.formats.networks import small_network


@pytest.mark.parametrize("high", [6.0, np.inf])
def test_clipped_moments_are_those_of_many_samples(high: float) -> None:
    mean, deviation = np.array([-3.0, -0.5, 0.0, 2.0, 5.5, 9.0]), np.array([1.0, 2.0, 0.1, 3.0, 1.0, 0.5])
    x = np.random.default_rng(0).normal(mean, deviation, (400_000, 6)).clip(0, high)
    got = clipped(Moments(mean, deviation**2), high)
    np.testing.assert_allclose(got.mean, x.mean(0), atol=0.02)
    np.testing.assert_allclose(got.variance, x.var(0), atol=0.05)


def test_moments_follow_norms_activations_and_sums() -> None:
    graph = small_network()
    moments = expected_moments(graph)
    np.testing.assert_allclose(moments["norm"].mean, graph.data("norm.bias"), rtol=1e-6)
    np.testing.assert_allclose(moments["norm"].variance, graph.data("norm.weight") ** 2, rtol=1e-5)
    assert (moments["act"].mean >= 0).all()
    assert "project" not in moments  # a convolution without a norm: nothing is known
    assert "sum" not in moments


def test_rounding_together_never_does_worse_than_nearest() -> None:
    random = np.random.default_rng(0)
    exact = random.uniform(-127, 127, (40, 30))
    exact[0] = 127
    common, own = random.uniform(0, 2, (40, 1)), random.uniform(0, 0.2, (40, 1))

    def cost(codes: np.ndarray) -> np.ndarray:
        error = codes - exact
        return (common * error).sum(0) ** 2 + (own * error**2).sum(0)

    codes = round_together(exact, common, own)
    assert (cost(codes) <= cost(np.rint(exact))).all()
    assert cost(codes).mean() < 0.5 * cost(np.rint(exact)).mean()
    assert np.abs(codes - exact).max() <= 1.5
    assert (codes[0] == 127).all()
    assert np.abs(codes).max() <= 127


def test_without_knowledge_codes_are_the_nearest() -> None:
    exact = np.random.default_rng(1).uniform(-127, 127, (9, 5))
    np.testing.assert_array_equal(round_together(exact, np.zeros((1, 1)), np.ones((1, 1))), np.rint(exact))


def test_rounded_weights_keep_their_codes() -> None:
    graph = small_network()
    first = quantize_weights(graph)
    assert set(first) == {"stem.weight", "depthwise.weight", "project.weight", "classifier.weight"}
    for name, (codes, scale) in first.items():
        graph.tensors[name].data = dequantize_per_channel(codes, scale)
    for name, (codes, scale) in quantize_weights(graph).items():
        np.testing.assert_array_equal(codes, first[name][0])
        np.testing.assert_array_equal(scale, first[name][1])


def test_a_network_s_outputs_move_less_than_with_nearest_codes() -> None:
    graph = separable_network()
    x = smooth_images()
    want = hs.Predictor(graph)(x)

    def error(rounded: dict[str, tuple[np.ndarray, np.ndarray]]) -> float:
        other = graph.copy()
        for name, pair in rounded.items():
            other.tensors[name].data = dequantize_per_channel(*pair)
        return float(np.linalg.norm(hs.Predictor(other)(x) - want))

    together = quantize_weights(graph)
    nearest = {name: quantize_per_channel(graph.data(name)) for name in together}
    assert error(together) < 0.9 * error(nearest)


def separable_network() -> Graph:
    """A norm whose statistics are true, then depthwise and pointwise filters: as in the networks this is for."""
    b = hs.GraphBuilder("separable", seed=1)
    x = b.input("image", (24, 24, 3))
    x = b.op("relu6", b.batch_norm(b.conv(x, "stem", inputs=3, outputs=32, kernel=3), "norm", 32))
    x = b.conv(x, "depthwise", inputs=32, outputs=32, kernel=3, groups=32)
    graph = b.build(b.conv(x, "project", inputs=32, outputs=16))
    graph.outputs = ["stem"]
    responses = hs.Predictor(graph)(smooth_images()).reshape(-1, 32)
    graph.tensors["norm.running_mean"].data = responses.mean(0)
    graph.tensors["norm.running_var"].data = responses.var(0)
    graph.tensors["norm.bias"].data = np.random.default_rng(2).normal(0.5, 1, 32).astype(np.float32)
    graph.outputs = ["project"]
    return graph


def smooth_images() -> np.ndarray:
    """Noise with neighbouring pixels, and the colours of a pixel, alike, as photos have them."""
    coarse = np.random.default_rng(3).standard_normal((4, 6, 6, 1)).repeat(3, axis=3)
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return (fine + 0.1 * np.random.default_rng(4).standard_normal(fine.shape)).astype(np.float32)
