"""A backbone of three layers, topics that it tells apart and a family's labels: what tests of refining work with."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

import homespun as hs
from homespun.learning.exemplars import Exemplars
from homespun.learning.pretraining import fit_builtin
from homespun.learning.tail import Maps, Tail
from homespun.learning.task import Foundation, Task, divide

Pictures = npt.NDArray[np.float32]
TOPICS = [f"t{number}" for number in range(6)]


@cache
def backbone() -> hs.Graph:
    """From pictures (8, 8, 3) to features (24)."""
    build = hs.GraphBuilder("tiny", seed=1)
    x = build.input("image", (8, 8, 3))
    for number, (inputs, outputs) in enumerate([(3, 8), (8, 16), (16, 24)]):
        name = f"blocks.{number}"
        x = build.conv(x, f"{name}.conv", inputs=inputs, outputs=outputs, kernel=3)
        x = build.batch_norm(x, f"{name}.norm", outputs)
        x = str(build.op("relu6", x, name=f"{name}.relu6"))
    x = str(build.op("flatten", build.op("global_average_pool", x, name="pool"), name="features"))
    return build.build(x)


@cache
def narrow_backbone() -> hs.Graph:
    """The same, but its last layer sees in two directions only: there is much to learn."""
    model = backbone().copy()
    weights = model.data("blocks.2.conv.weight").reshape(-1, 24)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 2)))[0]
    seen = weights @ axes @ axes.T
    seen *= weights.std() / seen.std()
    model.tensors["blocks.2.conv.weight"].data = seen.reshape(3, 3, 16, 24).astype(np.float32)
    return model


def pictures(topic: int, count: int, seed: int, spread: float = 0.7) -> Pictures:
    """Pictures (count, 8, 8, 3) of one topic: a pattern of its own under noise."""
    look = np.random.default_rng(topic).normal(size=(8, 8, 3))
    noise = np.random.default_rng([seed, topic]).normal(size=(count, 8, 8, 3))
    return (look + spread * noise).astype(np.float32)


def maps(images: Pictures) -> npt.NDArray[np.float32]:
    """What the trunk makes of pictures."""
    return np.asarray(hs.Predictor(Tail(backbone()).trunk(), batch=8, weights="int8")(images))


@cache
def start(network: hs.Graph | None = None) -> tuple[Foundation, Exemplars]:
    """Four topics built in, as this backbone sees them, and exemplars of them."""
    shipped = TOPICS[:4]
    images = np.concatenate([pictures(number, 40, seed=1) for number in range(len(shipped))])
    features = np.asarray(hs.Predictor(network or backbone(), batch=8, weights="int8")(images))
    names = [topic for topic in shipped for _ in range(40)]
    made = fit_builtin(features, names, rank=16)
    rows = [40 * topic + row for topic in range(4) for row in range(8)]
    exemplars = Exemplars(Maps.of(maps(images[rows]), 4), tuple(names[row] for row in rows), "tiny")
    return Foundation(made.space, made.statistics, made.calibration), exemplars


def task(each: int = 16, seed: int = 2, spread: float = 1.2) -> Task:
    """A family that labelled photos of six topics, two of them its own."""
    images = np.concatenate([pictures(number, each, seed, spread) for number in range(len(TOPICS))])
    keys = tuple(str(number) for number in range(len(images)))
    positive = np.repeat(np.eye(len(TOPICS), dtype=np.bool_), each, axis=0)
    return Task(
        keys, tuple(TOPICS), Maps.of(maps(images)), positive, np.zeros_like(positive), divide(keys, ["day"] * len(keys))
    )
