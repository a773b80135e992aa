"""Every network has the layers of its reference implementation at full size, one by one: shapes, parameters, FLOPs.

`tools/record_layer_goldens.py` lists them from torchvision, efficientnet-lite-pytorch, timm (MobileNetV1), pytorchcv
(ShuffleNet), pytorchyolo and transformers (TinyBERT, 128 tokens); GoogLeNet with response norm is torchvision's with
the convolutions of the paper.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph, infer
from tests.zoo.test_reference import GOLDENS, multiply_adds

OPTIONS: dict[str, dict[str, object]] = {
    "googlenet, response": {"norm": "response"},
    "tinybert, 6 layers": {"layers": 6},
}
with np.load(GOLDENS / "layers.npz") as _file:
    RECORDED = dict(_file)
NETWORKS = [name for name in RECORDED if not name.endswith("/parameters")]


def layers_of(graph: Graph) -> Counter[tuple[int, ...]]:
    """How many layers have each (height, width, input channels of a group, output channels, window's height, width)."""
    types, found = infer(graph), Counter[tuple[int, ...]]()
    for node in graph.nodes:
        if node.op == "conv2d":
            *window, group, outputs = types[node.inputs[1]].shape
            found[(*types[node.outputs[0]].shape[1:3], group, outputs, *window)] += 1
        elif node.op == "linear":
            inputs, outputs = types[node.inputs[1]].shape
            shape = types[node.outputs[0]].shape
            found[(shape[1] if len(shape) == 3 else 1, 1, inputs, outputs, 1, 1)] += 1
    return found


def test_every_network_is_recorded() -> None:
    assert {re.split(r"\W", name)[0] for name in NETWORKS} == set(hs.zoo.__all__)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_the_reference_s(name: str) -> None:
    graph = getattr(hs.zoo, re.split(r"\W", name)[0])(**OPTIONS.get(name, {}))
    assert sum(p.size for p in graph.parameters().values()) == RECORDED[f"{name}/parameters"]
    wanted = RECORDED[name].astype(np.int64)
    assert layers_of(graph) == Counter({tuple(layer): count for count, *layer in wanted.tolist()})
    if not name.startswith("tinybert"):  # what attention multiplies is in no layer
        assert multiply_adds(graph) == wanted.prod(axis=1).sum()
