"""What makes no sense is refused with an error of our own, before anything has changed; the trainer goes on as if
nobody had asked."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun import callbacks, losses, metrics, optim, schedules
from homespun.formats import hsp
from homespun.training import Trainer
from homespun.training.checkpoint import KEY
from tests.training.small import convolutional, images

X, Y = images()


def make(**options: Any) -> Trainer:
    given = {"model": convolutional(), "loss": losses.CrossEntropy(), "optimizer": optim.Adam(1e-2), "average": 0.9}
    given |= options
    return Trainer(given.pop("model"), given.pop("loss"), given.pop("optimizer"), batch=8, **given)


def everything(trainer: Trainer) -> dict[str, Any]:
    progress = trainer.progress
    counts = [trainer.step_count, progress.epoch, progress.batch, progress.loss_sum, len(progress.history)]
    numbers = {"counts": np.array([*counts, trainer.learning_rate])}
    return {**trainer.parameters(), **trainer.state(), **trainer.training_state(), **numbers}


def assert_unchanged(trainer: Trainer, before: dict[str, Any]) -> None:
    after = everything(trainer)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


#: What is done to a trainer that has made a step, the error, and a word of its message.
CALLS: dict[str, tuple[Callable[[Trainer], object], type[Exception], str]] = {
    "a file name for pictures": (lambda t: t.step("photo.jpg", Y), hs.ShapeError, "expected numbers"),  # type: ignore[arg-type]
    "nothing for pictures": (lambda t: t.step(None, Y), hs.ShapeError, "image"),  # type: ignore[arg-type]
    "complex pictures": (lambda t: t.step(X.astype(complex), Y), hs.ShapeError, "complex"),
    "arrays of objects": (lambda t: t.step(X.astype(object), Y), hs.ShapeError, "object"),
    "labels as text": (lambda t: t.step(X, np.array(["cat"] * 8)), hs.TrainingError, "whole number of its class"),
    "labels that wrap": (lambda t: t.step(X, np.full(8, 2**32)), hs.TrainingError, "4294967296 is out of range"),
    "negative shares": (lambda t: t.step(X, np.full((8, 4), -0.5)), hs.TrainingError, "probabilities"),
    "shares above one": (lambda t: t.step(X, np.full((8, 4), 9.0)), hs.TrainingError, "probabilities"),
    "shares that are NaN": (lambda t: t.step(X, np.full((8, 4), np.nan)), hs.TrainingError, "loss is nan"),
    "no gradients": (lambda t: t.apply_gradients(None), hs.TrainingError, "by name"),  # type: ignore[arg-type]
    "gradients of objects": (
        lambda t: t.apply_gradients({"classifier.bias": np.array([None] * 4)}),
        hs.ShapeError,
        "expected numbers",
    ),
    "gradients beyond float32": (
        lambda t: t.apply_gradients({"classifier.weight": np.ones((16, 4)), "classifier.bias": np.full(4, 1e300)}),
        hs.TrainingError,
        "'classifier.bias' has values that are not finite",
    ),
    "parameters beyond float32": (
        lambda t: t.load_parameters({"classifier.bias": np.full(4, 1e300)}),
        hs.TrainingError,
        "'classifier.bias' has values that are not finite",
    ),
    "states that are NaN": (
        lambda t: t.load_optimizer_state({"optimizer/classifier.bias/mean": np.full(4, np.nan)}),
        hs.TrainingError,
        "classifier.bias/mean",
    ),
    "a rate that is text": (lambda t: setattr(t, "learning_rate", "fast"), hs.OptionError, "learning_rate"),
    "an infinite rate": (lambda t: setattr(t, "learning_rate", np.inf), hs.OptionError, "learning_rate"),
    "a rate beyond float32": (lambda t: setattr(t, "learning_rate", 1e39), hs.OptionError, "learning_rate"),
    "an iterator for two epochs": (lambda t: t.fit(iter([(X, Y)] * 2), 2), hs.OptionError, "used up"),
    "a generator for two epochs": (lambda t: t.fit(((X, Y) for _ in range(2)), 2), hs.OptionError, "used up"),
    "an iterator to validate with": (
        lambda t: t.fit((X, Y), 2, validation=iter([(X, Y)])),
        hs.OptionError,
        "used up",
    ),
    "no data": (lambda t: t.fit([], 1), hs.OptionError, "nothing to learn from"),
    "empty arrays": (lambda t: t.fit((X[:0], Y[:0]), 1), hs.OptionError, "nothing to learn from"),
    "more pictures than labels": (lambda t: t.fit((np.concatenate([X, X]), Y), 1), hs.ShapeError, "differ"),
    "more to evaluate than labels": (lambda t: t.evaluate((np.concatenate([X, X]), Y)), hs.ShapeError, "differ"),
    "half an epoch": (lambda t: t.fit((X, Y), 0.5), hs.OptionError, "epochs"),  # type: ignore[arg-type]
    "fewer than no epochs": (lambda t: t.fit((X, Y), -1), hs.OptionError, "epochs"),
    "a schedule that is text": (lambda t: t.fit((X, Y), 1, schedule="cosine"), hs.OptionError, "hs.schedules"),
    "a callback that is none": (lambda t: t.fit((X, Y), 1, callbacks=[print]), hs.OptionError, "no callback"),
    "a callback that is not made": (
        lambda t: t.fit((X, Y), 1, callbacks=[callbacks.ProgressBar]),
        hs.OptionError,
        "no callback",
    ),
    "a metric that is text": (lambda t: t.evaluate((X, Y), metrics=["accuracy"]), hs.OptionError, "no metric"),
    "a metric that is not made": (
        lambda t: t.fit((X, Y), 1, validation=(X, Y), metrics=[metrics.Accuracy]),
        hs.OptionError,
        "no metric",
    ),
    "no folder for a checkpoint": (lambda t: t.save_checkpoint("/gone/c.hsp"), OSError, "no folder.*'/gone'"),
    "no folder for a model": (lambda t: t.export("/gone/m.hsp"), OSError, "no folder.*'/gone'"),
    "no checkpoint": (lambda t: t.restore("/gone/c.hsp"), hs.FormatError, "no such file"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_makes_no_sense_changes_nothing(what: str) -> None:
    call, error, words = CALLS[what]
    trainer, untroubled = make(), make()
    for each in (trainer, untroubled):
        each.step(X, Y)
    before = everything(trainer)
    with pytest.raises(error, match=words):
        call(trainer)
    assert_unchanged(trainer, before)
    assert trainer.step(X, Y) == untroubled.step(X, Y)
    assert_unchanged(trainer, everything(untroubled))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: optim.Adam(float("inf")), "learning_rate"),
        (lambda: optim.Adam("1e-3"), "learning_rate"),  # type: ignore[arg-type]
        (lambda: optim.Adam(epsilon=-1e-8), "epsilon"),
        (lambda: optim.Adagrad(learning_rate_decay=-1.0), "learning_rate_decay"),
        (lambda: optim.RMSprop(smoothing=1.0), "smoothing"),
        (lambda: optim.SGD(0.1, clip_norm=float("nan")), "clip_norm"),
        (lambda: optim.Group(("*",), -1.0), "rate"),
        (lambda: optim.Group(("*",), weight_decay=float("nan")), "weight_decay"),
        (lambda: optim.Group((1,)), "patterns"),  # type: ignore[arg-type]
        (lambda: schedules.Plateau(patience=-1), "patience"),
        (lambda: schedules.Plateau(gamma=2.0), "gamma"),
        (lambda: schedules.WarmUp(-1), "steps"),
        (lambda: make(model=None), "Graph"),
        (lambda: make(trainable=None), "trainable"),
        (lambda: make(seed="one"), "seed"),
        (lambda: make(seed=2**70), "seed"),
        (lambda: make(threads=1000), "at most 256"),
        (lambda: make(average=None), "average"),
        (lambda: make(precision=None), "precision"),
        (lambda: make(memory_budget=float("nan")), "memory_budget"),
        (lambda: hs.Predictor(convolutional(), threads=1000), "at most 256"),
    ],
)
def test_options_that_make_no_sense_are_refused(made: Callable[[], object], words: str) -> None:
    with pytest.raises(hs.OptionError, match=words):
        made()


@pytest.mark.parametrize(
    "loss",
    [
        losses.CrossEntropy(0.1, ignore=-100),
        losses.BinaryCrossEntropy(),
        losses.MSE(),
        losses.L1(),
        losses.Huber(0.3),
        losses.SmoothL1(0.3),
        losses.Distillation(3.0, 0.25),
        losses.Auxiliary(losses.CrossEntropy(0.2), 0.4),
        losses.Yolo([0.1, 0.2] * 3, 3, 0.6),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_checkpoint_keeps_what_a_loss_was_told(loss: losses.Loss, tmp_path: Path) -> None:
    def told(loss: losses.Loss) -> object:
        return type(loss), {k: told(v) if isinstance(v, losses.Loss) else v for k, v in vars(loss).items()}

    make(loss=loss).save_checkpoint(tmp_path / "c.hsp")
    assert told(Trainer.from_checkpoint(tmp_path / "c.hsp").loss) == told(loss)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    trainer = make(seed=np.int64(3), average=np.float32(0.5), memory_budget=np.int64(10**9))
    trainer.learning_rate = np.float32(0.01)
    trainer.fit((X, Y), np.int64(1))
    trainer.save_checkpoint(tmp_path / "c.hsp")
    assert Trainer.from_checkpoint(tmp_path / "c.hsp").step(X, Y) == trainer.step(X, Y)


def test_an_infinite_norm_is_one_that_only_looks() -> None:
    """`clip_norm=math.inf` clips nothing; it must not be refused with the rates."""
    assert make(optimizer=optim.SGD(0.1, clip_norm=np.inf)).step(X, Y).gradient_norm is not None


def test_one_pattern_of_a_group_is_one_pattern() -> None:
    """A text is not its letters, of which `*` would match every parameter."""
    group = optim.Group("*.norm.*", rate=0.0)  # type: ignore[arg-type]
    assert group == optim.Group(("*.norm.*",), rate=0.0)
    trainer = make(optimizer=optim.SGD(0.1, groups=[group]))
    before = trainer.parameters()
    trainer.step(X, Y)
    changed = {n for n, v in trainer.parameters().items() if not np.array_equal(v, before[n])}
    assert changed == {n for n in before if ".norm." not in n}


def test_an_iterator_does_for_one_epoch_and_for_cached_features() -> None:
    trainer, expected = make(trainable="head"), make(trainable="head")
    trainer.fit(((X, Y) for _ in range(2)), 1)
    expected.fit([(X, Y)] * 2, 1)
    trainer.fit(((X, Y) for _ in range(2)), 3, cache_features=True)
    expected.fit([(X, Y)] * 2, 3)
    assert_unchanged(trainer, {k: v for k, v in everything(expected).items() if k != "counts"})


def test_a_monitor_must_be_among_what_an_epoch_records() -> None:
    with pytest.raises(hs.OptionError, match="validation_loss, validation_accuracy"):
        make().fit((X, Y), 1, validation=(X, Y), monitor="accuracy", schedule=schedules.Plateau())
    plateau = schedules.Plateau(maximise=True)
    make().fit((X, Y), 1, validation=(X, Y), monitor="validation_accuracy", schedule=plateau)
    assert plateau.best <= 0


@pytest.mark.parametrize(("maximise", "values"), [(False, [-2.0, -3.0, -3.0, -3.0]), (True, [2.0, 3.0, 3.0, 3.0])])
def test_a_plateau_of_values_below_zero_or_that_should_rise(maximise: bool, values: list[float]) -> None:
    schedule = schedules.Plateau(patience=1, gamma=0.5, maximise=maximise)
    factors = []
    for value in values:
        schedule.observe(value)
        factors.append(schedule.factor(0))
    assert factors == [1, 1, 1, 0.5]
    again = schedules.from_description(schedules.describe(schedule))
    assert again == schedule


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trainer = make()
    trainer.fit((X, Y), 1)
    trainer.schedule = schedules.WarmUp(3, schedules.Plateau())
    path = tmp_path_factory.mktemp("good") / "c.hsp"
    trainer.save_checkpoint(path)
    return path


def damaged(described: Any) -> Iterator[str]:
    """The training state as JSON with one of its parts missing, or something else, each in turn."""

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for key in value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
            yield (*path, key)
            yield from places(value[key], (*path, key))

    for path in list(places(described)):
        for wrong in ("missing", None, "zzz", -5, [[]]):
            copy = json.loads(json.dumps(described))
            holder = copy
            for key in path[:-1]:
                holder = holder[key]
            if wrong == "missing":
                del holder[path[-1]]
            else:
                holder[path[-1]] = wrong
            yield json.dumps(copy)
    yield from ("", "nothing", "[]", "5", "null")


def test_a_damaged_training_state_is_refused_or_harmless(checkpoint: Path, tmp_path: Path) -> None:
    trainer = make()
    trainer.step(X, Y)
    before = everything(trainer)
    graph = hsp.load(checkpoint)
    described = json.loads(graph.metadata[KEY])
    path, refused = tmp_path / "damaged.hsp", 0
    for text in list(damaged(described))[::3]:
        graph.metadata[KEY] = text
        hsp.save(graph, path)
        try:
            trainer.restore(path)
        except hs.FormatError as error:
            refused += 1
            assert str(path) in str(error)
            assert_unchanged(trainer, before)
        else:
            trainer = make()
            trainer.step(X, Y)
        try:
            Trainer.from_checkpoint(path)
        except (hs.FormatError, hs.OptionError):
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 9))
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, share: float) -> None:
    trainer = make()
    trainer.step(X, Y)
    before = everything(trainer)
    data = checkpoint.read_bytes()
    (tmp_path / "c.hsp").write_bytes(data[: int(share * len(data))])
    with pytest.raises(hs.FormatError, match=r"c\.hsp"):
        trainer.restore(tmp_path / "c.hsp")
    with pytest.raises(hs.FormatError, match=r"c\.hsp"):
        Trainer.from_checkpoint(tmp_path / "c.hsp")
    assert_unchanged(trainer, before)


FULL = """
import resource, signal, sys
sys.path[:0] = {path!r}
from tests.training.test_bad_input import X, Y, assert_unchanged, everything, make
trainer = make()
trainer.step(X, Y)
trainer.save_checkpoint({checkpoint!r})
trainer.step(X, Y)
before = everything(trainer)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))
for write in (trainer.save_checkpoint, trainer.export):
    try:
        write({checkpoint!r})
    except OSError as error:
        print("refused:", error)
assert_unchanged(trainer, before)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
trainer.step(X, Y)
"""


@pytest.mark.parametrize("room", [0, 2000])
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path, room: int) -> None:
    """The system itself refuses to write further, as it does when a disk is full."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "c.hsp"
    code = FULL.format(path=sys.path, checkpoint=str(path), room=room)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused:") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c.hsp"]
    assert Trainer.from_checkpoint(path).step_count == 1


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    trainer = make()
    left, fresh, other = (tmp_path / f".{name}.partial" for name in ("c.hsp.0", "c.hsp.1", "d.hsp.0"))
    for path in (left, fresh, other):
        path.write_bytes(b"half a checkpoint")
    for path in (left, other):
        os.utime(path, (time.time() - 3600,) * 2)
    trainer.save_checkpoint(tmp_path / "c.hsp")
    assert {p.name for p in tmp_path.iterdir()} == {"c.hsp", fresh.name, other.name}
