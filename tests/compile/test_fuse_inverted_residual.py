"""The pass that makes one node of an inverted-residual block: same result, and hands off where it does not fit."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun.compile.passes import (
    fold_batch_norm,
    for_inference,
    fuse_activation,
    fuse_inverted_residual,
    fuse_residual,
)
from homespun.graph import Graph
from homespun.ops import inverted_residual


def prepared(model: Graph) -> Graph:
    graph = model.copy()
    for simplify in (fold_batch_norm, fuse_residual, fuse_activation):
        simplify(graph)
    return graph


def count(graph: Graph, op: str) -> int:
    return sum(node.op == op for node in graph.nodes)


@pytest.mark.parametrize("shared_image_bytes", [0, 1 << 60])
@pytest.mark.parametrize("build", [hs.zoo.mobilenet_v1, hs.zoo.mobilenet_v2, hs.zoo.efficientnet_lite0])
def test_same_result(build: object, shared_image_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused and lowered to one kernel or to three, or not fused at all: the network computes the same."""
    model = build(classes=7, image_size=64)  # type: ignore[operator]
    x = np.random.default_rng(0).standard_normal((3, 64, 64, 3), np.float32)
    fused = for_inference(model)
    assert count(fused, "inverted_residual") >= 13
    assert not fuse_inverted_residual(fused)
    monkeypatch.setattr(inverted_residual, "SHARED_IMAGE_BYTES", shared_image_bytes)
    got = hs.Predictor(model, batch=3, threads=2)(x)
    monkeypatch.setattr("homespun.compile.passes.inference.fuse_inverted_residual", lambda graph: False)
    plain = hs.Predictor(model, batch=3, threads=2)(x)
    np.testing.assert_allclose(got, plain, rtol=1e-4, atol=1e-5)


def test_a_hidden_tensor_that_is_read_elsewhere_stays() -> None:
    graph = prepared(hs.zoo.mobilenet_v2(classes=10))
    first = next(n for n in graph.nodes if n.name == "blocks.1.depthwise.conv")
    graph.outputs = [*graph.outputs, first.outputs[0]]  # somebody wants to see it
    before = [n.name for n in graph.nodes if n.name.startswith("blocks.1.")]
    fuse_inverted_residual(graph)
    assert [n.name for n in graph.nodes if n.name.startswith("blocks.1.")] == before
