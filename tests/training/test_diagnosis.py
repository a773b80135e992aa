"""Where values stop being finite: the step and the node, in the frozen part, forward, in the loss, backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.compile.autodiff import GraphExtension
from homespun.graph import Array, Graph
from homespun.training import Trainer
from tests.training.small import convolutional, images


def make(model: Graph | None = None, **options: object) -> Trainer:
    given = {"loss": losses.CrossEntropy(), "optimizer": optim.SGD(0.1), "batch": 8, **options}
    return Trainer(model or convolutional(), **given)  # type: ignore[arg-type]


def everything(trainer: Trainer) -> dict[str, Array]:
    return {**trainer.parameters(), **trainer.state(), **trainer.training_state()}


def steep(trainer: Trainer, name: str, factor: float) -> None:
    """Make one parameter so large that what is computed with it overflows."""
    trainer.load_parameters({name: trainer.parameters()[name] * np.float32(factor)})


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_it_names_the_layer_and_the_step(precision: str) -> None:
    x, y = images()
    trainer = make(precision=precision)
    trainer.step(x, y)
    steep(trainer, "b.expand.conv.weight", 1e38)
    before = everything(trainer)
    with pytest.raises(hs.TrainingError, match="step 2: the loss is nan"):
        trainer.step(x, y)
    told = trainer.diagnose(x, y)
    assert "b.expand.conv" in told and "forward pass of step 2" in told
    for name, value in everything(trainer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_what_only_training_computes_is_looked_at_too() -> None:
    """Inference folds the norm into the weights, and is finite; in training the raw output overflows before it."""
    x, y = images()
    trainer = make()
    steep(trainer, "stem.conv.weight", 2e38)
    trainer.take_over(_with_wide_statistics(trainer), trainer.training_state())
    assert np.isfinite(hs.Predictor(trainer.model(), 8)(x)).all()
    with pytest.raises(hs.TrainingError, match="step 1"):
        trainer.step(x, y)
    assert "node stem.conv" in trainer.diagnose(x, y)


def _with_wide_statistics(trainer: Trainer) -> Graph:
    graph = trainer.model()
    graph.tensors["stem.norm.running_var"].data = np.full(8, 3e38, np.float32)
    graph.tensors["stem.norm.weight"].data = np.full(8, 1e-5, np.float32)
    return graph


def test_float16_that_overflows_is_found_where_it_is_stored() -> None:
    x, y = images()
    trainer = make(precision="mixed_float16")
    steep(trainer, "a.expand.conv.weight", 1e6)
    told = trainer.diagnose(x, y)
    assert "a.expand.conv" in told and "forward" in told


def test_a_gradient_that_begins_in_the_backward_pass() -> None:
    def root(build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        zero = build.add("sub", [outputs[0], outputs[0]])
        return build.add("reduce_mean", [build.add("sqrt", [build.add("square", [zero])])], axes=(0, 1))

    x, _ = images()
    y = np.zeros((8, 4), np.float32)
    trainer = make(loss=root, optimizer=optim.SGD(0.1, clip_norm=1.0))
    before = everything(trainer)
    with pytest.raises(hs.TrainingError, match="gradients are not finite"):
        trainer.step(x, y)
    with pytest.raises(hs.TrainingError, match="gradients are not finite"):
        trainer.compute_gradients(x, y)
    for name in (n for n in before if n != "train/random"):
        np.testing.assert_array_equal(everything(trainer)[name], before[name], err_msg=name)
    assert "backward pass of step 1" in trainer.diagnose(x, y)


def root_of_one(build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
    """Finite, but with an infinite slope where a target is 0."""
    zero_in_places = build.add("mul", [outputs[0], targets[0]])
    return build.add("reduce_mean", [build.add("sqrt", [build.add("square", [zero_in_places])])], axes=(0, 1))


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"average": 0.9}, {"precision": "mixed"}])
@pytest.mark.parametrize("kind", [optim.SGD(0.1, momentum=0.9), optim.Adam(0.1), optim.Lion(0.1), optim.Adagrad(0.1)])
def test_a_gradient_of_the_loss_that_is_not_finite_changes_nothing(
    kind: optim.Optimizer, options: dict[str, object], trainable: str
) -> None:
    """The first gradient of a parameter shows it; running statistics have not followed yet."""
    x, _ = images(16 if "accumulate" in options else 8)
    y = np.ones((len(x), 4), np.float32)
    y[3, 2] = 0
    trainer = make(loss=root_of_one, optimizer=kind, trainable=trainable, **options)
    before = everything(trainer)
    with pytest.raises(hs.TrainingError, match="step 1: the gradients are not finite; nothing was updated"):
        trainer.step(x, y)
    for name in (n for n in before if n != "train/random"):
        np.testing.assert_array_equal(everything(trainer)[name], before[name], err_msg=name)
    y[3, 2] = 1
    assert trainer.step(x, y).step == 1


class Steep:
    """Two linear layers with a root between them, whose slope is infinite where its input is 0."""

    @staticmethod
    def graph() -> Graph:
        build = hs.GraphBuilder("steep")
        x = build.linear(build.input("x", (6,)), "first", 6, 8)
        x = str(build.op("sqrt", build.op("relu", x)))
        graph = build.build(build.linear(x, "second", 8, 3))
        graph.tensors["first.bias"].data = np.zeros(8, np.float32)
        return graph

    @staticmethod
    def trainer(optimizer: optim.Optimizer, **options: object) -> Trainer:
        return Trainer(Steep.graph(), losses.CrossEntropy(), optimizer, batch=8, **options)  # type: ignore[arg-type]


BAD = np.zeros((8, 6), np.float32), np.arange(8) % 3


def test_from_the_first_gradient_that_is_not_finite_on_nothing_changes() -> None:
    """What lies behind it had its update already, since updates do not wait; the message says so, and what to do."""
    trainer = Steep.trainer(optim.Adam(0.1), average=0.9)
    before = everything(trainer)
    with pytest.raises(
        hs.TrainingError, match=r"2 of 4 parameters, 'second.*restore a checkpoint.*clip_norm=math\.inf"
    ):
        trainer.step(*BAD)
    after = everything(trainer)
    changed = {n for n in before if not np.array_equal(before[n], after[n])} - {"train/random"}
    assert changed and all("second." in n for n in changed)
    assert all(np.isfinite(v).all() for v in after.values())
    assert trainer.step_count == 0


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=["clip_norm", "accumulate"])
def test_where_gradients_are_looked_at_first_nothing_changes(options: dict[str, int], tmp_path: Path) -> None:
    optimizer = optim.Adam(0.1) if options else optim.Adam(0.1, clip_norm=math.inf)
    trainer = Steep.trainer(optimizer, **options)
    trainer.save_checkpoint(tmp_path / "c.hsp")
    for t in (trainer, Trainer.from_checkpoint(tmp_path / "c.hsp")):
        before = everything(t)
        x, y = (np.concatenate([a, a]) if options else a for a in BAD)
        with pytest.raises(hs.TrainingError, match="nothing was updated"):
            t.step(x, y)
        for name in (n for n in before if n != "train/random"):
            np.testing.assert_array_equal(everything(t)[name], before[name], err_msg=name)


def test_an_infinite_clip_norm_clips_nothing() -> None:
    free, looked_at = make(), make(optimizer=optim.SGD(0.1, clip_norm=math.inf))
    x, y = images()
    free.step(x, y)
    assert looked_at.step(x, y).gradient_norm
    for name, value in free.parameters().items():
        np.testing.assert_array_equal(looked_at.parameters()[name], value, err_msg=name)


def test_the_loss_itself() -> None:
    def one_over(build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        zero = build.add("sub", [outputs[0], outputs[0]])
        return build.add("reduce_mean", [build.add("reciprocal", [zero])], axes=(0, 1))

    assert "loss/reciprocal" in make(loss=one_over).diagnose(images()[0], np.zeros((8, 4), np.float32))


def test_inputs_and_the_frozen_part() -> None:
    x, y = images()
    trainer = make(trainable="head")
    bad = x.copy()
    bad[3, 2, 2, 1] = np.nan
    assert "input 'image'" in trainer.diagnose(bad, y)
    steep(trainer, "b.project.conv.weight", 2e38)
    told = trainer.diagnose(x, y)
    assert "b.project" in told and "frozen part" in told


def test_a_part_of_a_virtual_batch() -> None:
    x, y = images(16)
    trainer = make(accumulate=2)
    x[12] *= np.float32(1e30)
    assert "stem" in trainer.diagnose(x, y)


def test_nothing_is_wrong() -> None:
    assert "finite, forward and backward" in make().diagnose(*images())
