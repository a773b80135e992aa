"""The order of a joint graph: forward, backward, and each update as soon as it may happen.

Nodes keep the order in which autodiff wrote them, which frees activations in the reverse order of their making; what
writes to a parameter or a state moves up to the place where its inputs are ready and nobody reads the old value any
more, so that a gradient lives for a moment only. Running statistics, which are small, come last: then no gradient that
is not finite can come after them.
"""

from __future__ import annotations

from homespun.graph import Graph, Node


def schedule(graph: Graph) -> None:
    """Reorder the nodes of a graph in place."""
    last = [n for n in graph.nodes if n.op == "update_statistics"]
    writes = [n for n in graph.nodes if n.op != "update_statistics" and _written(graph, n)]
    others = [n for n in graph.nodes if not _written(graph, n)]
    made = {o: i for i, n in enumerate(others) for o in n.outputs if o}
    read = {name: i for i, n in enumerate(others) for name in n.inputs if name}
    after: dict[int, list[Node]] = {}
    placed: dict[str, int] = {}
    for node in writes:
        targets = _written(graph, node)
        ready = max((made.get(n, -1) for n in node.inputs if n), default=-1)
        free = max((read.get(t, -1) for t in targets), default=-1)
        # Writes that read or write what an earlier write wrote (an average of a parameter) stay behind it.
        behind = max((placed.get(n, -1) for n in (*node.inputs, *targets) if n), default=-1)
        at = max(ready, free, behind)
        after.setdefault(at, []).append(node)
        for t in targets:
            placed[t] = max(placed.get(t, -1), at)
    graph.nodes = list(after.get(-1, []))
    for i, node in enumerate(others):
        graph.nodes += [node, *after.get(i, [])]
    graph.nodes += last


def _written(graph: Graph, node: Node) -> list[str]:
    return [o for o in node.outputs if o and graph.tensors[o].role in ("parameter", "state")]
