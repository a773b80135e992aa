"""Pass: add the residual in the epilogue of the convolution or linear layer that computes the other summand.

Rule 1: an `add` of two tensors of the same shape, one of which comes from `conv2d` or `linear` without a fused
activation or residual and is read by the addition alone. The other summand must be computed before that layer.
"""

from __future__ import annotations

from homespun.graph import Graph, Node, infer
from homespun.graph.operator import attributes


def fuse_residual(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    types = infer(graph)
    producers, consumers = graph.producers(), graph.consumers()
    position = {id(node): i for i, node in enumerate(graph.nodes)}
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "add" or attributes(node)["activation"] != "none":
            continue
        if types[node.inputs[0]] != types[node.inputs[1]]:
            continue
        candidates = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
        fitting: list[tuple[int, Node, str]] = []
        for summand, other in candidates:
            layer = producers.get(summand)
            if layer is None or layer.op not in ("conv2d", "linear") or summand == other:
                continue
            if attributes(layer)["activation"] != "none" or len(layer.inputs) > 3:
                continue
            if len(consumers[summand]) > 1 or summand in graph.outputs:
                continue
            source = producers.get(other)
            if source is not None and position[id(source)] >= position[id(layer)]:
                continue
            fitting.append((position[id(layer)], layer, other))
        if not fitting:
            continue
        _, layer, other = max(fitting, key=lambda f: f[0])
        layer.inputs = (*(*layer.inputs, "", "")[:3], other)
        layer.outputs = node.outputs
        producers[node.outputs[0]] = layer
        dropped.add(id(node))
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]
    return bool(dropped)
