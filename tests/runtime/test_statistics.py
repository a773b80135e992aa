"""Statistics of channels are those of all pixels of all samples, however the data come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph
from homespun.runtime import statistics as measured


def network() -> Graph:
    b = hs.GraphBuilder("small", seed=0)
    x = b.op("relu", b.conv(b.input("image", (6, 6, 3)), "stem", inputs=3, outputs=7, kernel=3))
    x = b.conv(x, "depthwise", inputs=7, outputs=7, kernel=3, groups=7)
    x = b.conv(x, "project", inputs=7, outputs=4)
    return b.build(b.linear(b.op("flatten", b.op("global_average_pool", x)), "classifier", 4, 3))


def images(count: int = 19) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 6, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("given", [images(), [images()[:5], images()[5:]], hs.data.Arrays(images(), np.zeros(19, int))])
def test_means_and_covariances_are_those_of_all_pixels(given: Any) -> None:
    model = network()
    found = hs.channel_statistics(model, given)
    assert set(found) == {"depthwise", "flatten"}  # what the 1x1 convolution and the classifier read
    probe = model.copy()
    probe.outputs = list(found)
    for (name, statistics), values in zip(found.items(), hs.Predictor(probe)(images()), strict=True):
        pixels = values.reshape(-1, values.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(statistics.mean, pixels.mean(axis=0), rtol=1e-4, atol=1e-6, err_msg=name)
        want = np.cov(pixels.T, bias=True)
        np.testing.assert_allclose(statistics.covariance, want, rtol=1e-3, atol=1e-4 * want.max(), err_msg=name)
        assert statistics.count == len(pixels)


def test_tensors_that_are_too_wide_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "WIDEST", 4)
    assert set(hs.channel_statistics(network(), images())) == {"flatten"}


def test_what_can_t_be_measured_is_refused() -> None:
    with pytest.raises(hs.OptionError, match="not one sample"):
        hs.channel_statistics(network(), [])
    with pytest.raises(hs.OptionError, match="not finite"):
        hs.channel_statistics(network(), np.full((1, 6, 6, 3), np.nan, np.float32))
    with pytest.raises(hs.ShapeError):
        hs.channel_statistics(network(), np.zeros((1, 5, 6, 3), np.float32))
    b = hs.GraphBuilder("one layer")
    with pytest.raises(hs.ModelError, match="no layer"):
        hs.channel_statistics(b.build(b.conv(b.input("image", (6, 6, 3)), "only", inputs=3, outputs=4)), images())
