"""Small networks and data that the tests of training share."""

from __future__ import annotations

import numpy as np

import homespun.ops  # noqa: F401  (fills the operators' table)
from homespun.graph import Array, Graph, GraphBuilder


def convolutional(classes: int = 4, size: int = 12, dropout: float = 0.0, seed: int = 0) -> Graph:
    """Stem, an inverted residual with a shortcut, a strided one, mean, classifier: all that a MobileNet has."""
    build = GraphBuilder("small", seed)
    x = build.input("image", (size, size, 3))

    def block(
        x: str, name: str, i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> str:
        x = build.conv(x, f"{name}.conv", inputs=i, outputs=o, kernel=kernel, stride=stride, groups=groups)
        x = build.batch_norm(x, f"{name}.norm", o)
        return str(build.op("relu6", x, name=f"{name}.act")) if act else x

    x = block(x, "stem", 3, 8, kernel=3)
    y = block(x, "a.expand", 8, 24)
    y = block(y, "a.depthwise", 24, 24, kernel=3, groups=24)
    y = block(y, "a.project", 24, 8, act=False)
    x = str(build.op("add", y, x, name="a.add"))
    y = block(x, "b.expand", 8, 24)
    y = block(y, "b.depthwise", 24, 24, kernel=3, stride=2, groups=24)
    x = block(y, "b.project", 24, 16, act=False)
    x = str(build.op("flatten", build.op("global_average_pool", x), name="features"))
    if dropout:
        x = str(build.op("dropout", x, rate=dropout))
    return build.build(build.linear(x, "classifier", 16, classes))


def perceptron(inputs: int = 6, classes: int = 3, seed: int = 0) -> Graph:
    """Two linear layers and a tanh between them; no batch norm."""
    build = GraphBuilder("perceptron", seed)
    x = build.input("x", (inputs,))
    x = str(build.op("tanh", build.linear(x, "first", inputs, 16)))
    return build.build(build.linear(x, "second", 16, classes))


def images(count: int = 8, size: int = 12, classes: int = 4, seed: int = 0) -> tuple[Array, Array]:
    """Images whose class shows in their colour and place, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    x = random.standard_normal((count, size, size, 3)).astype(np.float32)
    for i, label in enumerate(labels):
        x[i, :, :, label % 3] += 1.5 * (label + 1) / classes
    return x, labels


def rows(count: int = 8, inputs: int = 6, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Rows of numbers and labels that depend on them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, inputs)).astype(np.float32)
    return x, x[:, :classes].argmax(axis=1)
