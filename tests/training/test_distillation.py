"""Learning from a teacher: the student comes nearer, the loss is what it says, and a run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph

CLASSES = 4


def network(seed: int, width: int, size: int = 8, metadata: dict[str, str] | None = None) -> Graph:
    b = hs.GraphBuilder("small", seed)
    x = b.conv(b.input("image", (size, size, 3)), "stem", inputs=3, outputs=width, kernel=3, stride=2)
    x = b.op("relu", b.batch_norm(x, "norm", width))
    x = b.op("flatten", b.op("global_average_pool", x))
    b.graph.metadata.update(metadata or {})
    return b.build(b.linear(x, "classifier", width, CLASSES, std=1.0))


def pictures(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((count, 8, 8, 3)).astype(np.float32), random.integers(0, CLASSES, count)


def divergence(teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0) -> float:
    """Mean KL divergence of softened predictions, by its definition."""
    p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum(1, keepdims=True) for z in (teacher, student))
    return float((p * np.log(p / q)).sum(1).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def trainer_of(student: Graph, labels: float = 0.0) -> hs.Trainer:
    return hs.Trainer(student, hs.losses.Distillation(2.0, labels), hs.optim.Adam(0.01), batch=8)


def test_the_loss_is_a_mean_of_both_parts() -> None:
    student, teacher = network(0, 8), network(1, 16)
    x, y = pictures(8)
    logits = hs.Predictor(teacher)(x)
    trainer = trainer_of(student, labels=0.25)
    probe = student.copy()
    probe.outputs = ["linear" if "linear" in probe.tensors else probe.outputs[0]]
    plain = hs.Trainer(student, hs.losses.Distillation(2.0), hs.optim.SGD(0.0), batch=8)
    hard = hs.Trainer(student, hs.losses.CrossEntropy(), hs.optim.SGD(0.0), batch=8)
    want = 0.25 * hard.loss_of(x, y) + 0.75 * plain.loss_of(x, logits)
    assert trainer.loss_of(x, [y, logits]) == pytest.approx(want, rel=1e-5)
    result = trainer.evaluate([(x, (y, logits))])
    own = hs.Predictor(student)(x)
    wanted = 0.25 * cross_entropy(own, y) + 0.75 * 4.0 * divergence(logits, own, 2.0)
    assert result["loss"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("labels", [0.0, 0.3])
def test_a_student_comes_nearer_to_its_teacher(labels: float) -> None:
    student, teacher = network(0, 8), network(1, 16)
    x, y = pictures()
    want = hs.Predictor(teacher)(x)
    taught = y if labels == 0 else want.argmax(1)
    trainer = trainer_of(student, labels)
    before = divergence(want, hs.Predictor(student)(x))
    result = trainer.distill(teacher, hs.data.Arrays(x, taught), epochs=20, validation=hs.data.Arrays(x, taught))
    assert divergence(want, hs.Predictor(trainer.model())(x)) < 0.5 * before
    assert result.history[-1]["validation_loss"] < result.history[0]["validation_loss"]


def test_the_teacher_sees_pictures_as_it_was_trained_with() -> None:
    ours, theirs = ({"input_mean": m, "input_scale": s} for m, s in (("100,110,120", "50"), ("127", "128")))
    student, teacher = network(0, 8, metadata=ours), network(1, 16, metadata=theirs)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    data = hs.data.Arrays(pixels, np.zeros(8, np.int64), like=student, shuffle=False)
    logits = hs.Predictor(teacher)(hs.data.Preprocessing.of(teacher).apply(pixels))
    trainer = trainer_of(student)
    x = hs.data.Preprocessing.of(student).apply(pixels)
    want = trainer.loss_of(x, logits)
    result = trainer.distill(teacher, data, epochs=1)
    assert result.history[0]["loss"] == pytest.approx(want, rel=1e-4)


def test_a_resumed_run_ends_where_the_other_does(tmp_path: Path) -> None:
    student, teacher = network(0, 8), network(1, 16)
    x, y = pictures()
    data = hs.data.Arrays(x, y, seed=3)
    whole = trainer_of(student, 0.3)
    whole.distill(teacher, data, epochs=3)

    class Stop(hs.callbacks.Callback):
        def on_step(self, trainer: hs.Trainer, result: Any) -> bool:
            return trainer.step_count == 6

    first = trainer_of(student, 0.3)
    first.distill(teacher, data, epochs=3, callbacks=[Stop()])
    first.save_checkpoint(tmp_path / "part.hsp")
    second = hs.Trainer.from_checkpoint(tmp_path / "part.hsp")
    second.distill(teacher, data, epochs=3)
    for name, value in whole.parameters().items():
        np.testing.assert_array_equal(second.parameters()[name], value)


def test_features_of_the_frozen_part_can_be_kept() -> None:
    student, teacher = network(0, 8), network(1, 16)
    x, y = pictures()
    losses = []
    for kept in (False, True):
        trainer = hs.Trainer(
            student, hs.losses.Distillation(2.0, 0.3), hs.optim.SGD(0.1), batch=8, trainable="classifier.*"
        )
        data = hs.data.Arrays(x, y, shuffle=False)
        losses.append(trainer.distill(teacher, data, epochs=2, cache_features=kept).history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    student, x_y = network(0, 8), pictures(8)
    with pytest.raises(hs.OptionError, match="CrossEntropy"):
        hs.Trainer(student, hs.losses.CrossEntropy(), hs.optim.SGD(0.1)).distill(network(1, 8), x_y)
    with pytest.raises(hs.ShapeError, match="image_size"):
        trainer_of(student).distill(network(1, 8, size=16), x_y)
    with pytest.raises(hs.TrainingError, match="label 9"):
        trainer_of(student, 0.5).distill(network(1, 8), (x_y[0], x_y[1] + 9 - x_y[1]))
    for options in ({"temperature": 0.0}, {"labels": 1.0}, {"labels": -0.1}):
        with pytest.raises(hs.OptionError):
            hs.losses.Distillation(**options)


def test_features_of_a_pruned_network_are_those_that_were_not_pruned() -> None:
    b = hs.GraphBuilder("residual", seed=0)
    x = b.conv(b.input("image", (8, 8, 3)), "stem", inputs=3, outputs=8)
    for i in range(2):
        y = b.op("relu", b.conv(x, f"expand{i}", inputs=8, outputs=32))
        x = b.op("add", x, b.conv(y, f"project{i}", inputs=32, outputs=8), name=f"sum{i}")
    teacher = b.build(b.linear(b.op("flatten", b.op("global_average_pool", x)), "classifier", 8, CLASSES))
    importance = {n: np.full(a.shape, float("expand" not in n), np.float32) for n, a in teacher.parameters().items()}
    student = hs.prune_channels(teacher, keep_flops=0.6, importance=importance, spread="global")
    assert student.data("expand1.weight").shape[-1] < 32
    matched = hs.match_features(student, teacher)
    assert matched.outputs == [*student.outputs, "sum0", "flatten"]  # the last that a layer reads, by height and width
    assert len(student.outputs) == 1
    with pytest.raises(hs.ModelError, match="no tensor of the same name and shape"):
        hs.match_features(network(0, 8), network(1, 12))


@pytest.mark.parametrize("labels", [0.0, 0.25])
def test_features_count_by_their_relative_error(labels: float) -> None:
    teacher = network(1, 8)
    student = hs.match_features(network(0, 8), teacher)
    assert student.outputs[1:] == ["flatten"]
    x, y = pictures(8)
    probe = teacher.copy()
    probe.outputs = [teacher.outputs[0], "flatten"]
    logits, features = hs.Predictor(probe)(x)
    own = hs.Predictor(student)(x)
    trainer = hs.Trainer(student, hs.losses.Distillation(2.0, labels, 3.0), hs.optim.SGD(0.0), batch=8)
    targets = [y, logits, features] if labels else [logits, features]
    soft = 4.0 * divergence(logits, own[0], 2.0)
    want = labels * cross_entropy(own[0], y) + (1 - labels) * soft
    want += 3.0 * np.square(own[1] - features).mean() / np.square(features).mean()
    assert trainer.evaluate([(x, tuple(targets))])["loss"] == pytest.approx(want, rel=1e-4)


def test_a_student_comes_nearer_in_its_features_and_leaves_without_them(tmp_path: Path) -> None:
    x, y = pictures(32)
    teacher = network(1, 8)
    student = hs.match_features(network(0, 8), teacher)
    trainer = hs.Trainer(student, hs.losses.Distillation(2.0, features=5.0), hs.optim.Adam(0.02), batch=8)
    probe = teacher.copy()
    probe.outputs = ["flatten"]
    want = hs.Predictor(probe)(x)

    def distance() -> float:
        return float(np.linalg.norm(hs.Predictor(trainer.model())(x)[1] - want) / np.linalg.norm(want))

    before = distance()
    trainer.distill(teacher, hs.data.Arrays(x, y), epochs=30, validation=hs.data.Arrays(x, y))
    assert distance() < 0.5 * before
    trainer.save_checkpoint(tmp_path / "run")
    again = hs.Trainer.from_checkpoint(tmp_path / "run")
    again.distill(teacher, hs.data.Arrays(x, y), epochs=31)
    trainer.export(tmp_path / "student.hsp")
    exported = hs.load(tmp_path / "student.hsp")
    assert len(exported.outputs) == 1
    assert not {"matched_features", "auxiliary_outputs"} & set(exported.metadata)
    np.testing.assert_allclose(hs.Predictor(exported)(x), hs.Predictor(trainer.model())(x)[0], rtol=1e-3, atol=1e-4)
