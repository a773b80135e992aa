"""Activations and biases that exporters write as several operators, put together again after an import.

Each rule looks at one node and what makes its operands; what is no longer needed is pruned at the end.
"""

from __future__ import annotations

import numpy as np

from homespun.graph import Graph, Node


def recognise(graph: Graph) -> None:
    """Apply all rules in place."""
    for rule in (_bias, _sigmoid_times_x, _hard_swish, _gelu, _gelu, _square):
        producers, consumers = graph.producers(), graph.consumers()
        for node in graph.nodes:
            rule(graph, node, producers, consumers)
        graph.prune()


Producers = dict[str, Node]
Consumers = dict[str, list[Node]]


def _scalar(graph: Graph, name: str) -> float | None:
    data = graph.tensors[name].data
    return float(data.reshape(-1)[0]) if data is not None and data.size == 1 else None


def _factors(graph: Graph, node: Node | None, op: str) -> tuple[str, float] | None:
    """(operand, number) of `operand op number`."""
    if node is None or node.op != op or node.attributes:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        number = _scalar(graph, other)
        if number is not None and (op in ("mul", "add") or other == node.inputs[1]):
            return x, number
    return None


def _close(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= 1e-4 * abs(b)


def _become(node: Node, op: str, *inputs: str) -> None:
    node.op, node.inputs, node.attributes = op, inputs, {}


def _bias(graph: Graph, node: Node, producers: Producers, consumers: Consumers) -> None:
    """linear(x) + b is the linear layer with a bias, and a convolution's likewise."""
    if node.op != "add" or node.attributes:
        return
    for x, b in (node.inputs, node.inputs[::-1]):
        layer, bias = producers.get(x), graph.tensors[b]
        if layer is None or layer.op not in ("linear", "conv2d") or len(layer.inputs) > 2 or bias.data is None:
            continue
        if bias.shape != graph.tensors[layer.inputs[1]].shape[-1:] or len(consumers[x]) > 1 or x in graph.outputs:
            continue
        if len(consumers[b]) > 1:
            continue
        bias.role = "parameter"
        node.op, node.inputs, node.attributes = layer.op, (*layer.inputs, b), layer.attributes
        return


def _sigmoid_times_x(graph: Graph, node: Node, producers: Producers, consumers: Consumers) -> None:
    """x sigmoid(x) is silu; x hard_sigmoid(x) with a slope of 1/6 is hard_swish."""
    if node.op != "mul" or node.attributes:
        return
    for x, gate in (node.inputs, node.inputs[::-1]):
        made = producers.get(gate)
        if made is None or not made.inputs or made.inputs[0] != x:
            continue
        slope, start = made.attributes.get("alpha"), made.attributes.get("beta", 0.5)
        if made.op == "sigmoid":
            _become(node, "silu", x)
            return
        if made.op == "hard_sigmoid" and isinstance(slope, float) and _close(slope, 1 / 6) and start == 0.5:
            _become(node, "hard_swish", x)
            return


def _hard_swish(graph: Graph, node: Node, producers: Producers, consumers: Consumers) -> None:
    """x relu6(x + 3) / 6 is hard_swish, without the x hard_sigmoid, in whatever order it is written."""
    sixth = _factors(graph, node, "div")
    if sixth is None or not _close(sixth[1], 6.0):
        sixth = _factors(graph, node, "mul")
        if sixth is None or not _close(sixth[1], 1 / 6):
            return
    inner = producers.get(sixth[0])
    if inner is None:
        return
    if inner.op == "relu6":
        moved = _factors(graph, producers.get(inner.inputs[0]), "add")
        if moved is not None and _close(moved[1], 3.0):
            _become(node, "hard_sigmoid", moved[0])
            for reader in consumers.get(node.outputs[0], []):
                _sigmoid_times_x(graph, reader, {**producers, node.outputs[0]: _hard(node)}, consumers)
    elif inner.op == "mul" and not inner.attributes:
        for x, gate in (inner.inputs, inner.inputs[::-1]):
            made = producers.get(gate)
            moved = _factors(graph, producers.get(made.inputs[0]), "add") if made and made.op == "relu6" else None
            if moved is not None and moved[0] == x and _close(moved[1], 3.0):
                _become(node, "hard_swish", x)
                return


def _hard(node: Node) -> Node:
    return Node("hard_sigmoid", node.inputs, node.outputs, {"alpha": 1 / 6, "beta": 0.5})


def _gelu(graph: Graph, node: Node, producers: Producers, consumers: Consumers) -> None:
    """x (1 + erf(x / sqrt 2)) / 2 is gelu, in the orders in which PyTorch and TensorFlow write it."""
    if node.op != "mul" or node.attributes:
        return
    for left, right in (node.inputs, node.inputs[::-1]):
        half = _scalar(graph, right)
        outer = producers.get(left)
        if half is not None and _close(half, 0.5) and outer is not None and outer.op == "mul":
            pairs = (outer.inputs, outer.inputs[::-1])
        else:
            halved = _factors(graph, producers.get(left), "mul")
            if halved is None or not _close(halved[1], 0.5):
                continue
            pairs = ((halved[0], right), (right, halved[0]))
        for x, gate in pairs:
            if _erf_gate(graph, producers, gate) == x:
                _become(node, "gelu", x)
                return


def _erf_gate(graph: Graph, producers: Producers, gate: str) -> str | None:
    """The x of 1 + erf(x / sqrt 2)."""
    plus = _factors(graph, producers.get(gate), "add")
    erf = producers.get(plus[0]) if plus is not None and _close(plus[1], 1.0) else None
    if erf is None or erf.op != "erf":
        return None
    scaled = producers.get(erf.inputs[0])
    by_root = _factors(graph, scaled, "div")
    if by_root is not None and _close(by_root[1], float(np.sqrt(2.0))):
        return by_root[0]
    by_inverse = _factors(graph, scaled, "mul")
    return by_inverse[0] if by_inverse is not None and _close(by_inverse[1], float(np.sqrt(0.5))) else None


def _square(graph: Graph, node: Node, producers: Producers, consumers: Consumers) -> None:
    """x x is square."""
    if node.op == "mul" and not node.attributes and node.inputs[0] == node.inputs[1]:
        _become(node, "square", node.inputs[0])
