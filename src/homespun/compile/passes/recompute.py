"""Pass over a joint graph: compute some layers' outputs a second time, when the backward pass needs them, and let the
first copy die after its last forward reader.

Rule 1: the layer is a forward layer whose output only `fuse_training_blocks` readers (norm on load) and backward nodes
read, and whose input is not itself computed again, so that it is alive anyway.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from homespun.graph import Graph, Node, Tensor, TensorType

LAYERS = ("train_conv2d", "train_linear")
_BACKWARD = ("conv2d_backward", "linear_backward", "normalize_gradient", "normalize_input_gradient", "unary_gradient")

#: Multiply-adds for each element of the output up to which a layer is computed again without being asked: a 1x1
#: convolution from so few channels takes about as long as reading its output from memory.
ALWAYS_BELOW = 32
#: Depthwise layers are not among them: they read as much as they write.
_LEAST_INNER = 9
#: ... if the output has at least so many bytes.
WORTHWHILE = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """A layer that could be computed again: what it would save, bytes, and cost, multiply-adds."""

    name: str
    saved: int
    cost: int
    inner: int  # multiply-adds for each element


def candidates(graph: Graph, types: Mapping[str, TensorType]) -> list[Candidate]:
    """The layers of a joint graph that could be computed again, cheapest for what they save first."""
    found = []
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op not in LAYERS or not _backward_readers(consumers, node.outputs[0]):
            continue
        z, w = types[node.outputs[0]], types[node.inputs[1]]
        inner = w.size // w.shape[-1]
        found.append(Candidate(node.outputs[0], z.nbytes, inner * z.size, inner))
    return sorted(found, key=lambda c: (c.inner, -c.saved))


def worthwhile(found: Collection[Candidate]) -> tuple[str, ...]:
    """Those that are computed again even where memory is plenty, those that save most first."""
    cheap = [c for c in found if _LEAST_INNER < c.inner <= ALWAYS_BELOW and c.saved >= WORTHWHILE]
    return tuple(c.name for c in sorted(cheap, key=lambda c: -c.saved))


def recompute(graph: Graph, layers: Sequence[str]) -> tuple[str, ...]:
    """Apply the pass in place for the layers that make these tensors, the first ones first; returns those for which it
    was possible."""
    makers = {n.outputs[0]: n for n in graph.nodes if n.op in LAYERS}
    consumers = graph.consumers()
    chosen: list[str] = []
    read_again: set[str] = set()
    before: dict[int, list[Node]] = {}
    for z in layers:
        node = makers.get(z)
        readers = _backward_readers(consumers, z)
        if node is None or not readers or z in graph.outputs or z in read_again or node.inputs[0] in chosen:
            continue
        again = graph.add_tensor(Tensor(graph.fresh_name(f"{z}/again"), "activation"))
        copy = Node(node.op, node.inputs, (again,), dict(node.attributes), again)
        for reader in readers:
            reader.inputs = tuple(again if n == z else n for n in reader.inputs)
        before.setdefault(id(readers[0]), []).append(copy)
        chosen.append(z)
        read_again.add(node.inputs[0])
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += [*before.get(id(node), []), node]
    graph.nodes = nodes
    return tuple(chosen)


def _backward_readers(consumers: Mapping[str, list[Node]], z: str) -> list[Node]:
    return [n for n in consumers.get(z, []) if n.op in _BACKWARD]
