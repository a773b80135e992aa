"""A run on augmented photos with several workers, killed anywhere and resumed, ends where it would have ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import homespun as hs
from homespun import data, losses, optim, schedules
from homespun.training import Trainer, callbacks
from tests.data import photos
from tests.training.killed import killed_and_resumed
from tests.training.small import convolutional
from tests.training.test_checkpoint import assert_same

EPOCHS = 4


def made(root: Path, workers: int) -> tuple[data.ImageFolder, data.ImageFolder]:
    augment = [*data.strong(), data.MixUp(0.3, 0.5), data.CutMix(1.0, 0.5)]
    folder = data.ImageFolder(
        root, image_size=12, mean=127.5, scale=64, augment=augment, seed=7, workers=workers, prefetch=3
    )
    return folder.split(0.25)


def trainer_for(**options: object) -> Trainer:
    trainer = Trainer(
        convolutional(classes=3, dropout=0.2),
        losses.CrossEntropy(),
        optim.Adam(3e-3),
        batch=4,
        accumulate=2,
        seed=1,
        **options,  # type: ignore[arg-type]
    )
    trainer.schedule = schedules.Cosine(10 * EPOCHS)
    return trainer


def everything_at_once() -> Trainer:
    """16-bit storage with a loss scale that changes, averages of weights, clipped gradients, a plateau that lowers the
    rate: all that a run can carry from step to step, on top of what `trainer_for` has."""
    trainer = Trainer(
        convolutional(classes=3, dropout=0.2),
        losses.CrossEntropy(smoothing=0.1),
        optim.RMSprop(2e-3, momentum=0.5, clip_norm=2.0, groups=[optim.Group(("*.norm.*",), 0.5)]),
        batch=4,
        accumulate=2,
        seed=1,
        precision="mixed_float16",
        loss_scale=hs.LossScale(2.0**24, patience=3),
        average=0.9,
    )
    trainer.schedule = schedules.WarmUp(3, schedules.Plateau(patience=0, gamma=0.5, threshold=0.5))
    return trainer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.folder(tmp_path_factory.mktemp("resume") / "photos", each=11)


@pytest.fixture(scope="module")
def uninterrupted(root: Path) -> Trainer:
    trainer = trainer_for()
    train, validation = made(root, workers=0)
    trainer.fit(train, EPOCHS, validation=validation)
    return trainer


@pytest.mark.parametrize("stop", [1, 3, 4, 9])
def test_stopped_in_the_middle_of_an_epoch_and_resumed(root, uninterrupted, stop: int, tmp_path: Path) -> None:
    class Stop(callbacks.Callback):
        def on_step(self, trainer: Trainer, result: hs.StepResult) -> bool:
            return result.step == stop

    first = trainer_for()
    first.fit(made(root, workers=2)[0], EPOCHS, callbacks=[Stop()])
    first.save_checkpoint(tmp_path / "c.hsp")
    resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
    train, validation = made(root, workers=3)
    resumed.fit(train, EPOCHS, validation=validation)
    assert_same(uninterrupted, resumed)
    whole, parts = uninterrupted.progress.history, resumed.progress.history
    assert [r["loss"] for r in whole] == [r["loss"] for r in parts]
    assert whole[-1]["validation_loss"] == parts[-1]["validation_loss"]


def test_the_size_of_a_step_changes_between_epochs_only(root: Path, tmp_path: Path) -> None:
    class Stop(callbacks.Callback):
        def on_step(self, trainer: Trainer, result: hs.StepResult) -> bool:
            return result.step == 2

    train = made(root, workers=0)[0]
    trainer = trainer_for()
    trainer.fit(train, 2, callbacks=[Stop()])
    trainer.save_checkpoint(tmp_path / "within.hsp")
    with pytest.raises(hs.OptionError, match="steps of 8 samples"):
        Trainer.from_checkpoint(tmp_path / "within.hsp", batch=16)
    assert Trainer.from_checkpoint(tmp_path / "within.hsp", batch=8, accumulate=1).progress.batch == 2
    trainer.fit(train, 2)
    trainer.save_checkpoint(tmp_path / "between.hsp")
    assert Trainer.from_checkpoint(tmp_path / "between.hsp", batch=16).batch == 16


def test_cached_features_train_as_uncached_ones_in_every_order(root: Path) -> None:
    train = made(root, workers=2)[0]
    with pytest.raises(hs.OptionError, match="augmented"):
        trainer_for(trainable="head").fit(train, 1, cache_features=True)
    plain, validation = train.without_augmentation(), made(root, workers=2)[1]
    ours, theirs = trainer_for(trainable="head"), trainer_for(trainable="head")
    ours.fit(plain, 3, validation=validation, cache_features=True)
    theirs.fit(plain, 3, validation=validation)
    assert_same(ours, theirs)
    for kept, fresh in zip(ours.progress.history, theirs.progress.history, strict=True):
        assert kept["validation_loss"] == pytest.approx(fresh["validation_loss"], rel=1e-5)
        assert kept["validation_accuracy"] == fresh["validation_accuracy"]


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from homespun.training import Trainer, callbacks
from tests.data.test_resume import EPOCHS, everything_at_once, made, trainer_for
checkpoint = Path({checkpoint!r})
trainer = Trainer.from_checkpoint(checkpoint) if checkpoint.exists() else {made_by}()
train, validation = made(Path({root!r}), workers={workers})
trainer.fit(train, EPOCHS, validation=validation, callbacks=[callbacks.CheckpointSaver(checkpoint, every=1)])
"""


@pytest.mark.parametrize("made_by", [trainer_for, everything_at_once], ids=lambda f: f.__name__)
def test_killed_at_random_moments_it_ends_where_it_would_have(root, made_by, tmp_path: Path) -> None:
    whole = made_by()
    train, validation = made(root, workers=0)
    whole.fit(train, EPOCHS, validation=validation)
    checkpoint = tmp_path / "c.hsp"

    def script(attempt: int) -> str:
        settings = {"checkpoint": str(checkpoint), "root": str(root), "workers": attempt % 4}
        return SCRIPT.format(path=sys.path, made_by=made_by.__name__, **settings)

    assert killed_and_resumed(checkpoint, script, attempts=40, most_kills=4, longest=0.03) >= 1
    resumed = Trainer.from_checkpoint(checkpoint)
    assert_same(whole, resumed)
    assert (whole.loss_scale, whole.schedule) == (resumed.loss_scale, resumed.schedule)
    ours, theirs = ([{**r, "seconds": 0} for r in t.progress.history] for t in (whole, resumed))
    assert ours == theirs
    if made_by is everything_at_once:  # what is carried along did change on the way
        assert whole.loss_scale != hs.LossScale(2.0**24, patience=3)
        assert whole.step_count < train.steps(8) * EPOCHS
        assert whole.learning_rate < 2e-3
