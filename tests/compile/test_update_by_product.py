"""Weights of linear layers that are updated without their gradient ever being stored: the same values, less memory."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim
from homespun.compile import training
from homespun.compile.passes.update_by_product import MOST_ROWS
from homespun.graph import Array, Graph
from homespun.training import Trainer
from tests.compile.optimizers import OPTIMIZERS

INNER, CLASSES, BATCH = 45, 71, 9


def two_layers() -> Graph:
    """The first has a gradient of its input to give on as well, the second reads what an activation made."""
    build = hs.GraphBuilder("layers", 3)
    x = build.linear(build.input("x", (INNER,)), "first", INNER, 33)
    return build.build(build.linear(build.op("relu", x), "classifier", 33, CLASSES))


def samples(seed: int, count: int = BATCH) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, INNER), np.float32), random.integers(0, CLASSES, count)


def trained(optimizer: optim.Optimizer, steps: int = 4, **options: object) -> Trainer:
    trainer = Trainer(two_layers(), losses.CrossEntropy(), optimizer, batch=BATCH, average=0.9, **options)  # type: ignore[arg-type]
    for seed in range(steps):
        trainer.step(*samples(seed, BATCH * trainer.accumulate))
    return trainer


def products(trainer: Trainer) -> int:
    """How many weights are updated from their layer's input."""
    nodes = trainer._main_program().graph.nodes
    return sum(len(n.inputs) > 7 for n in nodes if n.op in training.UPDATES)


def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "update_by_product", lambda graph, types: False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("isa", _native.isas())
def test_the_update_is_that_of_the_stored_gradient(
    optimizer: optim.Optimizer, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_product = {threads: trained(optimizer, isa=isa, threads=threads) for threads in (1, 3)}
    unfused(monkeypatch)
    for threads, trainer in by_product.items():
        stored = trained(optimizer, isa=isa, threads=threads)
        assert (products(trainer), products(stored)) == (2, 0)
        found = {**trainer.parameters(), **trainer.training_state()}
        for name, value in {**stored.parameters(), **stored.training_state()}.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_mixed_precision_learns_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = trained(optim.SGD(0.1, momentum=0.9), precision="mixed")
    unfused(monkeypatch)
    stored = trained(optim.SGD(0.1, momentum=0.9), precision="mixed")
    assert (products(ours), products(stored)) == (2, 0)
    for name, value in stored.parameters().items():
        np.testing.assert_allclose(ours.parameters()[name], value, atol=2e-4, err_msg=name)


def test_the_arena_does_not_hold_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    build = hs.GraphBuilder("head")
    head = build.build(build.linear(build.input("x", (512,)), "classifier", 512, 2000))

    def arena() -> int:
        return Trainer(head, losses.CrossEntropy(), optim.SGD(0.1), batch=2).memory.arena

    fused = arena()
    unfused(monkeypatch)
    assert fused < 0.1 * 512 * 2000 * 4 < 512 * 2000 * 4 <= arena()


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"optimizer": optim.SGD(0.1, clip_norm=1.0)}], ids=str)
def test_a_gradient_that_others_read_is_stored(options: dict[str, object]) -> None:
    trainer = trained(**{"optimizer": optim.SGD(0.1), **options})  # type: ignore[arg-type]
    nodes = [n for program in trainer._programs.compiled.values() for n in program.graph.nodes]
    updates = [n for n in nodes if n.op in training.UPDATES]
    assert len(updates) == 4 and not any(len(n.inputs) > 7 for n in updates)


def test_an_activation_that_is_computed_on_load_keeps_the_gradient_stored() -> None:
    build = hs.GraphBuilder("layers", 3)
    x = build.op("gelu", build.linear(build.input("x", (INNER,)), "first", INNER, 33))
    model = build.build(build.linear(x, "classifier", 33, CLASSES))
    assert products(Trainer(model, losses.CrossEntropy(), optim.SGD(0.1), batch=BATCH)) == 1


def test_many_rows_are_multiplied_in_one_product() -> None:
    for batch, expected in ((MOST_ROWS, 2), (MOST_ROWS + 1, 0)):
        assert products(Trainer(two_layers(), losses.CrossEntropy(), optim.SGD(0.1), batch=batch)) == expected


def test_gradients_can_still_be_asked_for() -> None:
    stepped, applied = (trained(optim.SGD(0.1, momentum=0.9), steps=1) for _ in range(2))
    stepped.step(*samples(7))
    applied.apply_gradients(applied.compute_gradients(*samples(7)))
    for name, value in applied.parameters().items():
        np.testing.assert_allclose(stepped.parameters()[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_a_gradient_that_is_not_finite_is_met_before_the_weights_change(value: float) -> None:
    def steep(build: object, outputs: list[str], targets: list[str]) -> str:
        return build.add("reduce_mean", [build.add("sqrt", [build.add("square", [outputs[0]])])], axes=(0, 1))  # type: ignore[attr-defined]

    build = hs.GraphBuilder("layer", 0)
    model = build.build(build.linear(build.input("x", (INNER,)), "only", INNER, CLASSES, bias=False))
    trainer = Trainer(model, steep, optim.Adam(0.1), batch=BATCH, threads=2)
    before = trainer.parameters()
    assert products(trainer) == 1
    x, _ = samples(0)
    x[:] = 0  # the loss is zero, and its slope at zero is not finite
    if np.isfinite(value):
        x[:, 3] = value
    with pytest.raises(hs.TrainingError):
        trainer.step(x, np.zeros((BATCH, CLASSES), np.float32))
    for name, array in trainer.parameters().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not any(v.any() for v in trainer.optimizer_state().values())


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: object) -> None:
    whole, part = trained(optim.AdamW(0.01), steps=6), trained(optim.AdamW(0.01), steps=3)
    path = f"{tmp_path}/run.hsp"
    part.save_checkpoint(path)
    again = Trainer.from_checkpoint(path)
    for seed in (3, 4, 5):
        again.step(*samples(seed))
    for name, value in whole.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], value, err_msg=name)
