"""What pruned channels said is said by those that stay: exactly where least squares can, and better than not at all."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun.compression import fold
from homespun.compression.channels import Coupling
from homespun.graph import Array, Graph

SIZE, WIDTH = 4, 16
READERS = ("plain", "bias", "norm", "branching norm", "wide", "wide valid", "pooled linear", "flat linear")


def images(count: int = 300) -> Array:
    return np.random.default_rng(0).standard_normal((count, SIZE, SIZE, 3)).astype(np.float32)


def redundant(reader: str, constant: float) -> Graph:
    """A layer of 16 channels of which every second is a sum of two others and a constant, and a layer that reads it."""
    b = hs.GraphBuilder("redundant", seed=1)
    random = np.random.default_rng(2)
    x = b.conv(b.input("image", (SIZE, SIZE, 3)), "made", inputs=3, outputs=WIDTH, kernel=1, bias=True)
    layer = {"inputs": WIDTH, "outputs": 5}
    if reader in ("plain", "bias"):
        x = b.conv(x, "reader", **layer, bias=reader == "bias")
    elif reader == "norm":
        x = b.batch_norm(b.conv(x, "reader", **layer), "norm", 5)
    elif reader == "branching norm":
        x = b.conv(x, "reader", **layer)
        x = b.op("add", b.batch_norm(x, "norm", 5), x)
    elif reader in ("wide", "wide valid"):
        x = b.conv(x, "reader", **layer, kernel=3, padding="valid" if reader == "wide valid" else "same_upper")
    elif reader == "pooled linear":
        x = b.linear(b.op("dropout", b.op("flatten", b.op("global_average_pool", x)), rate=0.2), "reader", WIDTH, 5)
    else:
        x = b.linear(b.op("flatten", x), "reader", WIDTH * SIZE * SIZE, 5)
    model = b.build(x)
    weights, bias = model.data("made.weight").copy(), random.standard_normal(WIDTH).astype(np.float32)
    weights[..., 1::2] = weights[..., ::2] - 0.5 * np.roll(weights[..., ::2], 1, axis=-1)
    bias[1::2] = bias[::2] - 0.5 * np.roll(bias[::2], 1) + constant
    model.tensors["made.weight"].data, model.tensors["made.bias"].data = weights, bias
    return model


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def halved(model: Graph, *, folded: bool) -> Graph:
    """Without every second channel."""
    weights = model.data("made.weight")
    importance = {"made.weight": np.broadcast_to(np.arange(WIDTH) % 2 == 0, weights.shape).astype(np.float32)}
    statistics = hs.channel_statistics(model, images()) if folded else None
    return hs.prune_channels(model, 0.5, importance=importance, statistics=statistics)


@pytest.mark.parametrize("reader", READERS)
def test_channels_that_others_make_up_for_can_go_and_nothing_changes(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "RIDGE", 1e-9)
    model = redundant(reader, constant=0.0 if reader == "wide" else 1.5)
    before, want = repr(model), hs.Predictor(model)(images(320)[300:])
    small = halved(model, folded=True)
    assert small.data("made.weight").shape[-1] == WIDTH // 2
    assert relative(hs.Predictor(small)(images(320)[300:]), want) < 1e-3
    assert relative(hs.Predictor(halved(model, folded=False))(images(320)[300:]), want) > 0.3
    assert repr(model) == before
    hs.Trainer(small, hs.losses.MSE(), hs.optim.SGD(0.01)).step(images(6), np.zeros_like(want[:6]))


def test_constants_stay_away_from_windows_that_reach_over_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a window reads padding the channel that went was zero, not its constant."""
    monkeypatch.setattr(fold, "RIDGE", 1e-9)
    model = redundant("wide", constant=1.5)
    small = halved(model, folded=True)
    assert "reader.weight.bias" not in small.tensors
    assert relative(hs.Predictor(small)(images()), hs.Predictor(model)(images())) < 0.2


def test_weights_that_two_layers_share_are_left_alone() -> None:
    model = redundant("plain", constant=1.0)
    other = model.nodes[-1]
    model.add_node("conv2d", (other.inputs[0], "reader.weight"), ("again",), dict(other.attributes))
    model.outputs.append("again")
    gone = {other.inputs[0]: np.arange(WIDTH) % 2 == 1}
    folded = fold.fold_removed(model, gone, hs.channel_statistics(model, images()))
    np.testing.assert_array_equal(folded.data("reader.weight"), model.data("reader.weight"))


def test_where_too_little_was_measured_layers_are_left_alone() -> None:
    model = redundant("flat linear", constant=1.0)
    gone = {"flatten": np.arange(WIDTH * SIZE * SIZE) % 2 == 1}
    few, enough = (fold.fold_removed(model, gone, hs.channel_statistics(model, images(n))) for n in (255, 256))
    np.testing.assert_array_equal(few.data("reader.weight"), model.data("reader.weight"))
    assert (enough.data("reader.weight")[1::2] == 0).all()


def test_statistics_of_another_network_are_refused() -> None:
    model = redundant("plain", constant=1.0)
    statistics = hs.channel_statistics(halved(model, folded=False), images())
    with pytest.raises(hs.ShapeError, match="statistics of 'made' are of 8 channels, not 16"):
        hs.prune_channels(model, 0.5, statistics=statistics)


def test_what_is_not_redundant_by_construction_loses_less_too() -> None:
    model = hs.zoo.mobilenet_v1(classes=5, image_size=32, width=0.25)
    x = np.random.default_rng(3).standard_normal((48, 32, 32, 3)).astype(np.float32)
    want = hs.Predictor(model)(x[24:])
    statistics = hs.channel_statistics(model, x[:24])
    plain, folded = (hs.prune_channels(model, keep_flops=0.8, statistics=s) for s in (None, statistics))
    assert {n: t.shape for n, t in plain.tensors.items()} == {n: t.shape for n, t in folded.tensors.items()}
    assert relative(hs.Predictor(folded)(x[24:]), want) < 0.9 * relative(hs.Predictor(plain)(x[24:]), want)


def test_no_removed_channel_is_read_any_more() -> None:
    model = redundant("bias", constant=0.5)
    coupling = Coupling(model)
    gone = {"made": coupling.units_of[coupling.numbers["made"]] % 2 == 1}
    folded = fold.fold_removed(model, gone, hs.channel_statistics(model, images()))
    assert (folded.data("reader.weight")[..., gone["made"], :] == 0).all()
