"""Against recordings from PyTorch (tools/record_training_goldens.py): optimizers, losses, schedules, a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim, schedules
from homespun.graph import GraphBuilder
from homespun.training import Trainer
from tests.training.small import perceptron

GOLDENS = np.load(Path(__file__).parent / "goldens.npz")

OPTIMIZERS: dict[str, optim.Optimizer] = {
    "sgd": optim.SGD(0.1),
    "momentum": optim.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": optim.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": optim.Adam(0.01),
    "adam_decay": optim.Adam(0.01, betas=(0.8, 0.95), epsilon=1e-6, weight_decay=0.1),
    "adamw": optim.AdamW(0.01, weight_decay=0.1),
    "rmsprop": optim.RMSprop(0.005, smoothing=0.9, momentum=0.5),
    "adagrad": optim.Adagrad(0.05, learning_rate_decay=0.01),
}
NAMES = ("first.weight", "first.bias", "second.weight", "second.bias")


def start(optimizer: optim.Optimizer, isa: str | None = None) -> Trainer:
    trainer = Trainer(perceptron(), losses.CrossEntropy(), optimizer, batch=16, isa=isa)
    trainer.load_parameters({n: GOLDENS[f"perceptron/{n}"].astype(np.float32) for n in NAMES})
    return trainer


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_of_each_optimizer(name: str, isa: str) -> None:
    trainer = start(OPTIMIZERS[name], isa)
    x, y = GOLDENS["perceptron/x"], GOLDENS["perceptron/y"]
    found = [trainer.step(x, y).loss for _ in GOLDENS[f"{name}/losses"]]
    np.testing.assert_allclose(found, GOLDENS[f"{name}/losses"], rtol=2e-4, atol=1e-5)
    for parameter in NAMES:
        np.testing.assert_allclose(
            trainer.parameters()[parameter], GOLDENS[f"{name}/{parameter}"], rtol=2e-3, atol=2e-4, err_msg=parameter
        )


def test_lion_follows_its_paper() -> None:
    """PyTorch has no Lion: algorithm 2 of Chen et al. 2023, written down."""
    trainer = start(optim.Lion(0.01, weight_decay=0.1))
    x, y = GOLDENS["perceptron/x"], GOLDENS["perceptron/y"]
    momentum = {n: np.zeros_like(v) for n, v in trainer.parameters().items()}
    for _ in range(5):
        weights, gradients = trainer.parameters(), start_from(trainer).compute_gradients(x, y)
        trainer.step(x, y)
        for n, g in gradients.items():
            update = np.sign(0.9 * momentum[n] + 0.1 * g)
            expected = weights[n] - 0.01 * (update + 0.1 * weights[n])
            momentum[n] = 0.99 * momentum[n] + 0.01 * g
            np.testing.assert_allclose(trainer.parameters()[n], expected, atol=1e-6)


def start_from(other: Trainer) -> Trainer:
    trainer = start(optim.SGD(0.1))
    trainer.load_parameters(other.parameters())
    return trainer


LOSSES: dict[str, tuple[losses.Loss, str]] = {
    "cross_entropy": (losses.CrossEntropy(), "labels"),
    "smoothed": (losses.CrossEntropy(smoothing=0.1), "labels"),
    "soft_targets": (losses.CrossEntropy(), "soft"),
    "soft_smoothed": (losses.CrossEntropy(smoothing=0.2), "soft"),
    "binary": (losses.BinaryCrossEntropy(), "shares"),
    "mse": (losses.MSE(), "other"),
    "l1": (losses.L1(), "other"),
    "huber": (losses.Huber(0.7), "other"),
    "smooth_l1": (losses.SmoothL1(0.7), "other"),
    "distillation": (losses.Distillation(3.0), "other"),
}


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name: str, isa: str) -> None:
    loss, target = LOSSES[name]
    build = GraphBuilder("logits")
    build.input("unused", (1,))
    logits = build.parameter("logits", GOLDENS["losses/logits"])
    trainer = Trainer(build.build(build.op("identity", logits)), loss, optim.SGD(1.0), batch=7, isa=isa)
    unused = np.zeros((7, 1), np.float32)
    y = GOLDENS[f"losses/{target}"]
    assert trainer.loss_of(unused, y) == pytest.approx(float(GOLDENS[f"losses/{name}"]), rel=1e-5)
    found = trainer.compute_gradients(unused, y)["logits"]
    np.testing.assert_allclose(found, GOLDENS[f"losses/{name}/gradient"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("cosine", schedules.Cosine(40, least=0.01)),
        ("one_cycle", schedules.OneCycle(40)),
        ("step", schedules.StepDecay(7, 0.3)),
    ],
)
def test_schedules(name: str, schedule: Any) -> None:
    found = [schedule.factor(i) for i in range(40)]
    np.testing.assert_allclose(found, GOLDENS[f"schedules/{name}"], rtol=1e-6, atol=1e-8)


def test_a_network_with_batch_norm() -> None:
    model = hs.zoo.mobilenet_v2(classes=5, width=0.35, image_size=64, dropout=0.0, seed=1)
    random = np.random.default_rng(2)
    x, y = random.standard_normal((16, 64, 64, 3)).astype(np.float32), GOLDENS["mobilenet/y"]
    trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(0.0005, momentum=0.9), batch=16)
    gradients = Trainer(model, losses.CrossEntropy(), optim.SGD(0.1), batch=16).compute_gradients(x, y)
    for name in ("stem.conv.weight", "blocks.3.depthwise.conv.weight", "blocks.8.expand.norm.bias"):
        expected = GOLDENS[f"mobilenet/gradient/{name}"]
        assert np.linalg.norm(gradients[name] - expected) < 0.02 * np.linalg.norm(expected), name
    norms = np.array([np.linalg.norm(gradients[n]) for n in model.parameters()])
    # The smallest are zero but for rounding, or hang on a few values at the corners of ReLU6; the largest are above 20.
    np.testing.assert_allclose(norms, GOLDENS["mobilenet/norms"], rtol=0.02, atol=1e-4)
    found = [trainer.step(x, y).loss for _ in GOLDENS["mobilenet/losses"]]
    # Values at a corner of ReLU6 to rounding take the other side sooner or later, and the paths part slowly.
    # PyTorch's own float32 is as far from its float64, which this is.
    np.testing.assert_allclose(found[:2], GOLDENS["mobilenet/losses"][:2], rtol=1e-4)
    np.testing.assert_allclose(found[:8], GOLDENS["mobilenet/losses"][:8], rtol=0.06)
    np.testing.assert_allclose(found, GOLDENS["mobilenet/losses"], atol=0.15)
    state = trainer.state()
    np.testing.assert_allclose(state["stem.norm.running_mean"], GOLDENS["mobilenet/running_mean"], atol=1e-3)
    np.testing.assert_allclose(state["stem.norm.running_var"], GOLDENS["mobilenet/running_variance"], rtol=1e-2)


def test_a_networks_parameters_after_twenty_steps() -> None:
    """How far each has moved, and where to. In float64 PyTorch's way; ours is float32."""
    model = hs.zoo.mobilenet_v2(classes=5, width=0.35, image_size=64, dropout=0.0, seed=1)
    random = np.random.default_rng(2)
    x, y = random.standard_normal((16, 64, 64, 3)).astype(np.float32), GOLDENS["mobilenet/y"]
    trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(5e-6, momentum=0.9), batch=16)
    start = trainer.parameters()
    found = [trainer.step(x, y).loss for _ in range(20)]
    np.testing.assert_allclose(found, GOLDENS["mobilenet/gentle/losses"], rtol=1e-3)
    recorded = [k.removeprefix("mobilenet/gentle/") for k in GOLDENS.files if k.startswith("mobilenet/gentle/")]
    for name in (n for n in recorded if n != "losses"):
        moved = np.linalg.norm(GOLDENS[f"mobilenet/gentle/{name}"] - start[name])
        apart = np.linalg.norm(GOLDENS[f"mobilenet/gentle/{name}"] - trainer.parameters()[name])
        assert apart < 0.05 * moved, f"{name}: moved {moved:.2e}, apart {apart:.2e}"
