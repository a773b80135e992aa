"""Stochastic depth: which samples lose which blocks in training, that it can be resumed exactly, and that nothing of it
is in what is frozen, predicts or was exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.compile.autodiff import GraphExtension
from homespun.graph import Array, Graph, GraphBuilder, TensorType
from homespun.training import Trainer, losses, optim
from tests.training.small import images


class Mean(losses.Loss):
    """Of the output, so that a loss is a share of the samples; the targets are not read."""

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        return [TensorType(targets[0].shape)]

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        axes = tuple(range(len(build.type(outputs[0]).shape)))
        return build.add("reduce_mean", [outputs[0]], axes=axes)


def ones(count: int, rate: float, layers: int = 1) -> tuple[Graph, Array]:
    """The sum of `layers` branches that are 1 each, and a batch for it."""
    build = GraphBuilder("ones")
    build.input("unused", (1,))
    branches = [build.parameter(f"p{i}", np.ones((count, 2, 2, 3), np.float32)) for i in range(layers)]
    total, *others = [build.op("dropout", p, rate=rate, samples=True) for p in branches]
    for other in others:
        total = build.op("add", total, other)
    return build.build(total), np.zeros((count, 1), np.float32)


def small(**options: object) -> Graph:
    return hs.zoo.efficientnet_b0(classes=4, width=0.25, image_size=32, dropout=0.0, **options)  # type: ignore[arg-type]


def trainer(graph: Graph, **options: object) -> Trainer:
    return Trainer(graph, losses.CrossEntropy(), optim.Adam(3e-3), batch=8, seed=1, **options)  # type: ignore[arg-type]


def dropouts(trainer: Trainer) -> list[str]:
    """What a step drops samples of, gradients aside."""
    program = next(iter(trainer._programs.compiled.values()))
    found = [n.inputs[0] for n in program.graph.nodes if n.op == "train_dropout"]
    return [name for name in found if not name.startswith("gradient/")]


def test_each_step_and_each_layer_draws_anew_and_as_often_as_asked() -> None:
    graph, unused = ones(500, 0.3, layers=2)
    t = Trainer(graph, Mean(), optim.SGD(0.0), batch=500)
    drawn = []
    for _ in range(4):
        found = t.compute_gradients(unused, unused)
        drawn += [np.asarray(found[f"p{i}"])[:, 0, 0, 0] != 0 for i in range(2)]
        t.apply_gradients(found)
    kept = np.array(drawn)
    assert kept.mean() == pytest.approx(0.7, abs=0.03)
    agreement = (kept[:, None] == kept[None]).mean(-1)  # of independent draws: 0.7² + 0.3²
    np.testing.assert_allclose(agreement[~np.eye(8, dtype=bool)], 0.58, atol=0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_all_or_nothing(rate: float) -> None:
    graph, unused = ones(3, rate)
    assert Trainer(graph, Mean(), optim.SGD(0.0), batch=3).loss_of(unused, unused) == 1.0 - rate


def test_the_rates_are_torchvision_s() -> None:
    """`[m.p for m in torchvision.models.efficientnet_b0().modules() if isinstance(m, StochasticDepth)]`, of blocks
    with a residual: 0.2 i / 16 for the i-th block."""
    rates = {n.name: n.attributes["rate"] for n in small().nodes if n.op == "dropout"}
    assert rates == {f"blocks.{i}.dropout": pytest.approx(0.2 * i / 16) for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)}
    assert not any(n.op == "dropout" for n in small(stochastic_depth=0.0).nodes)
    lite = hs.zoo.efficientnet_lite0(width=0.25, image_size=32, dropout=0.0)
    assert [n.attributes["rate"] for n in lite.nodes if n.op == "dropout"] == [pytest.approx(r) for r in rates.values()]
    with pytest.raises(hs.OptionError, match="stochastic_depth"):
        small(stochastic_depth=1.0)


def test_weights_are_refined_without_it_unless_asked(tmp_path: Path) -> None:
    """EfficientNet-Lite: with its own release's 0.2 from random weights, none with weights that someone gives."""
    options = {"width": 0.25, "image_size": 32, "dropout": 0.0}
    begun = hs.zoo.efficientnet_lite0(**options)  # type: ignore[arg-type]
    hs.save(begun, tmp_path / "net.safetensors")
    for depth, count in ((None, 0), (0.2, 9)):
        given = hs.zoo.efficientnet_lite0(
            **options,
            weights=tmp_path / "net.safetensors",
            stochastic_depth=depth,  # type: ignore[arg-type]
        )
        assert len([n for n in given.nodes if n.op == "dropout"]) == count


def test_it_is_in_training_only(tmp_path: Path) -> None:
    x, y = images(8, 32)
    with_it, without = small(), small(stochastic_depth=0.0)
    np.testing.assert_array_equal(hs.Predictor(with_it, batch=8)(x), hs.Predictor(without, batch=8)(x))
    t = trainer(with_it)
    assert t.step(x, y).loss != trainer(without).step(x, y).loss
    t.export(tmp_path / "net.hsp")
    assert not any(n.op == "dropout" for n in hs.load(tmp_path / "net.hsp").nodes)


def test_what_is_frozen_is_whole_for_every_sample() -> None:
    x, y = images(8, 32)
    head = trainer(small(), trainable="head")
    head.step(x, y)
    assert dropouts(head) == []
    last = trainer(small(), trainable=["blocks.13.*", "blocks.14.*", "classifier.*"])
    last.step(x, y)
    assert dropouts(last) == ["blocks.13.project.norm", "blocks.14.project.norm"]
    whole = trainer(small())
    whole.step(x, y)
    assert len(dropouts(whole)) == 9


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_run_that_was_saved_goes_on_exactly(precision: str, tmp_path: Path) -> None:
    x, y = images(8, 32)
    t = trainer(small(stochastic_depth=0.5), precision=precision)
    t.step(x, y)
    t.save_checkpoint(tmp_path / "c.hsp")
    again = Trainer.from_checkpoint(tmp_path / "c.hsp")
    for _ in range(3):
        assert t.step(x, y).loss == again.step(x, y).loss
    for name, value in t.parameters().items():
        np.testing.assert_array_equal(value, again.parameters()[name], err_msg=name)


def test_the_number_of_threads_changes_nothing() -> None:
    found = []
    for threads in (1, 2):
        graph, unused = ones(7, 0.5)
        t = Trainer(graph, Mean(), optim.SGD(1.0), batch=7, seed=3, threads=threads)
        found.append(t.compute_gradients(unused, unused)["p0"])
    np.testing.assert_array_equal(*found)
    assert 0 < (found[0] == 0).mean() < 1
