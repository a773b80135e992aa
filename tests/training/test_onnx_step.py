"""The training step as an ONNX graph: five steps in onnxruntime are five steps of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import homespun as hs
from homespun.graph import Array, Graph
from homespun.training import Trainer, losses, optim
from homespun.zoo.tinybert import Size

STEPS = 5


class Runtime:
    """Stock onnxruntime around a step: what comes out as NAME/next goes in as NAME."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.state: dict[str, Array] = {}

    def step(self, **feeds: Array) -> float:
        results = dict(zip(self.outputs, self.session.run(None, {**feeds, **self.state}), strict=True))
        self.state = {n.removesuffix("/next"): v for n, v in results.items() if n.endswith("/next")}
        return float(results["loss"])


def network(activation: str = "relu6", dropout: float = 0.0) -> Graph:
    """Every kind of layer: padded, strided, grouped and depthwise convolutions, norms, pools, a gate, linear layers."""
    b = hs.GraphBuilder("network", seed=2)
    x = b.input("image", (13, 12, 3))

    def block(y: str, name: str, act: str = activation, **conv: Any) -> str:
        y = b.batch_norm(b.conv(y, name, **conv), f"{name}.norm", conv["outputs"])
        return str(b.op(act, y, name=f"{name}.act")) if act else y

    y = block(x, "stem", inputs=3, outputs=8, kernel=3, stride=2, padding="same_upper")
    skip = y = b.op("max_pool", y, name="pool", kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
    y = block(y, "expand", inputs=8, outputs=16)
    y = block(y, "depthwise", inputs=16, outputs=16, kernel=3, groups=16)
    gate = b.op(
        "sigmoid", b.conv(b.op("global_average_pool", y, name="mean"), "gate", inputs=16, outputs=16, bias=True)
    )
    y = b.op("mul", y, gate, name="gated")
    y = b.op("add", block(y, "project", act="", inputs=16, outputs=8), skip, name="sum")
    y = b.op("concat", y, b.op(activation, b.conv(y, "side", inputs=8, outputs=4, kernel=3, groups=2)), name="both")
    y = b.op("average_pool", y, name="average", kernel=(2, 2), stride=(2, 2), padding=(1, 0, 0, 1))
    y = block(y, "down", inputs=12, outputs=8, kernel=3, stride=2, groups=2, dilation=1)
    y = b.op("flatten", y, name="flat")
    y = b.op("tanh", b.linear(y, "hidden", 32, 10), name="hidden.act")
    y = b.op("dropout", y, name="drop", rate=dropout)
    return b.build(b.linear(y, "head", 10, 4))


def data(batch: int = 6, steps: int = STEPS) -> list[tuple[Array, Array]]:
    random = np.random.default_rng(4)
    draw = lambda: (random.standard_normal((batch, 13, 12, 3)).astype(np.float32), random.integers(0, 4, batch))  # noqa: E731
    return [draw() for _ in range(steps)]


def same_steps(trainer: Trainer, folder: Path, tolerance: float = 2e-4) -> Runtime:
    """Losses and all that a step changes, after each of five steps."""
    trainer.export_step(folder / "step.onnx")
    runtime = Runtime(folder / "step.onnx")
    for x, y in data():
        want = trainer.step(x, y).loss
        got = runtime.step(image=x.transpose(0, 3, 1, 2), target=y.astype(np.int32))
        assert got == pytest.approx(want, rel=tolerance)
    ours = {**trainer.parameters(trainable_only=True), **trainer.state(), **trainer.optimizer_state()}
    for name, value in ours.items():
        if name in runtime.state:
            scale = float(np.abs(value).max(initial=0)) + 1e-3
            np.testing.assert_allclose(runtime.state[name], value, atol=tolerance * scale, rtol=tolerance, err_msg=name)
    assert set(trainer.parameters(trainable_only=True)) <= set(runtime.state)
    return runtime


OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.SGD(0.05),
    "sgd with all options": lambda: optim.SGD(
        0.05, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=1.0, clip_value=0.1,
        groups=[optim.Group(("head.*",), rate=2.0, weight_decay=0.0)],
    ),
    "adam": lambda: optim.Adam(1e-3, weight_decay=0.01, epsilon=1e-3),
    "adamw": lambda: optim.AdamW(1e-3, epsilon=1e-3),
    "rmsprop": lambda: optim.RMSprop(1e-3, momentum=0.9, epsilon=1e-3),
    "adagrad": lambda: optim.Adagrad(1e-2, learning_rate_decay=0.1, epsilon=1e-3),
    "lion": lambda: optim.Lion(1e-4, weight_decay=0.1),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_five_steps_equal_the_trainers(optimizer: Callable[[], optim.Optimizer], tmp_path: Path) -> None:
    same_steps(Trainer(network(), losses.CrossEntropy(smoothing=0.1), optimizer(), batch=6, isa="portable"), tmp_path)


@pytest.mark.parametrize("activation", ["relu", "hard_swish", "silu", "gelu", "leaky_relu", "hard_sigmoid"])
def test_activations(activation: str, tmp_path: Path) -> None:
    same_steps(Trainer(network(activation), losses.CrossEntropy(), optim.SGD(0.05), batch=6), tmp_path)


@pytest.mark.parametrize("trainable", ["head", ["hidden.*", "head.*"], ["down*", "hidden.*", "head.*"]], ids=str)
def test_what_is_frozen_stays_as_it_is(trainable: Any, tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6, trainable=trainable)
    runtime = same_steps(trainer, tmp_path)
    assert not any(n.startswith(("stem", "expand")) for n in runtime.state)


@pytest.mark.parametrize("head", ["classification", "masked_lm"])
def test_transformers(head: str, tmp_path: Path) -> None:
    size = Size(width=16, heads=2, hidden=32)
    graph = hs.zoo.tinybert(3, 2, head, sequence=6, dropout=0.0, vocabulary=50, size=size)
    trainer = Trainer(graph, losses.CrossEntropy(ignore=-100), optim.AdamW(1e-3, epsilon=1e-3), batch=4)
    trainer.export_step(tmp_path / "step.onnx")
    runtime, random = Runtime(tmp_path / "step.onnx"), np.random.default_rng(0)
    ids = random.integers(1, 50, (4, 6)).astype(np.int32)
    mask = (np.arange(6) < np.array([[6], [4], [1], [5]])).astype(np.int32)
    inputs = dict(zip(graph.inputs, (ids, mask, np.zeros_like(ids)), strict=True))
    y = random.integers(0, 3, 4) if head == "classification" else np.where(random.random((4, 6)) < 0.5, ids, -100)
    for _ in range(STEPS):
        want = trainer.step(list(inputs.values()), y).loss
        assert runtime.step(**inputs, target=y.astype(np.int32)) == pytest.approx(want, rel=1e-4)
    for name, value in trainer.parameters(trainable_only=True).items():
        np.testing.assert_allclose(runtime.state[name], value, atol=2e-4, err_msg=name)


def test_averages_of_the_weights_are_kept(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6, average=0.9)
    runtime = same_steps(trainer, tmp_path)
    averaged = trainer.averaged_parameters()["head.weight"]
    np.testing.assert_allclose(runtime.state["average/head.weight"], averaged, atol=1e-5)


LOSSES = [losses.MSE(), losses.L1(), losses.Huber(0.7), losses.SmoothL1(0.5), losses.Distillation(3.0)]


@pytest.mark.parametrize("loss", [*LOSSES, losses.BinaryCrossEntropy()], ids=lambda v: type(v).__name__)
def test_losses(loss: losses.Loss, tmp_path: Path) -> None:
    trainer = Trainer(network(), loss, optim.SGD(0.05), batch=6)
    trainer.export_step(tmp_path / "step.onnx")
    runtime = Runtime(tmp_path / "step.onnx")
    targets = np.random.default_rng(1).uniform(0, 1, (6, 4)).astype(np.float32)
    for x, _ in data():
        want = trainer.step(x, targets).loss
        assert runtime.step(image=x.transpose(0, 3, 1, 2), target=targets) == pytest.approx(want, rel=1e-4)


def test_dropout_lets_the_loss_fall_too(tmp_path: Path) -> None:
    trainer = Trainer(network(dropout=0.5), losses.CrossEntropy(), optim.SGD(0.05), batch=6)
    trainer.export_step(tmp_path / "step.onnx")
    runtime, (x, y) = Runtime(tmp_path / "step.onnx"), data()[0]
    found = [runtime.step(image=x.transpose(0, 3, 1, 2), target=y.astype(np.int32)) for _ in range(40)]
    assert np.mean(found[-5:]) < 0.7 * np.mean(found[:5])
    assert len({round(f, 6) for f in found[:5]}) == 5


def test_stochastic_depth_leaves_out_the_same_samples_forward_and_backward(tmp_path: Path) -> None:
    """The runtime draws them: how many the gradient has is how many the output has."""
    b = hs.GraphBuilder("blocks")
    x = b.input("x", (4,))
    weight, bias = b.parameter("weight", np.zeros((4, 4), np.float32)), b.parameter("bias", np.ones(4, np.float32))
    y = b.op("dropout", b.op("linear", x, weight, bias), rate=0.5, samples=True)
    trainer = Trainer(b.build(b.op("add", y, x)), losses.MSE(), optim.SGD(0.1), batch=16)
    trainer.export_step(tmp_path / "step.onnx")
    runtime, zeros = Runtime(tmp_path / "step.onnx"), np.zeros((16, 4), np.float32)
    value, seen = np.ones(4), set()
    for _ in range(6):
        kept = runtime.step(x=zeros, target=zeros) * 64 / (2 * value).dot(2 * value)
        assert kept == pytest.approx(round(kept), abs=1e-4)
        value = value - 0.1 * 2 * round(kept) / 64 * 2 * (2 * value)
        np.testing.assert_allclose(runtime.state["bias"], value, rtol=1e-5)
        seen.add(round(kept))
    assert len(seen) > 1


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.Adam(1e-3), batch=6)
    trainer.export_step(tmp_path / "step.onnx")
    runtime, (x, y) = Runtime(tmp_path / "step.onnx"), data()[0]
    bad = np.full_like(x, np.nan)
    assert not np.isfinite(runtime.step(image=bad.transpose(0, 3, 1, 2), target=y.astype(np.int32)))
    for name, value in trainer.parameters().items():
        np.testing.assert_array_equal(runtime.state[name], value, err_msg=name)


