"""Saliency says what the loss would change by, to first order, if a channel were gone."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph

CLASSES = 3


def network(norm: bool) -> Graph:
    b = hs.GraphBuilder("small", seed=3)
    x = b.conv(b.input("image", (6, 6, 3)), "stem", inputs=3, outputs=8, kernel=3, bias=not norm)
    x = b.op("relu6", b.batch_norm(x, "norm", 8) if norm else x)
    x = b.op("flatten", b.op("global_average_pool", x))
    model = b.build(b.linear(x, "classifier", 8, CLASSES, std=1.0))
    random = np.random.default_rng(4)
    for name in ("norm.weight", "norm.bias") if norm else ("stem.bias",):
        model.tensors[name].data = random.uniform(0.2, 1.0, 8).astype(np.float32)
    return model


def pictures(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((count, 6, 6, 3)).astype(np.float32), random.integers(0, CLASSES, count)


def scaled(model: Graph, names: tuple[str, ...], channel: int, by: float) -> Graph:
    other = model.copy()
    for name in names:
        data = other.data(name).copy()
        data[..., channel] *= by
        other.tensors[name].data = data
    return other


@pytest.mark.parametrize("norm", [True, False])
def test_it_is_the_square_of_what_the_loss_changes_by(norm: bool) -> None:
    model, (x, y) = network(norm), pictures()
    names = ("norm.weight", "norm.bias") if norm else ("stem.weight", "stem.bias")
    found = hs.channel_saliency(model, [(x[:8], y[:8]), (x[8:], y[8:])], hs.losses.CrossEntropy(), batch=8)
    wanted = np.zeros(8)
    for rows in (slice(8), slice(8, 16)):
        for channel in range(8):
            up, down = (
                hs.Trainer(
                    scaled(model, names, channel, by), hs.losses.CrossEntropy(), hs.optim.SGD(0.0), batch=8
                ).loss_of(x[rows], y[rows])
                for by in (1.01, 0.99)
            )
            wanted[channel] += ((up - down) / 0.02) ** 2 / 2
    np.testing.assert_allclose(found[names[0] if norm else names[1]], wanted, rtol=0.05, atol=1e-3 * wanted.max())


def test_channels_that_the_loss_does_not_see_go_first() -> None:
    model, data = network(True), pictures()
    weights = model.data("classifier.weight").copy()
    weights[[1, 4, 5, 6]] = 0
    model.tensors["classifier.weight"].data = weights
    saliency = hs.channel_saliency(model, data, hs.losses.CrossEntropy())
    assert (saliency["norm.weight"][[1, 4, 5, 6]] == 0).all()
    small = hs.prune_channels(model, 0.5, importance=saliency, divisor=1)
    np.testing.assert_array_equal(small.data("classifier.weight"), weights[[0, 2, 3, 7]])
    np.testing.assert_array_equal(hs.Predictor(small)(data[0]), hs.Predictor(model)(data[0]))


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(hs.OptionError, match="not one batch"):
        hs.channel_saliency(network(True), [], hs.losses.CrossEntropy())
    b = hs.GraphBuilder("bare", seed=3)
    x = b.conv(b.input("image", (6, 6, 3)), "only", inputs=3, outputs=CLASSES)
    bare = b.build(b.op("flatten", b.op("global_average_pool", x)))
    with pytest.raises(hs.ModelError, match="no batch norm and no bias"):
        hs.channel_saliency(bare, pictures(), hs.losses.CrossEntropy())
