"""Pass over a joint graph: compute some layers' outputs a second time, when the backward pass needs them, and let the
first copy die after its last forward reader.

Rule 1: the layer is a forward layer (`train_conv2d`, `train_linear`) or a `layer_norm`; its input is kept, or computed
again by one whose own input is kept: at most `LONGEST_CHAIN` in a row, so that little is computed again at one time.
Rule 2: the copy runs just before the first backward node that needs it, or a copy that needs it.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from homespun.graph import Graph, Node, Tensor, TensorType
from homespun.ops.training_convolution import X
from homespun.ops.update import UPDATES

LAYERS = ("train_conv2d", "train_linear", "layer_norm")
_BACKWARD = (
    "conv2d_backward",
    "linear_backward",
    "normalize_gradient",
    "normalize_input_gradient",
    "unary_gradient",
    "attention_gradient",
    *UPDATES,  # of a linear layer, from its input
)

#: Multiply-adds for each element of the output up to which a layer is computed again without being asked: a 1x1
#: convolution from so few channels takes about as long as reading its output from memory.
ALWAYS_BELOW = 32
#: Layers in a row that are computed again together: an expansion and the depthwise layer behind it.
LONGEST_CHAIN = 2
#: Depthwise layers are not among them: they read as much as they write.
_LEAST_INNER = 9
#: ... if the output has at least so many bytes.
WORTHWHILE = 1 << 20
#: A layer norm keeps its input for its own gradient; its output is one pass away, and is not kept as well from here on.
WORTHWHILE_NORM = 1 << 18


@dataclass(frozen=True)
class Candidate:
    """A layer that could be computed again: what it would save, bytes, and cost, multiply-adds."""

    name: str
    saved: int
    cost: int
    inner: int  # multiply-adds for each element; 0 of a norm


def candidates(graph: Graph, types: Mapping[str, TensorType]) -> list[Candidate]:
    """The layers of a joint graph that could be computed again, cheapest for what they save first."""
    found = []
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op not in LAYERS or not _backward_readers(consumers, node.outputs[0]):
            continue
        z, w = types[node.outputs[0]], types[node.inputs[1]]
        inner = w.size // w.shape[-1] if node.op != "layer_norm" else 0
        found.append(Candidate(node.outputs[0], z.nbytes, inner * z.size, inner))
    first = set(worthwhile(found))
    return sorted(found, key=lambda c: (c.name not in first, c.inner if c.name not in first else 0, -c.saved))


def worthwhile(found: Collection[Candidate]) -> tuple[str, ...]:
    """Those that are computed again even where memory is plenty, those that save most first."""
    cheap = [c for c in found if _LEAST_INNER < c.inner <= ALWAYS_BELOW and c.saved >= WORTHWHILE]
    cheap += [c for c in found if c.inner == 0 and c.saved >= WORTHWHILE_NORM]
    return tuple(c.name for c in sorted(cheap, key=lambda c: -c.saved))


def recompute(graph: Graph, layers: Sequence[str]) -> tuple[str, ...]:
    """Apply the pass in place for the layers that make these tensors, the first ones first; returns those for which it
    was possible."""
    makers = {n.outputs[0]: n for n in graph.nodes if n.op in LAYERS}
    next_of = {n.inputs[0]: z for z, n in makers.items()}
    consumers = graph.consumers()
    chosen: set[str] = set()

    def run_length(z: str | None, step: Mapping[str, str]) -> int:
        length = 0
        while z in chosen:
            length, z = length + 1, step.get(z)
        return length

    before_of = {z: n.inputs[0] for z, n in makers.items()}
    for z in layers:
        if z not in makers or z in graph.outputs or not _backward_readers(consumers, z):
            continue
        if run_length(before_of[z], before_of) + 1 + run_length(next_of.get(z), next_of) <= LONGEST_CHAIN:
            chosen.add(z)
    return _insert_copies(graph, [z for z in makers if z in chosen], makers, consumers)


def _insert_copies(
    graph: Graph, chosen: Sequence[str], makers: Mapping[str, Node], consumers: Mapping[str, list[Node]]
) -> tuple[str, ...]:
    """Add the copies of chosen layers, given in forward order, and let the backward nodes read them."""
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    again = {z: graph.add_tensor(Tensor(graph.fresh_name(f"{z}/again"), "activation")) for z in chosen}
    at: dict[str, int] = {}
    for z in reversed(chosen):
        at[z] = min(at.get(z, len(graph.nodes)), *(position[id(r)] for r in _backward_readers(consumers, z)))
        source = makers[z].inputs[0]
        if source in again:
            at[source] = min(at.get(source, len(graph.nodes)), at[z])
    before: dict[int, list[Node]] = {}
    for z in chosen:
        node = makers[z]
        inputs = (again.get(node.inputs[0], node.inputs[0]), *node.inputs[1:])
        before.setdefault(at[z], []).append(Node(node.op, inputs, (again[z],), dict(node.attributes), again[z]))
        for reader in _backward_readers(consumers, z):
            reader.inputs = tuple(again[z] if n == z else n for n in reader.inputs)
    nodes: list[Node] = []
    for i, node in enumerate(graph.nodes):
        nodes += [*before.get(i, []), node]
    graph.nodes = nodes
    return tuple(chosen)


def _backward_readers(consumers: Mapping[str, list[Node]], z: str) -> list[Node]:
    return [n for n in consumers.get(z, []) if n.op in _BACKWARD and not _only_for_frozen_weights(n, z)]


def _only_for_frozen_weights(node: Node, z: str) -> bool:
    """Whether a backward layer is given z as its input and, having no weights to train, does not read it."""
    if node.op not in ("conv2d_backward", "linear_backward") or node.outputs[2]:
        return False
    return not any(n == z for i, n in enumerate(node.inputs) if i != X)
