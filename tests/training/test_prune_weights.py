"""Magnitude pruning: how many weights become zero and when, and that they stay so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.compression.prune_weights import cubic_sparsity, magnitude_mask, prunable_weights

LAYERS = ["project.weight", "classifier.weight"]


def network() -> hs.Graph:
    b = hs.GraphBuilder("small")
    x = b.conv(b.input("image", (8, 8, 3)), "stem", inputs=3, outputs=16, kernel=3, stride=2)
    x = b.op("relu", b.batch_norm(x, "norm", 16))
    x = b.conv(x, "depthwise", inputs=16, outputs=16, kernel=3, groups=16)
    x = b.op("relu", b.conv(x, "project", inputs=16, outputs=24))
    return b.build(b.linear(b.op("flatten", b.op("global_average_pool", x)), "classifier", 24, 4))


def batch(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((count, 8, 8, 3)).astype(np.float32), random.integers(0, 4, count)


def zeros(values: Any) -> dict[str, float]:
    return {name: float((values[name] == 0).mean()) for name in LAYERS}


def trainer_of(model: hs.Graph, **options: Any) -> hs.Trainer:
    optimizer = hs.optim.SGD(0.05, momentum=0.9)
    return hs.Trainer(model, hs.losses.CrossEntropy(), optimizer, batch=8, **options)


def test_the_smallest_weights_of_each_layer_become_zero() -> None:
    model = network()
    sparse = hs.prune_weights(model, 0.75)
    assert prunable_weights(model) == LAYERS
    for name in LAYERS:
        before, after = model.data(name), sparse.data(name)
        assert (after == 0).mean() == 0.75
        np.testing.assert_array_equal(after[after != 0], before[after != 0])
        assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    for name in ("stem.weight", "depthwise.weight", "norm.weight"):
        np.testing.assert_array_equal(sparse.data(name), model.data(name))


def test_the_schedule_is_cubic() -> None:
    got = [cubic_sparsity(step, 0.8, 10, 30) for step in (0, 9, 10, 15, 20, 30, 99)]
    np.testing.assert_allclose(got, [0, 0, 0, 0.8 * (1 - 0.75**3), 0.7, 0.8, 0.8])


def test_equal_weights_go_until_there_are_enough() -> None:
    assert magnitude_mask(np.ones((4, 5), np.float32), 0.5).sum() == 10


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_zeros_stay_zero_while_the_others_learn(average: float) -> None:
    trainer = trainer_of(hs.prune_weights(network(), 0.5), average=average)
    before = trainer.parameters()
    masks = {name: before[name] != 0 for name in LAYERS}

    class Look(hs.callbacks.Callback):
        def on_step(self, trainer: hs.Trainer, result: Any) -> None:
            for name, mask in masks.items():
                assert (trainer.parameters()[name][~mask] == 0).all()

    trainer.fit([batch()] * 10, epochs=1, callbacks=[Look(), hs.callbacks.PruneWeights(0.5)])
    for name, mask in masks.items():
        moved = trainer.parameters()[name]
        assert (moved[mask] != before[name][mask]).mean() > 0.9
        if average:
            assert (trainer.averaged_parameters()[name][~mask] == 0).all()


def test_more_and_more_go_as_the_schedule_says() -> None:
    trainer = trainer_of(network())
    seen: list[float] = []

    class Look(hs.callbacks.Callback):
        def on_step(self, trainer: hs.Trainer, result: Any) -> None:
            seen.append(zeros(trainer.parameters())["project.weight"])

    prune = hs.callbacks.PruneWeights(0.8, begin=4, end=12, every=4)
    trainer.fit([batch()] * 16, epochs=1, callbacks=[prune, Look()])
    half = 0.8 * (1 - 0.5**3)
    np.testing.assert_allclose(seen, [0] * 7 + [half] * 4 + [0.8] * 5, atol=2e-3)


def test_a_resumed_run_goes_on_with_the_same_zeros(tmp_path: Path) -> None:
    def fit(trainer: hs.Trainer, steps: int) -> None:
        prune = hs.callbacks.PruneWeights(0.8, end=10, every=3)
        saver = hs.callbacks.CheckpointSaver(tmp_path / "run.hsp", every=1)
        trainer.fit([batch()] * steps, epochs=1, callbacks=[saver, prune])

    class Stop(hs.callbacks.Callback):
        def on_step(self, trainer: hs.Trainer, result: Any) -> bool:
            return trainer.step_count == 7

    whole = trainer_of(network())
    fit(whole, 14)
    part = trainer_of(network())
    saver = hs.callbacks.CheckpointSaver(tmp_path / "part.hsp", every=1)
    part.fit([batch()] * 14, epochs=1, callbacks=[saver, hs.callbacks.PruneWeights(0.8, end=10, every=3), Stop()])
    again = hs.Trainer.from_checkpoint(tmp_path / "part.hsp")
    fit(again, 14)
    for name, value in whole.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], value)
    assert zeros(again.parameters()) == pytest.approx(dict.fromkeys(LAYERS, 0.8), abs=0.01)


@pytest.mark.parametrize("options", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"sparsity": 0.5, "every": 0}])
def test_what_can_t_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(hs.OptionError):
        hs.callbacks.PruneWeights(**options)


def test_nothing_to_prune_is_said() -> None:
    trainer = trainer_of(network(), trainable=["norm.*"])
    with pytest.raises(hs.OptionError, match="no weight that is trained"):
        trainer.fit([batch()], callbacks=[hs.callbacks.PruneWeights(0.5)])
