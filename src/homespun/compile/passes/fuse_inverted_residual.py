"""Pass: run [1x1 expansion] -> depthwise -> 1x1 projection as one node, so that the hidden tensors stay in the cache.

Runs after epilogues are fused, for inference only. Whether one kernel or three run is decided in lowering, where batch
and threads are known.

Rule 1: a depthwise `conv2d` (dilation 1) whose result is read by a plain 1x1 `conv2d` alone; neither adds a residual
before the end.
Rule 2: if a plain 1x1 `conv2d` alone feeds it, and nobody else reads that result, it is taken in as the expansion.
"""

from __future__ import annotations

from typing import Any

from homespun.graph import Graph, Node, infer
from homespun.graph.operator import attributes


def fuse_inverted_residual(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    types = infer(graph)
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()

    def private(name: str) -> bool:
        return len(consumers[name]) == 1 and name not in graph.outputs

    def pointwise(node: Node | None) -> bool:
        if node is None or node.op != "conv2d":
            return False
        a = attributes(node)
        return types[node.inputs[1]].shape[:2] == (1, 1) and (a["groups"], a["stride"], a["padding"]) in (
            (1, (1, 1), (0, 0, 0, 0)),
            (1, (1, 1), "valid"),
            (1, (1, 1), "same_upper"),
        )

    for project in graph.nodes:
        middle = producers.get(project.inputs[0]) if pointwise(project) else None
        if middle is None or middle.op != "conv2d" or id(middle) in dropped or len(middle.inputs) > 3:
            continue
        a, channels = attributes(middle), types[middle.inputs[0]].shape[3]
        depthwise = a["groups"] == channels == types[middle.inputs[1]].shape[3] > 1
        if not depthwise or a["dilation"] != (1, 1) or not private(middle.outputs[0]):
            continue
        expand = producers.get(middle.inputs[0])
        takes = expand is not None and pointwise(expand) and len(expand.inputs) <= 3 and private(middle.inputs[0])
        first: tuple[str, ...] = ("", "")
        first_epilogue: dict[str, Any] = {"activation": "none", "alpha": 0.0, "beta": 0.0}
        if expand is None or not takes:
            x = middle.inputs[0]
        else:
            x, *first_weights = expand.inputs
            first, first_epilogue = (*first_weights, "")[:2], attributes(expand)
            dropped.add(id(expand))
        dropped.add(id(middle))
        end = attributes(project)
        project.inputs = (x, *first, *(*middle.inputs[1:], "")[:2], *(*project.inputs[1:], "", "")[:3])
        project.op = "inverted_residual"
        project.attributes = {"stride": a["stride"], "padding": a["padding"]}
        for prefix, epilogue in (("expand_", first_epilogue), ("depthwise_", a), ("", end)):
            project.attributes |= {f"{prefix}{n}": epilogue[n] for n in ("activation", "alpha", "beta")}
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]
    return bool(dropped)
