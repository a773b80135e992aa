"""The training step of every family of the zoo, in stock onnxruntime: loss, parameters and statistics as here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun import zoo
from homespun.graph import Array, Graph
from homespun.training import losses, optim
from homespun.zoo.tinybert import Size
from tests.training.test_onnx_step import Runtime

BATCH = 4


@dataclass(frozen=True)
class Row:
    """A small network of a family, what it is trained with, and targets for it."""

    build: Callable[[], Graph]
    loss: Callable[[Graph], losses.Loss] = lambda graph: losses.CrossEntropy()
    optimizer: Callable[[], optim.Optimizer] = lambda: optim.SGD(0.01, momentum=0.9)
    target: Callable[[np.random.Generator], Array] = lambda random: np.arange(BATCH)


def images(builder: Callable[..., Graph], size: int = 64, width: float = 0.5, **given: Any) -> Callable[[], Graph]:
    return lambda: builder(classes=4, image_size=size, width=width, dropout=0.0, **given)


def text(head: str) -> Callable[[], Graph]:
    size = Size(width=16, heads=2, hidden=32)
    return lambda: zoo.tinybert(3, 2, head, sequence=6, dropout=0.0, vocabulary=50, size=size)


def detector(builder: Callable[..., Graph]) -> Callable[[], Graph]:
    return lambda: builder(classes=3, image_size=64, width=0.125)


def objects(random: np.random.Generator) -> Array:
    """Some objects in each image, two of them in one cell, and rows that are none."""
    found = np.full((BATCH, 6, 5), -1, np.float32)
    for n in range(BATCH):
        many = n + 1
        found[n, :many, 0] = random.integers(0, 3, many)
        found[n, :many, 1:3] = random.uniform(0.05, 1.0, (many, 2))
        found[n, :many, 3:] = random.uniform(0.03, 0.9, (many, 2))
    found[3, 1, 1:] = found[3, 0, 1:]
    return found


def words(random: np.random.Generator) -> Array:
    return np.where(random.random((BATCH, 6)) < 0.5, random.integers(1, 50, (BATCH, 6)), -100)


def masked(graph: Graph) -> losses.Loss:
    return losses.CrossEntropy(ignore=-100)


def yolo(graph: Graph) -> losses.Loss:
    """With a threshold that predictions of fresh weights pass by chance."""
    return losses.Yolo.of(graph, ignore=0.1)


def adamw() -> optim.Optimizer:
    return optim.AdamW(1e-3, epsilon=1e-3)


FAMILIES: dict[str, Row] = {
    "mobilenet_v1": Row(images(zoo.mobilenet_v1)),
    "mobilenet_v2": Row(images(zoo.mobilenet_v2)),
    "mobilenet_v3_large": Row(images(zoo.mobilenet_v3_large)),
    "mobilenet_v3_small": Row(images(zoo.mobilenet_v3_small), optimizer=lambda: optim.RMSprop(1e-3, epsilon=1e-2)),
    "efficientnet_b0": Row(images(zoo.efficientnet_b0)),
    "efficientnet_lite0": Row(images(zoo.efficientnet_lite0)),
    "googlenet": Row(images(zoo.googlenet, width=0.25)),
    "googlenet with response norm": Row(images(zoo.googlenet, width=0.25, norm="response")),
    "googlenet with auxiliary heads": Row(
        images(zoo.googlenet, 96, 0.25, auxiliary=True), lambda graph: losses.Auxiliary(losses.CrossEntropy())
    ),
    "densenet121": Row(images(zoo.densenet121)),
    "shufflenet_v1": Row(images(zoo.shufflenet_v1)),
    "shufflenet_v2": Row(images(zoo.shufflenet_v2)),
    "tinybert classification": Row(text("classification"), masked, adamw, lambda random: np.arange(BATCH) % 3),
    "tinybert masked_lm": Row(text("masked_lm"), masked, adamw, words),
    "yolov3": Row(detector(zoo.yolov3), yolo, lambda: optim.SGD(1e-4, momentum=0.9), objects),
    "yolov3_tiny": Row(detector(zoo.yolov3_tiny), yolo, lambda: optim.SGD(1e-4), objects),
}


def inputs(graph: Graph, random: np.random.Generator) -> list[Array]:
    """Images of normal numbers; for a transformer words, a mask and segments."""
    if len(graph.inputs) == 1:
        return [random.standard_normal((BATCH, *graph.tensors[graph.inputs[0]].shape[1:])).astype(np.float32)]
    ids = random.integers(1, 50, (BATCH, 6)).astype(np.int32)
    return [ids, (np.arange(6) < np.array([[6], [4], [1], [5]])).astype(np.int32), np.zeros_like(ids)]


@pytest.mark.parametrize("row", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_step_is_the_trainers(row: Row, tmp_path: Path) -> None:
    """One step: fifty norms over fresh weights make so much of the last bit that our own instruction sets, too, are a
    percent apart in the update."""
    graph, random = row.build(), np.random.default_rng(0)
    for node in graph.nodes:
        if node.op == "dropout":  # auxiliary heads have their own, whatever the network's
            node.attributes = {**node.attributes, "rate": 0.0}
    trainer = hs.Trainer(graph, row.loss(graph), row.optimizer(), batch=BATCH)
    x, y = inputs(graph, random), row.target(random)
    trainer.export_step(tmp_path / "step.onnx", targets=y)
    runtime = Runtime(tmp_path / "step.onnx")
    feeds = {n: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for n, v in zip(graph.inputs, x, strict=True)}
    feeds["target"] = y.astype(np.float32 if y.dtype == np.float32 else np.int32)

    before = trainer.parameters()
    loss = runtime.step(**feeds)
    assert loss == pytest.approx(trainer.step(x, y).loss, rel=1e-5)
    ours = trainer.parameters()
    assert set(ours) <= set(runtime.state)
    off = np.concatenate([(runtime.state[n] - ours[n]).ravel() for n in ours])
    moved = np.concatenate([(ours[n] - before[n]).ravel() for n in ours])
    assert np.linalg.norm(off) < 0.05 * np.linalg.norm(moved)
    for name, value in trainer.state().items():
        np.testing.assert_allclose(runtime.state[name], value, atol=1e-3, rtol=1e-3, err_msg=name)


def test_every_family_of_the_zoo_is_here() -> None:
    builders = {n for n in zoo.__all__ if callable(getattr(zoo, n)) and n.islower() and "weights" not in n}
    families = {n.rstrip("0123456789") for n in builders if not n.startswith("load")}
    assert families <= {n.split()[0].rstrip("0123456789") for n in FAMILIES}, families
