"""Fitting, evaluating, callbacks, metrics, schedules, splicing and export."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import losses, metrics, optim, schedules
from homespun.graph.class_names import class_names
from homespun.training import Trainer, callbacks
from homespun.training.fit import FitResult
from tests.training.small import convolutional, images, perceptron, rows


def make(model: hs.Graph | None = None, **options: object) -> Trainer:
    given = {"batch": 8, **options}
    return Trainer(model or convolutional(), losses.CrossEntropy(), optim.SGD(0.1), **given)  # type: ignore[arg-type]


def test_fit_learns_and_keeps_a_history() -> None:
    data = images(32)
    stream = io.StringIO()
    result = make().fit(
        data, 6, validation=data, metrics=[metrics.Accuracy()], callbacks=[callbacks.ProgressBar(stream)]
    )
    assert len(result.history) == 6
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert set(result.history[0]) == {"loss", "learning_rate", "validation_loss", "validation_accuracy", "seconds"}
    assert "epoch 6" in stream.getvalue()


def test_evaluation_is_the_loss_of_the_predictor() -> None:
    trainer = make()
    x, y = images(13)
    trainer.step(x[:8], y[:8])
    logits = hs.Predictor(trainer.model(), 8)(x).astype(np.float64)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(13), y])
    found = trainer.evaluate((x, y))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(axis=1) == y).mean())


def test_cached_features_train_as_uncached_ones() -> None:
    data = images(32)
    a, b = make(trainable="head"), make(trainable="head")
    a.fit(data, 3)
    b.fit(data, 3, cache_features=True)
    for name, value in a.parameters().items():
        np.testing.assert_array_equal(value, b.parameters()[name])


def test_early_stopping_is_resumed_where_it_stood(tmp_path: Path) -> None:
    def started() -> Trainer:
        trainer = make(perceptron())
        trainer.learning_rate = 0.0
        return trainer

    def fit(trainer: Trainer, epochs: int) -> FitResult:
        return trainer.fit(rows(16), epochs, callbacks=[callbacks.EarlyStop("loss", patience=4)])

    assert len(fit(started(), 50).history) == 5
    trainer = started()
    fit(trainer, 3)
    trainer.save_checkpoint(tmp_path / "c.hsp")
    assert len(fit(Trainer.from_checkpoint(tmp_path / "c.hsp"), 50).history) == 5
    with pytest.raises(hs.OptionError, match="accuracy"):
        started().fit(rows(16), 2, callbacks=[callbacks.EarlyStop("accuracy")])


def test_a_rate_set_by_a_callback_is_that_of_the_step_a_resumed_run_makes_next(tmp_path: Path) -> None:
    rates: list[float] = []

    class Seen(callbacks.Callback):
        def on_step(self, trainer: Trainer, result: hs.StepResult) -> bool | None:
            rates.append(result.learning_rate)
            return len(rates) == 3

    path = tmp_path / "c.hsp"
    told = [callbacks.CheckpointSaver(path, every=1), callbacks.LearningRate(lambda n: 0.1 / (n + 1)), Seen()]
    make(perceptron()).fit(rows(48), 1, callbacks=told)
    resumed = Trainer.from_checkpoint(path)
    resumed.fit(rows(48), 1, callbacks=told[1:])
    np.testing.assert_allclose(rates, [0.1 / (n + 1) for n in range(6)])


def test_early_stopping_ends_the_fit() -> None:
    trainer = make(perceptron())
    trainer.learning_rate = 0.0
    stop = callbacks.EarlyStop("loss", patience=2)
    result = trainer.fit(rows(16), 50, callbacks=[stop])
    assert result.stopped
    assert len(result.history) == 3


def test_a_schedule_sets_the_rate_of_each_step() -> None:
    trainer = make(perceptron())
    trainer.schedule = schedules.WarmUp(4, schedules.StepDecay(2, 0.5))
    x, y = rows()
    found = [trainer.step(x, y).learning_rate for _ in range(9)]
    expected = [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.05, 0.05, 0.025]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_plateau_lowers_the_rate() -> None:
    schedule = schedules.Plateau(patience=1, gamma=0.5)
    factors = []
    for value in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1):
        schedule.observe(value)
        factors.append(schedule.factor(0))
    assert factors == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    again = schedules.from_description(schedules.describe(schedules.WarmUp(3, schedule)))
    assert again.factor(10) == 0.25


def test_metrics() -> None:
    outputs = np.array([[3, 1, 2], [1, 3, 2], [1, 2, 3], [3, 2, 1]], np.float32)
    labels = np.array([0, 2, 2, 1])
    for metric, expected in [
        (metrics.Accuracy(), {"accuracy": 0.5}),
        (metrics.TopK(2), {"top_2": 1.0}),
        (metrics.PrecisionRecallF1(3), {"precision": 0.5, "recall": 0.5, "f1": (2 / 3 + 0 + 2 / 3) / 3}),
    ]:
        metric.update(outputs[:2], labels[:2])
        metric.update(outputs[2:], labels[2:])
        assert metric.result() == pytest.approx(expected)
    matrix = metrics.ConfusionMatrix(3)
    matrix.update(outputs, labels)
    assert matrix.matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_a_spliced_head_is_what_is_trained() -> None:
    backbone = convolutional()
    model = hs.splice(backbone, 7)
    assert model.metadata["head"] == "head."
    trainer = make(model, trainable="head")
    assert all(n.startswith("head.") for n in trainer.trainable)
    x, y = images(8, classes=7)
    first = trainer.step(x, y).loss
    for _ in range(40):
        last = trainer.step(x, y).loss
    assert last < 0.9 * first
    for name, value in backbone.parameters().items():
        if name in trainer.parameters():
            np.testing.assert_array_equal(trainer.parameters()[name], value)
    with pytest.raises(hs.ShapeError, match="features"):
        hs.splice(backbone, perceptron())


def test_one_name_is_no_list_of_classes() -> None:
    with pytest.raises(hs.OptionError, match="head is 'cat'; it can be a graph, a list of names of classes"):
        hs.splice(perceptron(), "cat")


def test_a_head_is_told_from_layers_of_the_backbone_that_are_named_so() -> None:
    backbone = hs.zoo.mobilenet_v2(classes=5, width=0.25, image_size=32)
    assert any(name.startswith("head.") for name in backbone.parameters())
    model = hs.splice(backbone, ["cat", "dog"])
    assert make(model, trainable="head").trainable == ("new_head.classifier.weight", "new_head.classifier.bias")
    assert class_names(model) == ("cat", "dog")
    again = hs.splice(model, 3)
    assert class_names(again) is None
    assert make(again, trainable="head").trainable == ("new_head.classifier.weight", "new_head.classifier.bias")


def test_the_last_blocks_are_trained_with_what_comes_after() -> None:
    model = hs.splice(hs.zoo.mobilenet_v2(classes=5, width=0.25, image_size=32), 2)
    trained = make(model, trainable="last:2").trainable
    assert {n.split(".")[1] for n in trained if n.startswith("blocks.")} == {"15", "16"}
    assert {n.split(".")[0] for n in trained} == {"blocks", "head", "new_head"}
    for wrong, words in [("last:0", "17 blocks"), ("last:18", "last:1 to last:17"), ("last:x", "17 blocks")]:
        with pytest.raises(hs.OptionError, match=words):
            make(model, trainable=wrong)
    with pytest.raises(hs.OptionError, match="no parameter is named"):
        make(perceptron(), trainable="last:1")


@pytest.mark.parametrize(("weights", "tolerance"), [("float32", 1e-4), ("int8", 0.1)])
def test_an_exported_model_predicts_alike(tmp_path: Path, weights: str, tolerance: float) -> None:
    trainer = make(convolutional(dropout=0.3))
    x, y = images()
    for _ in range(5):
        trainer.step(x, y)
    trainer.export(tmp_path / "m.hsp", weights=weights)
    model = hs.load(tmp_path / "m.hsp")
    assert not {n.op for n in model.nodes} & {"batch_norm", "dropout"}
    expected = hs.Predictor(trainer.model(), 8)(x)
    error = np.linalg.norm(hs.Predictor(model, 8)(x) - expected) / np.linalg.norm(expected)
    assert error < tolerance


def test_a_model_saved_in_8_bits_goes_on_learning(tmp_path: Path) -> None:
    trainer = make()
    x, y = images()
    for _ in range(10):
        trainer.step(x, y)
    sizes = {}
    for weights in ("float32", "int8"):
        hs.save(trainer.model(), tmp_path / f"{weights}.hsp", weights=weights)
        sizes[weights] = (tmp_path / f"{weights}.hsp").stat().st_size
        trainer.export(tmp_path / f"{weights}-exported.hsp", weights=weights)
    whole = trainer.loss_of(x, y)
    for name in ("int8", "int8-exported"):
        again = make(hs.load(tmp_path / f"{name}.hsp"))
        first = again.step(x, y).loss
        if name == "int8":
            assert first == pytest.approx(whole, rel=0.05)
        for _ in range(20):
            last = again.step(x, y).loss
        assert last < 0.9 * first, name
    large = hs.zoo.mobilenet_v2(classes=10)
    for weights in ("float32", "int8"):
        hs.save(large, tmp_path / f"{weights}.hsp", weights=weights)
        sizes[weights] = (tmp_path / f"{weights}.hsp").stat().st_size
    assert sizes["int8"] < 0.3 * sizes["float32"]


def test_a_loss_of_ones_own_is_a_function_or_a_class(tmp_path: Path) -> None:
    def cubic(build, outputs, targets):  # type: ignore[no-untyped-def]
        d = build.add("abs", [build.add("sub", [outputs[0], targets[0]])])
        return build.add("reduce_mean", [build.add("mul", [build.add("square", [d]), d])], axes=(0, 1))

    class Cubic(losses.Loss):
        def __init__(self) -> None:
            self.not_json = np.ones(3)

        def build(self, build, outputs, targets):  # type: ignore[no-untyped-def]
            return cubic(build, outputs, targets)

    x, _ = rows()
    y = np.ones((8, 3), np.float32)
    predicted = hs.Predictor(perceptron(), 8)(x)
    for loss in (cubic, Cubic()):
        trainer = Trainer(perceptron(), loss, optim.SGD(0.1), batch=8)  # type: ignore[arg-type]
        assert trainer.step(x, y).loss == pytest.approx(float((np.abs(predicted - y) ** 3).mean()), rel=1e-5)
        trainer.save_checkpoint(tmp_path / "c.hsp")
        with pytest.raises(hs.OptionError, match="pass loss"):
            Trainer.from_checkpoint(tmp_path / "c.hsp")
        resumed = Trainer.from_checkpoint(tmp_path / "c.hsp", loss=loss)
        assert resumed.step(x, y) == trainer.step(x, y)
    for nonsense in ("cross entropy", None, losses.CrossEntropy):
        with pytest.raises(hs.OptionError, match="loss"):
            Trainer(perceptron(), nonsense, optim.SGD(0.1))  # type: ignore[arg-type]
