"""8-bit weights chosen on data: nearer on other data of the kind, right on average, and never rounded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.compression.feedback import round_with_feedback
from homespun.graph import Array, Graph
from homespun.training.export import inference_model


def network(norms: bool) -> Graph:
    """Blocks as of a mobile network; every weight and statistic another number."""
    b = hs.GraphBuilder("blocks", seed=5)
    random = np.random.default_rng(6)

    def normed(x: str, name: str, width: int) -> str:
        return b.batch_norm(x, f"{name}.norm", width) if norms else x

    x = b.conv(b.input("image", (8, 8, 3)), "stem", inputs=3, outputs=24, kernel=3, bias=not norms)
    x = b.op("relu6", normed(x, "stem", 24))
    for i in range(2):
        y = b.conv(x, f"depthwise{i}", inputs=24, outputs=24, kernel=3, groups=24, bias=not norms)
        y = b.op("relu6", normed(y, f"depthwise{i}", 24))
        y = b.conv(y, f"project{i}", inputs=24, outputs=24, bias=not norms)
        x = b.op("add", x, normed(y, f"project{i}", 24))
    model = b.build(b.linear(b.op("flatten", b.op("global_average_pool", x)), "classifier", 24, 6, std=0.5))
    for tensor in model.with_role("parameter", "state"):
        if tensor.data is not None and tensor.data.ndim == 1:
            tensor.data = random.uniform(0.2, 0.8, tensor.shape).astype(np.float32)
    return model


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 3)).astype(np.float32)


def error(model: Graph, exact: Array, x: Array) -> float:
    return float(np.linalg.norm(hs.Predictor(model, 4)(x) - exact) / np.linalg.norm(exact))


def restored(model: Graph, directory: Path) -> Graph:
    """As an 8-bit file holds it."""
    hs.save(model, directory / "rounded.hsp", weights="int8")
    return hs.load(directory / "rounded.hsp")


@pytest.mark.parametrize("norms", [True, False])
def test_outputs_are_nearer_than_without_data(norms: bool, tmp_path: Path) -> None:
    model, x = network(norms), images(32, seed=1)
    before, exact = repr(model), hs.Predictor(model, 4)(x)
    rounded = hs.round_weights(model, images(64))
    assert repr(model) == before
    assert error(restored(rounded, tmp_path), exact, x) < 0.6 * error(restored(model, tmp_path), exact, x)


@pytest.mark.parametrize("norms", [True, False])
def test_means_of_channels_are_what_they_were(norms: bool) -> None:
    model, x = network(norms), images(64)
    rounded = hs.round_weights(model, x)
    for name in ("stem.norm", "depthwise1.norm", "project1.norm", "classifier") if norms else ("stem", "project1"):
        made = []
        for graph in (model, rounded):
            probe = graph.copy()
            probe.outputs = [name]
            values = hs.Predictor(probe, 4)(x)
            made.append(values.reshape(-1, values.shape[-1]).astype(np.float64))
        np.testing.assert_allclose(made[1].mean(axis=0), made[0].mean(axis=0), atol=1e-5 * made[0].std())


def test_files_and_programs_keep_the_weights(tmp_path: Path) -> None:
    rounded = hs.round_weights(network(True), images(64))
    for name, array in restored(rounded, tmp_path).parameters().items():
        np.testing.assert_array_equal(array, rounded.data(name))
    x = images(8, seed=1)
    exported = inference_model(rounded, "int8")
    np.testing.assert_allclose(hs.Predictor(exported)(x), hs.Predictor(rounded)(x), rtol=1e-4, atol=1e-5)


def test_layers_of_16_bits_keep_theirs() -> None:
    model = network(True)
    model.tensors["project0.weight"].half = True
    rounded = hs.round_weights(model, images(16))
    np.testing.assert_array_equal(rounded.data("project0.weight"), model.data("project0.weight"))


def test_errors_make_up_for_each_other_where_inputs_go_together() -> None:
    random = np.random.default_rng(2)
    mixed = random.standard_normal((500, 8)) @ random.standard_normal((8, 30)) + 0.3 * random.standard_normal((500, 30))
    moments = mixed.T @ mixed / len(mixed)
    exact = random.uniform(-127, 127, (30, 20))
    exact[random.permutation(30)[:20], np.arange(20)] = 127.0
    codes = round_with_feedback(exact, moments)

    def cost(codes: Array) -> Array:
        error = codes - exact
        return np.einsum("ko,kl,lo->o", error, moments, error)

    assert cost(codes).mean() < 0.5 * cost(np.rint(exact)).mean()
    assert (codes[exact == 127] == 127).all()
    assert np.abs(codes).max() <= 127
    np.testing.assert_array_equal(codes, np.rint(codes))
    np.testing.assert_array_equal(round_with_feedback(exact, np.eye(30)), np.rint(exact))


def test_what_can_t_be_rounded_is_refused() -> None:
    with pytest.raises(hs.OptionError, match="not one sample"):
        hs.round_weights(network(True), images(0))
    with pytest.raises(hs.ShapeError):
        hs.round_weights(network(True), np.zeros((1, 9, 8, 3), np.float32))
