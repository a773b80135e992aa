"""Pass: drop `dropout` and `identity`, which do nothing in inference. Their readers read what they read."""

from __future__ import annotations

from homespun.graph import Graph


def drop_inference_identities(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed. A node whose input is also a graph output stays."""
    kept = []
    for node in graph.nodes:
        if node.op not in ("dropout", "identity") or graph.tensors[node.inputs[0]].role != "activation":
            kept.append(node)
            continue
        source, out = node.inputs[0], node.outputs[0]
        if out in graph.outputs:
            kept.append(node)  # the output keeps its name; lowering makes it an alias, which costs nothing
            continue
        graph.replace_uses(out, source)
    changed = len(kept) != len(graph.nodes)
    graph.nodes = kept
    return changed
