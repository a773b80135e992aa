"""Pass: compute an activation in the epilogue of the operator whose result it alone reads.

Rule 1: the producer has an `activation` attribute that is "none" (conv2d, linear, element-wise arithmetic), the
activation is one that epilogues know, and nobody else reads the value between the two.
"""

from __future__ import annotations

from homespun.graph import Graph
from homespun.graph.operator import attributes, operator
from homespun.ops.activation import FUSIBLE, fused


def fuse_activation(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op not in FUSIBLE:
            continue
        between = node.inputs[0]
        before = producers.get(between)
        if before is None or "activation" not in operator(before).attributes:
            continue
        if attributes(before)["activation"] != "none" or len(consumers[between]) > 1 or between in graph.outputs:
            continue
        before.attributes.update(fused(node.op, attributes(node)))
        before.outputs = node.outputs
        producers[node.outputs[0]] = before
        dropped.add(id(node))
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]
    return bool(dropped)