def test_a_gradient_that_is_not_finite_stops_the_updates_there_as_here(tmp_path: Path) -> None:
    b = hs.GraphBuilder("steep")
    x = b.op("sqrt", b.op("relu", b.linear(b.input("x", (6,)), "first", 6, 8)))
    trainer = Trainer(b.build(b.linear(x, "second", 8, 3)), losses.CrossEntropy(), optim.Adam(0.1), batch=8)
    trainer.load_parameters({"first.bias": np.zeros(8, np.float32)})
    before = trainer.parameters()
    trainer.export_step(tmp_path / "step.onnx")
    runtime, y = Runtime(tmp_path / "step.onnx"), np.arange(8) % 3
    runtime.step(x=np.zeros((8, 6), np.float32), target=y.astype(np.int32))
    with pytest.raises(hs.TrainingError, match="'second"):
        trainer.step(np.zeros((8, 6), np.float32), y)
    for name, value in trainer.parameters().items():
        np.testing.assert_allclose(runtime.state[name], value, atol=1e-6, err_msg=name)
    changed = {n for n, v in trainer.parameters().items() if not np.array_equal(v, before[n])}
    assert changed == {"second.bias"}  # the second's weights saw nothing but zeros


def test_what_was_trained_there_predicts_there_and_trains_on_here(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6)
    trainer.export_step(tmp_path / "step.onnx", predictor=tmp_path / "predict.onnx")
    runtime = Runtime(tmp_path / "step.onnx")
    for x, y in data():
        trainer.step(x, y)
        runtime.step(image=x.transpose(0, 3, 1, 2), target=y.astype(np.int32))
    session = onnxruntime.InferenceSession(str(tmp_path / "predict.onnx"), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_overridable_initializers()}
    x = data()[0][0]
    feeds = {"image": x.transpose(0, 3, 1, 2), **{n: v for n, v in runtime.state.items() if n in names}}
    (got,) = session.run(None, feeds)
    np.testing.assert_allclose(got, hs.Predictor(trainer.model(), batch=6)(x), atol=1e-3)
    fresh = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6)
    fresh.load_parameters({n: v for n, v in runtime.state.items() if n in fresh.parameters()})


def test_only_standard_operators_are_used_and_the_checker_agrees(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.AdamW(1e-3), batch=2)
    trainer.export_step(tmp_path / "step.onnx", batch=3)
    model = onnx.load(str(tmp_path / "step.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {n.domain for n in model.graph.node} == {""}
    assert [o.domain for o in model.opset_import] == [""]
    inputs = {i.name for i in model.graph.input}
    assert {"image", "target", "learning_rate", "step", "head.weight"} <= inputs
    assert {o.name.removesuffix("/next") for o in model.graph.output} - {"loss"} <= inputs


def test_the_learning_rate_is_the_callers(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6)
    trainer.export_step(tmp_path / "step.onnx")
    runtime, (x, y) = Runtime(tmp_path / "step.onnx"), data()[0]
    runtime.step(image=x.transpose(0, 3, 1, 2), target=y.astype(np.int32), learning_rate=np.asarray(0, np.float32))
    np.testing.assert_array_equal(runtime.state["head.weight"], trainer.parameters()["head.weight"])


def test_mixed_precision_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(network(), losses.CrossEntropy(), optim.SGD(0.05), batch=6, precision="mixed")
    with pytest.raises(hs.OptionError, match="float32"):
        trainer.export_step(tmp_path / "step.onnx")
