"""Autodiff as a graph transformation: appends to a graph the nodes that compute gradients of a scalar.

It walks the nodes backward once and asks each operator's gradient rule for nodes; rules stand with the operators. What
is not wanted is never asked for: a tensor that depends on no trainable parameter has no gradient node, and a rule sees
through `wanted` which of its inputs need one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from homespun.errors import ModelError
from homespun.graph import Graph, TensorType
from homespun.graph.graph import Attribute
from homespun.graph.infer import infer_node
from homespun.graph.operator import operator


class GraphExtension:
    """Appends typed nodes to a graph: what gradient rules, losses and the update step build with."""

    def __init__(self, graph: Graph, types: dict[str, TensorType], prefix: str = "gradient") -> None:
        self.graph, self.types, self.prefix = graph, types, prefix
        self._wanted: set[str] = set()

    def add(self, op: str, inputs: Sequence[str], stem: str = "", **attributes: Attribute) -> str:
        """Append a node with one output and return that output's name."""
        return self.add_many(op, inputs, (stem or op,), **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[str], stems: Sequence[str], **attributes: Attribute
    ) -> tuple[str, ...]:
        """Append a node with several outputs; an empty stem leaves that output out."""
        outs = tuple(self.graph.fresh_name(f"{self.prefix}/{s}" if self.prefix else s) if s else "" for s in stems)
        self._append(op, inputs, outs, attributes)
        return outs

    def write(self, op: str, inputs: Sequence[str], targets: Sequence[str], **attributes: Attribute) -> None:
        """Append a node that writes to parameters or states that the graph has."""
        self._append(op, inputs, tuple(targets), attributes)

    def _append(self, op: str, inputs: Sequence[str], outs: tuple[str, ...], attributes: dict[str, Attribute]) -> None:
        node = self.graph.add_node(op, inputs, outs, attributes, name=self._node_name(op, outs))
        for name, found in zip(node.outputs, infer_node(node, self.types), strict=True):
            if name:
                self.types[name] = found

    def _node_name(self, op: str, outs: Sequence[str]) -> str:
        first = next((o for o in outs if o), op)
        return f"{first}:{op}" if first in self.graph.tensors else first

    def type(self, tensor: str) -> TensorType:
        """Shape and dtype of a tensor, with the batch size bound."""
        return self.types[tensor]

    def wanted(self, tensor: str) -> bool:
        """Whether anybody needs the gradient of this tensor."""
        return tensor in self._wanted

    def want(self, tensors: Iterable[str]) -> None:
        """Name the tensors that need gradients."""
        self._wanted = set(tensors)


def depends_on(graph: Graph, sources: Iterable[str]) -> set[str]:
    """The sources and every tensor that is computed from one of them."""
    reached = set(sources)
    for node in graph.nodes:
        if reached.intersection(n for n in node.inputs if n):
            reached.update(o for o in node.outputs if o and graph.tensors[o].role == "activation")
    return reached


def differentiate(
    graph: Graph, types: dict[str, TensorType], scalar: str, sources: Sequence[str], seed: str = ""
) -> dict[str, str]:
    """Append the gradients of `scalar` (one element) with respect to `sources`; returns their names by source.

    `types` are the graph's, with the batch size bound, and grow with it. `seed` is the gradient of the scalar itself
    (a loss scale); by default one. A source that does not influence the scalar is absent from the result. Raises
    `ModelError`, naming the node, where an operator on the way has no gradient.
    """
    if types[scalar].size != 1:
        raise ModelError(f"{scalar!r} has the shape {list(types[scalar].shape)}; gradients start from one number")
    build = GraphExtension(graph, types)
    reached = depends_on(graph, sources)
    build.want(reached)
    if not seed:
        seed = build.add("constant_like", [scalar], "seed", value=1.0)
    pending: dict[str, list[str]] = {scalar: [seed]}
    results: dict[str, str] = {}

    for node in list(reversed(graph.nodes)):
        if not any(o in pending for o in node.outputs if o):
            continue
        if not any(n in reached for n in node.inputs if n):
            continue
        grads = [_total(build, o, pending.pop(o, [])) if o else None for o in node.outputs]
        record = operator(node)
        if record.gradient is None:
            why = record.no_gradient or "the operator has no gradient rule"
            raise ModelError(f"node {node}: {why}; train only what comes after it, or replace it")
        for name, grad in zip(node.inputs, record.gradient(build, node, grads), strict=False):
            if name and grad is not None and name in reached:
                pending.setdefault(name, []).append(grad)
    for source in sources:
        total = _total(build, source, pending.get(source, []))
        if total is not None:
            results[source] = total
    return results


def _total(build: GraphExtension, tensor: str, parts: Sequence[str]) -> str | None:
    """The sum of a tensor's gradients, each of which comes from one of its readers."""
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = build.add("add_gradients", [total, part], tensor)
    return total
