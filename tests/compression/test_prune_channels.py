"""Structured pruning: channels go with all that belongs to them, and what is left is a network like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun.compression.channels import Coupling
from homespun.graph import Graph, infer
from homespun.graph.infer import flops

SIZE = 32


def image(count: int = 2, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, size, size, 3)).astype(np.float32)


def with_statistics(model: Graph) -> Graph:
    """Norms as after training: every number another one, so that a channel in a wrong place shows."""
    random = np.random.default_rng(1)
    for tensor in model.with_role("parameter", "state"):
        if tensor.data is not None and tensor.data.ndim == 1:
            tensor.data = random.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
    return model


def silenced(model: Graph, coupling: Coupling, removed: np.ndarray) -> Graph:
    """A copy whose units `removed` do nothing: all their weights are zero."""
    result = model.copy()
    for face in coupling.faces:
        tensor = result.tensors[face.tensor]
        if tensor.role == "parameter" and tensor.data is not None:
            tensor.data = tensor.data.copy()
            np.moveaxis(tensor.data, face.axis, 0)[np.append(removed, False)[face.units]] = 0
    return result


def some_of_each_group(coupling: Coupling, seed: int, share: float = 0.4) -> np.ndarray:
    removed = np.zeros(coupling.count, bool)
    for group in coupling.groups:
        count = min(group.size - 1, max(1, round(share * group.size)))
        removed[np.random.default_rng(seed).permutation(group)[:count]] = True
    return removed


NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {"width": 0.25},
    "mobilenet_v2": {"width": 0.5},
    "mobilenet_v3_small": {"width": 0.5},
    "efficientnet_b0": {"width": 0.25},
    "efficientnet_lite0": {"width": 0.25},
    "googlenet": {},
    "densenet121": {"width": 0.25},
    "shufflenet_v1": {"width": 0.5},
    "shufflenet_v2": {"width": 0.5},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_do_nothing_can_go_and_nothing_changes(name: str) -> None:
    model = with_statistics(getattr(hs.zoo, name)(classes=5, image_size=SIZE, **NETWORKS[name]))
    coupling = Coupling(model)
    removed = some_of_each_group(coupling, seed=2)
    quiet = silenced(model, coupling, removed)
    small = coupling.without(quiet, removed)
    assert removed.any()
    assert flops(small) < 0.95 * flops(model)
    want = hs.Predictor(quiet)(image())
    assert np.abs(want).max() > 0
    assert np.ptp(want) > 0
    for a, b in zip(_listed(hs.Predictor(small)(image())), _listed(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())


def _listed(made: Any) -> list[np.ndarray]:
    return list(made) if isinstance(made, tuple) else [made]


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Random layers: convolutions of all kinds, sums, gates, concatenations, splits, shuffles, norms, pooling."""
    b = hs.GraphBuilder("random", seed=draw(st.integers(0, 99)))
    b.input("image", (8, 8, 3))
    width = draw(st.sampled_from([4, 8, 12]))
    x = b.conv("image", "stem", inputs=3, outputs=width, kernel=3, bias=True)
    earlier = [(x, width)]
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        name, more = f"layer{i}", draw(st.sampled_from([4, 8]))
        if kind == "conv":
            x, width = b.conv(x, name, inputs=width, outputs=more, kernel=3, bias=True), more
        elif kind == "grouped":
            x, width = b.conv(x, name, inputs=width, outputs=2 * more, groups=2), 2 * more
        elif kind == "depthwise":
            x = b.conv(x, name, inputs=width, outputs=width, kernel=3, groups=width)
        elif kind == "multiplied":
            x, width = b.conv(x, name, inputs=width, outputs=2 * width, groups=width), 2 * width
        elif kind == "norm":
            x = b.op("relu", b.batch_norm(x, name, width))
        elif kind == "add":
            same = [t for t, w in earlier if w == width and t != x]
            x = b.op("add", x, draw(st.sampled_from(same))) if same else x
        elif kind == "gate":
            gate = b.conv(b.op("global_average_pool", x), name, inputs=width, outputs=width, bias=True)
            x = b.op("mul", x, b.op("sigmoid", gate))
        elif kind == "concat":
            other, wide = draw(st.sampled_from(earlier))
            x, width = b.op("concat", x, other, axis=-1), width + wide
        elif kind == "split":
            first, second = b.op("split", x, outputs=2, axis=3, sizes=(width // 2, width // 2))
            x, width = b.op("add", first, second), width // 2
        elif kind == "slice":
            x, width = b.op("slice", x, axis=3, start=1, stop=width - 1), width - 2
        elif kind == "shuffle":
            x = b.op("channel_shuffle", x, groups=2)
        elif kind == "unknown":
            x = b.op("softmax", x)
        if width % 2 or width < 4:
            x, width = b.conv(x, f"{name}.even", inputs=width, outputs=4), 4
        earlier.append((x, width))
    x = b.op("flatten", x) if draw(st.booleans()) else b.op("flatten", b.op("global_average_pool", x))
    inputs = infer(b.graph)[x].shape[-1]
    return with_statistics(b.build(b.linear(x, "classifier", inputs, 5)))


KINDS = [
    *("conv", "grouped", "depthwise", "multiplied", "norm", "add", "gate"),
    *("concat", "split", "slice", "shuffle", "unknown"),
]


@settings(deadline=None, max_examples=60)
@given(model=networks(), seed=st.integers(0, 99))
def test_that_holds_for_any_network(model: Graph, seed: int) -> None:
    coupling = Coupling(model)
    removed = some_of_each_group(coupling, seed)
    quiet = silenced(model, coupling, removed)
    small = coupling.without(quiet, removed)
    want = hs.Predictor(quiet)(image(size=8))
    np.testing.assert_allclose(hs.Predictor(small)(image(size=8)), want, rtol=1e-3, atol=1e-3)


def test_a_unit_is_a_channel_with_its_norm_its_filters_and_its_readers() -> None:
    model = hs.zoo.mobilenet_v2(classes=5, image_size=SIZE)
    small = hs.prune_channels(model, 0.5)
    shape = {name: small.tensors[name].shape for name in small.parameters()}
    assert shape["blocks.1.expand.conv.weight"] == (1, 1, 8, 48)
    assert shape["blocks.1.depthwise.conv.weight"] == (3, 3, 1, 48)
    assert shape["blocks.1.depthwise.norm.weight"] == (48,)
    assert small.tensors["blocks.1.depthwise.norm.running_var"].shape == (48,)
    assert shape["blocks.1.project.conv.weight"] == (1, 1, 48, 16)  # 24 channels, coupled to the next block by a sum
    assert shape["blocks.2.project.conv.weight"] == (1, 1, 72, 16)
    assert shape["classifier.weight"] == (640, 5)
    groups = next(n for n in small.nodes if n.name == "blocks.1.depthwise.conv").attributes["groups"]
    assert groups == 48


def test_what_has_no_rule_stays_and_so_does_what_comes_out() -> None:
    b = hs.GraphBuilder("frozen")
    x = b.conv(b.input("image", (8, 8, 3)), "free", inputs=3, outputs=16)
    x = b.conv(x, "held", inputs=16, outputs=16)
    model = b.build(b.conv(b.op("softmax", x), "last", inputs=16, outputs=16))
    small = hs.prune_channels(model, 0.5)
    assert small.tensors["free.weight"].shape == (1, 1, 3, 8)
    assert small.tensors["held.weight"].shape == (1, 1, 8, 16)
    assert small.tensors["last.weight"].shape == (1, 1, 16, 16)


def test_the_least_important_go() -> None:
    b = hs.GraphBuilder("two layers")
    x = b.conv(b.input("image", (8, 8, 3)), "first", inputs=3, outputs=16)
    model = b.build(b.conv(x, "second", inputs=16, outputs=4))
    weights = model.data("first.weight").copy()
    weights[..., ::2] *= 1e-3
    model.tensors["first.weight"].data = weights
    small = hs.prune_channels(model, 0.5)
    np.testing.assert_array_equal(small.data("first.weight"), weights[..., 1::2])
    given = {"first.weight": 1.0 - np.minimum(np.abs(weights), 1)}
    other = hs.prune_channels(model, 0.5, importance=given)
    np.testing.assert_array_equal(other.data("first.weight"), weights[..., ::2])


def test_norms_scales_say_what_matters_where_asked() -> None:
    model = hs.zoo.mobilenet_v2(classes=5, image_size=SIZE, width=0.5)
    scales = np.ones(96, np.float32)
    scales[:48] = 1e-3
    model.tensors["blocks.2.expand.norm.weight"].data = scales
    model.tensors["blocks.2.depthwise.norm.weight"].data = scales
    small = hs.prune_channels(model, 0.5, importance="batch_norm")
    np.testing.assert_array_equal(small.data("blocks.2.expand.norm.weight"), 1.0)


@pytest.mark.parametrize("spread", ["even", "global"])
def test_a_share_of_the_operations_is_kept(spread: str) -> None:
    model = hs.zoo.mobilenet_v2(classes=5, image_size=SIZE)
    small = hs.prune_channels(model, keep_flops=0.6, spread=spread)
    assert 0.5 * flops(model) < flops(small) <= 0.6 * flops(model)
    for name, array in small.parameters().items():
        if name.endswith("conv.weight"):
            assert array.shape[-1] % 8 == 0


def test_what_is_left_trains_saves_exports_and_rounds(tmp_path: Path) -> None:
    model = hs.zoo.mobilenet_v3_small(classes=4, image_size=SIZE, width=0.5)
    before = repr(model)
    small = hs.prune_channels(hs.calibrate(model, image(4)), 0.3)
    assert repr(model) == before
    trainer = hs.Trainer(small, hs.losses.CrossEntropy(), hs.optim.Adam(3e-3), batch=8)
    x, y = image(8), np.arange(8) % 4
    losses = [trainer.step(x, y).loss for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    trainer.export(tmp_path / "small.hsp", weights="int8")
    trainer.export(tmp_path / "small.onnx")
    hs.save(model, tmp_path / "large.hsp", weights="int8")
    assert (tmp_path / "small.hsp").stat().st_size < 0.8 * (tmp_path / "large.hsp").stat().st_size
    want = hs.Predictor(trainer.model())(x)
    np.testing.assert_allclose(hs.Predictor(hs.load(tmp_path / "small.onnx"))(x), want, rtol=1e-2, atol=1e-2)
    rounded = hs.Predictor(hs.load(tmp_path / "small.hsp"), weights="int8")(x)
    assert np.linalg.norm(rounded - want) < 0.2 * np.linalg.norm(want)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, hs.OptionError),
        ({"fraction": 0.5, "keep_flops": 0.5}, hs.OptionError),
        ({"fraction": 1.0}, hs.OptionError),
        ({"fraction": 0.5, "importance": "l2"}, hs.OptionError),
        ({"fraction": 0.5, "importance": {"stem.conv.weight": np.ones(3)}}, hs.OptionError),
        ({"fraction": 0.5, "spread": "odd"}, hs.OptionError),
        ({"keep_flops": 0.001}, hs.ModelError),
    ],
)
def test_what_can_t_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        hs.prune_channels(hs.zoo.mobilenet_v2(classes=5, image_size=SIZE, width=0.25), **options)


def test_a_network_that_can_t_be_pruned_says_so() -> None:
    b = hs.GraphBuilder("one layer")
    model = b.build(b.conv(b.input("image", (8, 8, 3)), "only", inputs=3, outputs=16))
    with pytest.raises(hs.ModelError, match="no channel can be pruned"):
        hs.prune_channels(model, 0.5)
