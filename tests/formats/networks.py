"""Small networks that the format tests save and load, and what must be equal afterwards."""

from __future__ import annotations

import numpy as np

import homespun.ops  # noqa: F401  (what the graph's checks know operators from)
from homespun.graph import Graph, GraphBuilder


def small_network(seed: int = 0) -> Graph:
    """Convolutions of three kinds, norm, activation, residual, pooling, linear; weights far from initial values."""
    b = GraphBuilder("small", seed)
    x = b.input("image", (9, 9, 3))
    x = stem = b.op("relu6", b.batch_norm(b.conv(x, "stem", inputs=3, outputs=8, kernel=3), "norm", 8), name="act")
    x = b.conv(x, "depthwise", inputs=8, outputs=8, kernel=3, groups=8, padding="same_upper")
    x = b.op("add", b.conv(x, "project", inputs=8, outputs=8, bias=True), stem, name="sum")
    x = b.op("clip", x, name="clipped", low=-1.0, high=float("inf"))
    x = b.op("flatten", b.op("global_average_pool", x, name="pool"), name="features")
    graph = b.build(b.linear(x, "classifier", 8, 4), x)
    graph.metadata.update({"classes": "cat,dog,海,🏖", "licence": "Apache-2.0"})
    random = np.random.default_rng(seed)
    for t in graph.with_role("parameter", "state"):
        t.data = (random.uniform(0.1, 1.5, t.shape) * random.choice([0.1, 1, 10])).astype(np.float32)
    return graph


def image(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((batch, 9, 9, 3)).astype(np.float32)


def assert_same(a: Graph, b: Graph, *, data: bool = True) -> None:
    """Everything of a graph that a file must keep."""
    assert (a.name, a.inputs, a.outputs, a.metadata) == (b.name, b.inputs, b.outputs, b.metadata)
    assert [(n.op, n.name, n.inputs, n.outputs, n.attributes) for n in a.nodes] == [
        (n.op, n.name, n.inputs, n.outputs, n.attributes) for n in b.nodes
    ]
    carried = [t for t in a.tensors.values() if t.role != "activation"]
    assert [(t.name, t.role, t.shape, t.dtype) for t in carried] == [
        (t.name, t.role, t.shape, t.dtype) for t in b.tensors.values() if t.role != "activation"
    ]
    for t in carried if data else ():
        if t.data is not None:
            np.testing.assert_array_equal(t.data, b.data(t.name))
