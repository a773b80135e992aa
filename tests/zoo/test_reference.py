"""The zoo against reference implementations: sizes that papers and releases state, and recordings of their outputs.

The recordings are made by `tools/record_goldens.py`: torchvision's MobileNetV2, the package efficientnet-lite-pytorch,
and for MobileNetV1 table 1 of the paper written down in PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph, infer
from homespun.graph.operator import attributes, operator
from tests.zoo.made import made_image, made_weights, samples

GOLDENS = Path(__file__).parent / "goldens"


class Published(NamedTuple):
    parameters: int
    giga_multiply_adds: float
    shapes: dict[str, tuple[int, ...]]


# MobileNetV1: 569 million multiply-adds, 4.2 million parameters (paper, table 4); 4,231,976 trainable in Keras.
# MobileNetV2: 300 million, 3.4 million (paper, table 4); torchvision states 3,504,872 and 0.301 for IMAGENET1K_V1.
# EfficientNet-Lite: 407, 631, 899, 1440, 2640 million and 4.7, 5.4, 6.1, 8.2, 13.0 million (release notes in
# TensorFlow's TPU repository); exact counts from the package efficientnet-lite-pytorch. Shapes: the papers' tables.
PUBLISHED = {
    "mobilenet_v1": Published(
        4_231_976,
        0.569,
        {
            "stem.relu": (112, 112, 32),
            "blocks.3.pointwise.relu": (28, 28, 256),
            "blocks.12.pointwise.relu": (7, 7, 1024),
        },
    ),
    "mobilenet_v2": Published(
        3_504_872,
        0.301,
        {"stem.relu6": (112, 112, 32), "blocks.0.project.norm": (112, 112, 16), "blocks.2.add": (56, 56, 24)}
        | {"blocks.5.add": (28, 28, 32), "blocks.12.add": (14, 14, 96), "blocks.16.project.norm": (7, 7, 320)}
        | {"head.relu6": (7, 7, 1280)},
    ),
    "efficientnet_lite0": Published(
        4_652_008,
        0.407,
        {"stem.relu6": (112, 112, 32), "blocks.2.add": (56, 56, 24), "blocks.4.add": (28, 28, 40)}
        | {"blocks.10.add": (14, 14, 112), "blocks.15.project.norm": (7, 7, 320), "head.relu6": (7, 7, 1280)},
    ),
    "efficientnet_lite1": Published(5_416_680, 0.631, {"head.relu6": (8, 8, 1280)}),
    "efficientnet_lite2": Published(6_092_072, 0.899, {"head.relu6": (9, 9, 1280), "blocks.3.add": (65, 65, 24)}),
    "efficientnet_lite3": Published(8_197_096, 1.44, {"head.relu6": (9, 9, 1280), "stem.relu6": (140, 140, 32)}),
    "efficientnet_lite4": Published(
        13_006_568, 2.64, {"head.relu6": (10, 10, 1280), "blocks.0.project.norm": (150, 150, 24)}
    ),
}


def multiply_adds(graph: Graph) -> int:
    """Of convolutions and linear layers, as papers count."""
    types = infer(graph)
    total = 0
    for node in graph.nodes:
        if node.op in ("conv2d", "linear"):
            ins = [types[n] if n else None for n in node.inputs]
            total += operator(node).cost(attributes(node), ins, [types[node.outputs[0]]]).flops // 2
    return total


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_shapes_are_those_that_were_published(name: str) -> None:
    graph = getattr(hs.zoo, name)()
    published = PUBLISHED[name]
    assert sum(p.size for p in graph.parameters().values()) == published.parameters
    # the release of EfficientNet-Lite counts up to 6% more than convolutions and the classifier have
    assert multiply_adds(graph) / 1e9 == pytest.approx(
        published.giga_multiply_adds, rel=0.06 if "lite" in name else 0.005
    )
    types = infer(graph)
    assert {t: types[t].shape[1:] for t in published.shapes} == published.shapes
    assert types["logits"].shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v1", {"width": 0.25}),
        ("mobilenet_v2", {"width": 0.35}),
        ("efficientnet_lite0", {"width": 0.35}),
        ("efficientnet_lite4", {"width": 0.25}),
    ],
)
def test_outputs_of_every_block_are_the_reference_s(name: str, options: dict[str, float]) -> None:
    with np.load(GOLDENS / f"{name}.npz") as golden:
        shapes = {n: tuple(s) for n, s in json.loads(str(golden["shapes"])).items()}
        size, blocks, logits = int(golden["size"]), golden["blocks"], golden["logits"]
    graph = getattr(hs.zoo, name)(**options, image_size=size, weights=made_weights(shapes))
    ends = {n.name.split(".")[1]: n.outputs[0] for n in graph.nodes if n.name.startswith("blocks.")}
    graph.outputs = ["logits", *ends.values()]
    got, *activations = hs.Predictor(graph, batch=2)(made_image(size))
    np.testing.assert_allclose(got, logits, rtol=1e-3, atol=2e-4 * np.abs(logits).max())
    for end, activation, want in zip(ends.values(), activations, blocks, strict=True):
        np.testing.assert_allclose(samples(activation), want, rtol=1e-3, atol=5e-4 * want[-1], err_msg=end)
