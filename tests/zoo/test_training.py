"""Every network of images and classes trains, in float32 and mixed precision: 32 samples by heart; its head alone; its
last blocks. (TinyBERT and YOLOv3 have files of their own.)"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.graph import Graph
from tests.training.small import images

CLASSES = 4
#: With options beside those of `small`.
NETWORKS: dict[str, dict[str, object]] = {
    **{name: {} for name in hs.zoo.__all__ if name != "tinybert" and "yolo" not in name},
    "googlenet response": {"norm": "response", "image_size": 64},
    "googlenet auxiliary": {"auxiliary": True, "image_size": 64},
}
PRECISIONS = ("float32", "mixed")


def small(name: str) -> Graph:
    options = {"classes": CLASSES, "width": 0.25, "image_size": 32, "dropout": 0.0, **NETWORKS[name]}
    return getattr(hs.zoo, name.split()[0])(**options)


def trainer(graph: Graph, rate: float = 3e-3, **options: object) -> hs.Trainer:
    loss: losses.Loss = losses.CrossEntropy()
    if len(graph.outputs) > 1:
        loss = losses.Auxiliary(loss, 0.3)
    # one thread, as the tests themselves run side by side
    return hs.Trainer(graph, loss, optim.Adam(rate), batch=32, threads=1, **options)  # type: ignore[arg-type]


def samples(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    return images(32, graph.tensors["image"].shape[1], CLASSES)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_32_samples_by_heart(name: str, precision: str) -> None:
    graph = small(name)
    x, y = samples(graph)
    t = trainer(graph, precision=precision)
    history = [t.step(x, y).loss]
    while history[-1] > 0.05 * history[0] and len(history) < 100:
        history.append(t.step(x, y).loss)
    assert history[-1] <= 0.05 * history[0], f"loss after {len(history)} steps: {history[-1]}"


@cache
def acquainted(name: str) -> Graph:
    """The network with its initial weights, and norms that know the samples: without them a frozen part gives numbers
    of any size."""
    graph = small(name)
    for node in graph.nodes:
        if node.op == "batch_norm":
            node.attributes["momentum"] = 1.0
    t = trainer(graph)
    t.compute_gradients(*samples(graph))
    return t.model()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_its_head_alone_learns(name: str, precision: str) -> None:
    graph = acquainted(name)
    x, y = samples(graph)
    t = trainer(graph, 0.03, trainable="head", precision=precision)
    assert set(t.trainable) == {"classifier.weight", "classifier.bias"}
    before = t.parameters()
    first = t.step(x, y).loss
    for _ in range(40):
        last = t.step(x, y).loss
    assert last < 0.95 * first
    assert moved(t, before) == set(t.trainable)
    assert not any(
        "backward" in n.op and "linear" not in n.op for p in t._programs.compiled.values() for n in p.graph.nodes
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_its_last_blocks_learn(name: str, precision: str) -> None:
    graph = acquainted(name)
    x, y = samples(graph)
    t = trainer(graph, trainable="last:2", precision=precision)
    assert {"classifier.weight", "classifier.bias"} < set(t.trainable) < set(graph.parameters())
    before = t.parameters()
    first = t.step(x, y).loss
    for _ in range(15):
        last = t.step(x, y).loss
    assert last < 0.8 * first
    assert moved(t, before) == set(t.trainable)


def moved(t: hs.Trainer, before: dict[str, np.ndarray]) -> set[str]:
    """Names of the parameters that training has changed."""
    return {n for n, v in t.parameters().items() if not np.array_equal(v, before[n])}


def test_auxiliary_heads_are_trained_and_not_exported(tmp_path: object) -> None:
    graph = small("googlenet auxiliary")
    x, y = samples(graph)
    t = trainer(graph)
    before = t.parameters()
    t.step(x, y)
    assert all((v != before[n]).any() for n, v in t.parameters().items() if n.startswith("aux"))
    path = tmp_path / "net.hsp"  # type: ignore[operator]
    t.save_checkpoint(path)
    again = hs.Trainer.from_checkpoint(path)
    assert again.step(x, y).loss == t.step(x, y).loss
    t.export(path)
    exported = hs.load(path)
    assert exported.outputs == ["logits"]
    assert not any(n.startswith("aux") for n in exported.tensors)
    assert set(t.evaluate([(x, y)])) == {"loss", "accuracy"}
