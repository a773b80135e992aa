"""How the channels that a layer reads go together on data: means and covariances.

`runtime.channel_statistics` measures them. With them pruning folds what it takes away into what stays (`fold`), and
rounding weighs errors as the layer will see them (`rounding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homespun.graph import Array, Graph, Node


@dataclass(frozen=True)
class ChannelStatistics:
    """Of a tensor with C channels, over samples and pixels: `mean` (C,) and `covariance` (C, C), float64; `count` of
    the pixels that they are from."""

    mean: Array
    covariance: Array
    count: int


#: By the name of the tensor.
Statistics = Mapping[str, ChannelStatistics]


def mixing_layers(graph: Graph) -> list[Node]:
    """Layers whose every output is a linear function of all channels of their input: convolutions of one group, and
    linear layers, with weights of their own."""
    return [node for node in graph.nodes if mixes_channels(node) and graph.tensors[node.inputs[1]].data is not None]


def mixes_channels(node: Node) -> bool:
    """Whether every output of a layer is a linear function of all channels of its input."""
    return node.op in ("conv2d", "linear") and int(node.attributes.get("groups", 1)) == 1  # type: ignore[arg-type]
