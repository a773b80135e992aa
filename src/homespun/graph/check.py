"""Whether a graph is well formed: everything read has been written, names and arities fit, nothing runs in circles."""

from __future__ import annotations

from homespun.errors import ModelError
from homespun.graph.graph import Graph, Node
from homespun.graph.operator import attributes, operator


def check(graph: Graph) -> None:
    """Raise `ModelError` naming the first node or tensor that is wrong."""
    where = f"graph {graph.name!r}"
    known = {t.name for t in graph.tensors.values() if t.role == "input" or t.data is not None}
    for name in graph.inputs:
        if name not in graph.tensors or graph.tensors[name].role != "input":
            raise ModelError(f"{where}: {name!r} is listed as an input, but there is no such input tensor")
    for key, tensor in graph.tensors.items():
        if key != tensor.name:
            raise ModelError(f"{where}: tensor {tensor.name!r} is filed under {key!r}")
        if tensor.role in ("parameter", "state", "constant") and tensor.data is None:
            raise ModelError(f"{where}: {tensor.role} {key!r} carries no data")
    for node in graph.nodes:
        check_arity(node)
        attributes(node)
        for name in node.inputs:
            if name and name not in known:
                kind = "is not computed before" if name in graph.tensors else "does not exist"
                raise ModelError(f"{where}: node {node} reads {name!r}, which {kind}")
        for name in node.outputs:
            if name and name in known and graph.tensors[name].role == "activation":
                raise ModelError(f"{where}: node {node} writes {name!r} a second time")
        known.update(n for n in node.outputs if n)
    for name in graph.outputs:
        if name not in known:
            raise ModelError(f"{where}: output {name!r} is never computed")


def check_arity(node: Node) -> None:
    """Raise `ModelError` if a node has too few or too many inputs."""
    declared = operator(node).inputs
    if declared == ("*",):
        if not node.inputs:
            raise ModelError(f"node {node}: needs at least one input")
        return
    for i, name in enumerate(declared):
        given = i < len(node.inputs) and node.inputs[i] != ""
        if not given and not name.endswith("?"):
            raise ModelError(f"node {node}: input {name!r} is missing")
    if len(node.inputs) > len(declared):
        raise ModelError(f"node {node}: {len(node.inputs)} inputs, but the operator takes {len(declared)}")
