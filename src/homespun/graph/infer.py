"""Shapes of all tensors once the batch size is bound: the operators' shape rules applied in order."""

from __future__ import annotations

from homespun.errors import ModelError, ShapeError
from homespun.graph.graph import BATCH, Graph, Node, TensorType
from homespun.graph.operator import attributes, operator


def infer(graph: Graph, batch: int = 1) -> dict[str, TensorType]:
    """Type of every tensor for a batch size. Raises `ShapeError`, naming the node, where a rule refuses."""
    types: dict[str, TensorType] = {}
    for t in graph.tensors.values():
        if t.role == "input":
            types[t.name] = TensorType(tuple(batch if d == BATCH else d for d in t.shape), t.dtype)
        elif t.data is not None:
            types[t.name] = TensorType(t.shape, t.dtype)
    for node in graph.nodes:
        for name, found in zip(node.outputs, infer_node(node, types), strict=True):
            if not name:
                continue
            known = types.get(name)
            if known is not None and known != found:
                raise ShapeError(f"node {node}: writes {found} to {name!r}, which is {known}")
            types[name] = found
    return types


def infer_node(node: Node, types: dict[str, TensorType]) -> list[TensorType]:
    """Types of one node's outputs, given those of its inputs."""
    ins = [types[n] if n else None for n in node.inputs]
    try:
        outs = list(operator(node).shape(attributes(node), ins))
    except ShapeError as e:
        given = ", ".join(str(t) if t else "nothing" for t in ins)
        raise ShapeError(f"node {node}: {e} (given {given})") from None
    if len(outs) < len(node.outputs):
        raise ModelError(f"node {node}: {len(node.outputs)} outputs, but the operator has {len(outs)}")
    return outs[: len(node.outputs)]


def flops(graph: Graph, batch: int = 1) -> int:
    """Floating-point operations of one run, a multiply-add counted as two."""
    types = infer(graph, batch)
    return sum(node_flops(node, types) for node in graph.nodes)


def node_flops(node: Node, types: dict[str, TensorType]) -> int:
    """Floating-point operations of a node."""
    ins = [types[n] if n else None for n in node.inputs]
    return operator(node).cost(attributes(node), ins, [types[n] for n in node.outputs if n]).flops
