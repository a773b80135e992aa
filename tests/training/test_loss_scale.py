"""Training with float16 storage: the scale of the loss, and what happens when a gradient overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.training import Trainer
from tests.training.small import convolutional, images


def make(value: float = 2.0**12, patience: int = 1000, **options: object) -> Trainer:
    given = {"optimizer": optim.SGD(0.05, momentum=0.9), "batch": 8, **options}
    scale = hs.LossScale(value, patience)
    return Trainer(convolutional(), losses.CrossEntropy(), precision="mixed_float16", loss_scale=scale, **given)  # type: ignore[arg-type]


def everything(trainer: Trainer) -> dict[str, np.ndarray]:
    return {**trainer.parameters(), **trainer.state(), **trainer.optimizer_state()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_it_learns_and_keeps_half_the_bytes() -> None:
    x, y = images()
    trainer = make()
    first = trainer.step(x, y).loss
    for _ in range(30):
        last = trainer.step(x, y).loss
    assert last < 0.2 * first
    whole = Trainer(convolutional(size=32), losses.CrossEntropy(), optim.SGD(0.1))
    half = Trainer(convolutional(size=32), losses.CrossEntropy(), optim.SGD(0.1), precision="mixed_float16")
    assert half.memory.arena < 0.65 * whole.memory.arena


def test_gradients_come_out_as_if_nothing_had_been_scaled() -> None:
    x, y = images()
    exact = Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1)).compute_gradients(x, y)
    for value in (1.0, 2.0**14):
        for name, found in make(value).compute_gradients(x, y).items():
            error = np.linalg.norm(found - exact[name])
            assert error < 0.06 * (np.linalg.norm(exact[name]) + 1e-3), f"{name}: {error:.2e}"


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_an_overflow_skips_the_step_and_halves_the_scale(accumulate: int, clip_norm: float) -> None:
    x, y = images(8 * accumulate)
    trainer = make(2.0**40, accumulate=accumulate, optimizer=optim.Adam(1e-2, clip_norm=clip_norm))
    before = everything(trainer)
    result = trainer.step(x, y)
    assert result.skipped and result.step == 0 and np.isfinite(result.loss)
    assert trainer.loss_scale is not None and trainer.loss_scale.value == 2.0**39
    assert_same(before, everything(trainer))
    while result.skipped:
        result = trainer.step(x, y)
    assert trainer.step_count == 1
    assert not np.array_equal(before["classifier.weight"], trainer.parameters()["classifier.weight"])
    assert all(np.isfinite(v).all() for v in everything(trainer).values())


def test_good_steps_in_a_row_double_the_scale() -> None:
    x, y = images()
    trainer = make(2.0**8, patience=3)
    found = []
    for _ in range(7):
        trainer.step(x, y)
        assert trainer.loss_scale is not None
        found.append(trainer.loss_scale.value)
    assert found == [2.0**8, 2.0**8, 2.0**9, 2.0**9, 2.0**9, 2.0**10, 2.0**10]


def test_the_scale_changes_updates_by_rounding_only() -> None:
    x, y = images()
    a, b = make(2.0**6), make(2.0**13)
    for _ in range(3):
        a.step(x, y)
        b.step(x, y)
    for name, value in a.parameters().items():
        np.testing.assert_allclose(value, b.parameters()[name], atol=2e-3, err_msg=name)


def test_gradients_that_others_computed_are_not_scaled() -> None:
    trainer = make(2.0**12, optimizer=optim.SGD(1.0))
    before = trainer.parameters()
    trainer.apply_gradients({n: np.full_like(v, 0.25) for n, v in before.items()})
    for name, value in trainer.parameters().items():
        np.testing.assert_allclose(value, before[name] - 0.25, atol=1e-6)


def test_the_scale_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    x, y = images()
    trainer = make(2.0**30, patience=4)
    for _ in range(30):
        trainer.step(x, y)
    trainer.save_checkpoint(tmp_path / "c.hsp")
    resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
    assert resumed.loss_scale == trainer.loss_scale != hs.LossScale()
    for _ in range(6):
        assert trainer.step(x, y) == resumed.step(x, y)
    assert resumed.loss_scale == trainer.loss_scale
    assert_same(everything(trainer), everything(resumed))


def test_no_scale_helps_where_the_values_themselves_overflow() -> None:
    x, y = images()
    trainer = make()
    parameters = trainer.parameters()
    parameters["stem.conv.weight"] *= 1e6
    trainer.load_parameters(parameters)
    before = everything(trainer)
    with pytest.raises(hs.TrainingError, match=r"loss|finite"):
        for _ in range(60):
            trainer.step(x, y)
    assert_same(before, everything(trainer))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(hs.OptionError, match="mixed_float16"):
        Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1), loss_scale=hs.LossScale())
    with pytest.raises(hs.OptionError):
        hs.LossScale(0.0)
    with pytest.raises(hs.OptionError):
        hs.LossScale(patience=0)
