"""YOLOv3: size and outputs as published and recorded, its loss and gradient, suppression, mean average precision.

The recordings are of the package pytorchyolo, made by `tools/record_goldens.py`. Sizes: 61,949,149 trainable parameters
and 65.86 thousand million operations at 416x416 (the authors' page: "65.86 Bn"; a multiply-add counts two); tiny
8,852,366 and 5.56.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.graph import Array, Graph, GraphBuilder, infer
from homespun.training import Trainer
from homespun.training.detection import Detections, MeanAveragePrecision, detect, non_maximum_suppression, overlaps
from tests.zoo.made import made_image, made_weights, samples
from tests.zoo.test_reference import GOLDENS, multiply_adds

ANCHORS = [0.1, 0.15, 0.2, 0.3, 0.35, 0.2, 0.3, 0.6, 0.6, 0.4, 0.8, 0.9]


@pytest.mark.parametrize(
    ("name", "parameters", "operations"), [("yolov3", 61_949_149, 65.86), ("yolov3_tiny", 8_852_366, 5.56)]
)
def test_size_is_that_published(name: str, parameters: int, operations: float) -> None:
    graph = getattr(hs.zoo, name)()
    assert sum(p.size for p in graph.parameters().values()) == parameters
    assert 2 * multiply_adds(graph) / 1e9 == pytest.approx(operations, rel=0.002)
    assert graph.outputs == [f"boxes_{s}" for s in ((32, 16, 8) if name == "yolov3" else (32, 16))]


@pytest.mark.parametrize(("name", "width"), [("yolov3", 1 / 4), ("yolov3_tiny", 1 / 2)])
def test_outputs_are_the_reference_s(name: str, width: float) -> None:
    with np.load(GOLDENS / f"{name}.npz") as golden:
        shapes = {n: tuple(s) for n, s in json.loads(str(golden["shapes"])).items()}
        want = {n: golden[n] for n in golden if n.startswith("boxes_")}
        blocks = golden["blocks"]
    graph = getattr(hs.zoo, name)(classes=4, width=width, image_size=64, weights=made_weights(shapes))
    assert set(graph.outputs) == set(want)
    layers = [n.outputs[0] for n in graph.nodes if n.op == "leaky_relu"]
    assert len(layers) == len(blocks)
    graph.outputs += layers
    made = dict(zip(graph.outputs, hs.Predictor(graph, batch=2)(made_image(64)), strict=True))
    for output, maps in want.items():
        np.testing.assert_allclose(made[output], maps, rtol=1e-3, atol=2e-4 * np.abs(maps).max(), err_msg=output)
    for layer, block in zip(layers, blocks, strict=True):
        np.testing.assert_allclose(samples(made[layer]), block, rtol=1e-3, atol=5e-4 * block[-1], err_msg=layer)


# Darknet-53's features for images of 256x256: the paper's table 1. The scales of both networks, and the stages of the
# tiny one, for 416x416: what Darknet lists of `yolov3.cfg` (layers 79 to 106) and `yolov3-tiny.cfg`.
SHAPES = {
    ("yolov3", 256): {"stem": (256, 256, 32)}
    | {f"stages.{i}.{units - 1}": (256 >> (i + 1), 256 >> (i + 1), 64 << i) for i, units in enumerate((1, 2, 8, 8, 4))},
    ("yolov3", 416): {
        "scales.0.4": (13, 13, 512),
        "boxes_32": (13, 13, 255),
        "scales.1.lateral": (13, 13, 256),
        "scales.1.upsample": (26, 26, 256),
        "scales.1.concat": (26, 26, 768),
        "scales.1.5": (26, 26, 512),
        "boxes_16": (26, 26, 255),
        "scales.2.concat": (52, 52, 384),
        "scales.2.5": (52, 52, 256),
        "boxes_8": (52, 52, 255),
    },
    ("yolov3_tiny", 416): {
        "stages.0": (416, 416, 16),
        "stages.0.pool": (208, 208, 16),
        "stages.4": (26, 26, 256),
        "stages.5": (13, 13, 512),
        "stages.5.pool": (13, 13, 512),
        "stages.6": (13, 13, 1024),
        "scales.0.0": (13, 13, 256),
        "boxes_32": (13, 13, 255),
        "scales.1.lateral": (13, 13, 128),
        "scales.1.concat": (26, 26, 384),
        "scales.1.0": (26, 26, 256),
        "boxes_16": (26, 26, 255),
    },
}


@pytest.mark.parametrize(("name", "size"), SHAPES)
def test_shapes_are_those_published(name: str, size: int) -> None:
    graph = getattr(hs.zoo, name)(image_size=size)
    found = {n: t.shape[1:] for n, t in infer(graph).items()}
    for layer, shape in SHAPES[name, size].items():
        ends = [found[n] for n in (layer, f"{layer}.add", f"{layer}.leaky_relu") if n in found]
        assert ends == [shape], layer


def maps_as_parameters(maps: list[Array]) -> Graph:
    build = GraphBuilder("maps")
    build.input("unused", (1,))
    return build.build(*(build.parameter(f"p{i}", m) for i, m in enumerate(maps)))


def reference_loss(maps: list[Array], objects: Array, ignore: float) -> float:
    """The loss in NumPy, object by object (Redmon & Farhadi 2018, section 2)."""
    pairs, total = np.reshape(ANCHORS, (-1, 2)), 0.0
    cross = lambda x, t: np.logaddexp(0, x) - x * t  # noqa: E731
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for n in range(len(objects)):
        truths = [t for t in objects[n] if t[0] >= 0]
        for scale, m in enumerate(maps):
            h, w = m.shape[1:3]
            z = m[n].reshape(h, w, 3, -1)
            first = 3 * (len(maps) - 1 - scale)
            owner = {}
            for t in truths:
                at = np.zeros((1, 4))
                at[0, 2:] = t[3:]
                shapes = np.hstack([np.zeros_like(pairs), pairs])
                best = int(np.argmax(overlaps(at, shapes)[0])) - first
                if 0 <= best < 3:
                    owner[int(t[2] * h), int(t[1] * w), best] = t
            for y, x, b in np.ndindex(h, w, 3):
                p, t, anchor = z[y, x, b], owner.get((y, x, b)), pairs[first + b]
                if t is None:
                    box = [(sigmoid(p[0]) + x) / w, (sigmoid(p[1]) + y) / h, *(np.exp(p[2:4]) * anchor)]
                    shares = (
                        overlaps(np.array([box]), np.array([t[1:] for t in truths])) if truths else np.zeros((1, 1))
                    )
                    total += 0.0 if shares.max() > ignore else cross(p[4], 0)
                    continue
                weight = 2 - t[3] * t[4]
                total += weight * (cross(p[0], t[1] * w - x) + cross(p[1], t[2] * h - y))
                total += weight * 0.5 * ((p[2:4] - np.log(t[3:] / anchor)) ** 2).sum()
                total += cross(p[4], 1) + cross(p[5:], np.arange(len(p) - 5) == t[0]).sum()
    return total / len(objects)


def case(seed: int) -> tuple[list[Array], Array]:
    random = np.random.default_rng(seed)
    maps = [random.normal(0, 1, (3, s, s + 1, 3 * 7)).astype(np.float32) for s in (2, 4)]
    objects = np.full((3, 4, 5), -1, np.float32)
    for n, count in enumerate((3, 0, 2)):
        for j in range(count):
            objects[n, j] = (random.integers(2), *random.uniform(0.1, 0.9, 2), *random.uniform(0.1, 0.9, 2))
    return maps, objects


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("ignore", [0.2, 0.7])
def test_loss_and_gradient(ignore: float, threads: int) -> None:
    maps, objects = case(0)
    graph = maps_as_parameters(maps)
    t = Trainer(graph, losses.Yolo(ANCHORS, ignore=ignore), optim.SGD(1.0), batch=3, threads=threads)
    unused = np.zeros((3, 1), np.float32)
    found = t.compute_gradients(unused, objects)
    assert t.step(unused, objects).loss == pytest.approx(reference_loss(maps, objects, ignore), rel=1e-5)
    random = np.random.default_rng(1)
    for i, m in enumerate(maps):
        for at in zip(*(random.integers(0, n, 60) for n in m.shape), strict=True):
            sides = []
            for sign in (1e-6, -1e-6):
                moved = [v.astype(np.float64) for v in maps]
                moved[i][at] += sign
                sides.append(reference_loss(moved, objects, ignore))
            assert found[f"p{i}"][at] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=2e-4)
    assert reference_loss(maps, objects, 0.2) < reference_loss(maps, objects, 0.7)


@pytest.mark.parametrize("wrong", [(2, 0.5, 0.5, 0.1, 0.1), (0, 1.5, 0.5, 0.1, 0.1), (0, 0.5, 0.5, 0.0, 0.1)])
def test_objects_that_make_no_sense_are_refused(wrong: tuple[float, ...]) -> None:
    maps, objects = case(0)
    objects[0, 0] = wrong
    t = Trainer(maps_as_parameters(maps), losses.Yolo(ANCHORS), optim.SGD(1.0), batch=3)
    with pytest.raises(hs.TrainingError, match=r"range|shares"):
        t.step(np.zeros((3, 1), np.float32), objects)


def pictures(count: int, size: int) -> tuple[Array, Array]:
    """Noise with bright rectangles in the colour of their class."""
    random = np.random.default_rng(0)
    x, y = random.normal(0, 0.3, (count, size, size, 3)).astype(np.float32), np.full((count, 2, 5), -1, np.float32)
    for i in range(count):
        for j in range(1 + i % 2):
            c, (w, h), (cx, cy) = (i + j) % 2, random.uniform(0.2, 0.6, 2), random.uniform(0.3, 0.7, 2)
            y[i, j] = (c, cx, cy, w, h)
            left, top = int((cx - w / 2) * size), int((cy - h / 2) * size)
            x[i, max(0, top) : top + int(h * size), max(0, left) : left + int(w * size), c] += 2
    return x, y


NETWORKS = [("yolov3_tiny", 0.25), ("yolov3", 0.125)]


def trainer(graph: Graph, rate: float, **options: object) -> Trainer:
    """On one thread, as the tests themselves run side by side."""
    return Trainer(graph, losses.Yolo.of(graph), optim.Adam(rate), batch=32, threads=1, **options)  # type: ignore[arg-type]


def average_precision(graph: Graph, t: Trainer, x: Array, y: Array) -> float:
    metric = MeanAveragePrecision()
    metric.update(detect(graph, hs.Predictor(t.model(), batch=32, threads=1)(x), least_score=0.05), y)
    return metric.result()["mean_average_precision"]


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_it_learns_32_pictures_by_heart(name: str, width: float, precision: str) -> None:
    graph = getattr(hs.zoo, name)(classes=2, width=width, image_size=64)
    x, y = pictures(32, 64)
    t = trainer(graph, 5e-3, precision=precision)
    first = t.step(x, y).loss
    for step in range(140):
        t.learning_rate = 5e-3 if step < 80 else 5e-4
        last = t.step(x, y).loss
    assert last < 0.1 * first
    assert average_precision(graph, t, x, y) > 0.6


@cache
def acquainted(name: str, width: float) -> Graph:
    """The network with its initial weights, and norms that know the pictures."""
    graph = getattr(hs.zoo, name)(classes=2, width=width, image_size=64)
    for node in graph.nodes:
        if node.op == "batch_norm":
            node.attributes["momentum"] = 1.0
    t = trainer(graph, 0.0)
    t.compute_gradients(*pictures(32, 64))
    return t.model()


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize(
    ("trainable", "rate", "share"), [("head", 0.03, 0.8), (["scales.*"], 0.005, 0.5)], ids=["head", "last"]
)
@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_its_last_layers_learn(
    name: str, width: float, trainable: str, rate: float, share: float, precision: str
) -> None:
    graph = acquainted(name, width)
    x, y = pictures(32, 64)
    t = trainer(graph, rate, trainable=trainable, precision=precision)
    before = t.parameters()
    first = t.step(x, y).loss
    for _ in range(25):
        last = t.step(x, y).loss
    assert last < share * first
    moved = {n for n, v in t.parameters().items() if not np.array_equal(v, before[n])}
    assert moved == set(t.trainable)
    assert all(n.startswith("scales.") and (trainable != "head" or ".output." in n) for n in moved)


def test_suppression_keeps_the_surest_of_each_class() -> None:
    boxes = np.array(
        [[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]], np.float32
    )
    scores = np.array([[0.8, 0.0], [0.9, 0.7], [0.6, 0.0], [0.1, 0.2]], np.float32)
    found = non_maximum_suppression(boxes, scores, least_score=0.5, overlap=0.5)
    np.testing.assert_array_equal(found.boxes, boxes[[1, 1, 2]])
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.6])
    np.testing.assert_array_equal(found.classes, [0, 1, 0])
    assert len(non_maximum_suppression(boxes, scores, most=1).scores) == 1
    assert len(non_maximum_suppression(boxes, scores, overlap=1.0).scores) == 4
    assert non_maximum_suppression(boxes, scores, least_score=0.95).boxes.shape == (0, 4)


def test_mean_average_precision_of_a_case_worked_out_by_hand() -> None:
    """One class with three objects; right, wrong, right: (1 + 2/3) / 3. Another, never found: 0."""
    objects = np.array(
        [[[0, 0.2, 0.2, 0.2, 0.2], [0, 0.7, 0.7, 0.2, 0.2]], [[0, 0.5, 0.5, 0.4, 0.4], [1, 0.1, 0.1, 0.1, 0.1]]]
    )
    boxes = np.array([[0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]])
    first = Detections(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0]))
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    metric = MeanAveragePrecision()
    metric.update([first, nothing], objects)
    assert metric.result()["mean_average_precision"] == pytest.approx((1 + 2 / 3) / 3 / 2)
    metric.reset()
    assert metric.result()["mean_average_precision"] == 0.0


def test_its_head_is_the_last_layer_of_each_scale() -> None:
    trainer = Trainer(
        hs.zoo.yolov3_tiny(classes=2, width=0.125, image_size=64), losses.MSE(), optim.SGD(0.1), trainable="head"
    )
    assert {name.rsplit(".", 1)[0] for name in trainer.trainable} == {"scales.0.output", "scales.1.output"}
    auxiliary = hs.zoo.googlenet(classes=2, width=0.25, image_size=64, auxiliary=True)
    trainer = Trainer(auxiliary, losses.Auxiliary(losses.CrossEntropy()), optim.SGD(0.1), trainable="head")
    assert trainer.trainable == ("classifier.weight", "classifier.bias")
