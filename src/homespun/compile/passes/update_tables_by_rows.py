"""Pass over a joint graph: update a table of embeddings from the rows that a batch touched, without its whole gradient.

Rule 1: an update whose gradient is an `embedding_gradient` that nobody else reads takes the rows and their ids instead.
The table is updated whole, since momentum and weight decay move rows without a gradient too: the result is the same bit
for bit, only that zeros are not stored. In a language model the gradient would be the largest tensor of the step.
"""

from __future__ import annotations

from homespun.graph import Graph
from homespun.ops.update import UPDATES


def update_tables_by_rows(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    producers, consumers = graph.producers(), graph.consumers()
    changed = False
    for node in graph.nodes:
        source = producers.get(node.inputs[0]) if node.op in UPDATES else None
        if source is None or source.op != "embedding_gradient" or len(consumers[node.inputs[0]]) > 1:
            continue
        ids, dy = source.inputs
        node.inputs = (dy, *node.inputs[1:6], ids)
        changed = True
    return changed
