"""Checkpoints hold everything: a run that is killed anywhere and resumed ends where the uninterrupted one ends."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim, schedules
from homespun.training import Trainer, callbacks
from tests.training.killed import killed_and_resumed
from tests.training.small import convolutional, images, perceptron

DATA = [images(8, seed=i) for i in range(6)]


def make(**options: object) -> Trainer:
    given = {"optimizer": optim.Adam(1e-2, clip_norm=5.0), "batch": 8, "average": 0.9, "seed": 3, **options}
    trainer = Trainer(convolutional(dropout=0.2), losses.CrossEntropy(smoothing=0.1), **given)  # type: ignore[arg-type]
    trainer.schedule = schedules.WarmUp(3, schedules.Cosine(20))
    return trainer


def everything(trainer: Trainer) -> dict[str, np.ndarray]:
    return {**trainer.parameters(), **trainer.state(), **trainer.training_state()}


def assert_same(a: Trainer, b: Trainer) -> None:
    ours, theirs = everything(a), everything(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert a.step_count == b.step_count
    assert a.learning_rate == b.learning_rate


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_resuming_in_the_middle_of_an_epoch_is_exact(tmp_path: Path, precision: str) -> None:
    whole = make(precision=precision)
    whole.fit(DATA, 3)

    class Stop(callbacks.Callback):
        def on_step(self, trainer: Trainer, result: hs.StepResult) -> bool:
            return result.step == 8

    first = make(precision=precision)
    first.fit(DATA, 3, callbacks=[Stop()])
    first.save_checkpoint(tmp_path / "c.hsp", note="halfway")
    resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
    assert_same(first, resumed)
    resumed.fit(DATA, 3)
    assert_same(whole, resumed)
    assert len(resumed.progress.history) == 3


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from homespun.training import Trainer, callbacks
from tests.training.test_checkpoint import DATA, make
checkpoint = Path({checkpoint!r})
trainer = Trainer.from_checkpoint(checkpoint) if checkpoint.exists() else make()
trainer.fit(DATA, 12, callbacks=[callbacks.CheckpointSaver(checkpoint, every=1)])
"""


def test_killed_at_random_moments_it_ends_where_it_would_have(tmp_path: Path) -> None:
    whole = make()
    whole.fit(DATA, 12)
    checkpoint = tmp_path / "c.hsp"
    script = SCRIPT.format(path=sys.path, checkpoint=str(checkpoint))
    assert killed_and_resumed(checkpoint, lambda attempt: script, attempts=60, most_kills=5, longest=0.05) >= 1
    assert_same(whole, Trainer.from_checkpoint(checkpoint))


def test_a_run_is_resumed_on_the_instruction_set_it_began_with(tmp_path: Path) -> None:
    for isa in _native.isas():
        trainer = make(isa=isa)
        trainer.step(*DATA[0])
        trainer.save_checkpoint(tmp_path / "c.hsp")
        resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
        assert resumed.isa == isa
        assert trainer.step(*DATA[1]) == resumed.step(*DATA[1])
        assert_same(trainer, resumed)


def test_a_checkpoint_is_a_model_too(tmp_path: Path) -> None:
    trainer = make()
    trainer.step(*DATA[0])
    trainer.save_checkpoint(tmp_path / "c.hsp")
    model = hs.load(tmp_path / "c.hsp")
    expected = hs.Predictor(trainer.model(), 8)(DATA[0][0])
    np.testing.assert_array_equal(hs.Predictor(model, 8)(DATA[0][0]), expected)


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    trainer = make()
    trainer.step(*DATA[0])
    good, bad = tmp_path / "good.hsp", tmp_path / "bad.hsp"
    trainer.save_checkpoint(good)
    before = everything(trainer)
    data = good.read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    other = Trainer(perceptron(), losses.CrossEntropy(), optim.SGD(0.1))
    other.save_checkpoint(tmp_path / "other.hsp")
    hs.save(trainer.model(), tmp_path / "model.hsp")
    (tmp_path / "version.hsp").write_bytes(data.replace(rb"version\\\": 1, ", rb"version\\\": 9, "))
    for name, words in [
        ("bad", "truncated|bytes"),
        ("other", "other"),
        ("model", "no checkpoint"),
        ("version", "version 9"),
    ]:
        with pytest.raises(hs.FormatError, match=words):
            trainer.restore(tmp_path / f"{name}.hsp")
        for key, value in everything(trainer).items():
            np.testing.assert_array_equal(value, before[key])
    trainer.step(*DATA[1])
    trainer.restore(good)
    for key, value in everything(trainer).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    trainer.save_checkpoint(tmp_path / "c.hsp")
    before = (tmp_path / "c.hsp").read_bytes()
    trainer.step(*DATA[0])

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("homespun.formats.hsp.serialize_file", fail)
    with pytest.raises(OSError, match="no space"):
        trainer.save_checkpoint(tmp_path / "c.hsp")
    assert (tmp_path / "c.hsp").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.hsp"]
