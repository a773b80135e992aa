"""Pass over a joint graph: let convolutions do the batch norm and the activation around them while they load and store.

After it a convolution + norm + activation block keeps one tensor for its backward pass, the raw convolution output z.
Rule 1: sums over the output of a layer are computed by the layer.
Rule 2: a layer, forward or backward, that reads y = normalize(z) reads z and normalises it on load.
Rule 3: a backward layer that reads dz = normalize_input_gradient(g, z) reads g and z and computes dz on load.
Rule 4: a gradient that is added to the data gradient of a backward layer, and is computed before it, is added by it.
Rule 5: a linear layer, forward or backward, that reads y = activation(z) reads z and activates on load, where z is
kept anyway for the activation's slope (GELU); the layer does the `unary_gradient` of its data gradient.
Rule 6: `normalize_gradient` of a backward layer's data gradient (slope of the activation, sums) is done by the layer.
"""

from __future__ import annotations

from homespun.graph import Graph
from homespun.graph.operator import attributes
from homespun.ops.activation import FROM_OUTPUT, FUNCTIONS, function_of
from homespun.ops.training_convolution import (
    COEFFICIENTS,
    END_COEFFICIENTS,
    END_Z,
    EXTRA,
    GRADIENT_COEFFICIENTS,
    G,
    X,
    Z,
)

_FORWARD = ("train_conv2d", "train_linear")
_BACKWARD = ("conv2d_backward", "linear_backward")


def fuse_training_blocks(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    changed = [_sums(graph), _normalised_inputs(graph), _output_gradients(graph)]
    changed += [_added_gradients(graph), _activated_inputs(graph), _slopes(graph), _input_gradients(graph)]
    graph.prune()
    return any(changed)


def _drop(graph: Graph, dropped: set[int]) -> bool:
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]
    return bool(dropped)


def _sums(graph: Graph) -> bool:
    producers = graph.producers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "channel_sums":
            continue
        layer = producers.get(node.inputs[0])
        if layer is not None and layer.op in _FORWARD and len(layer.outputs) == 1:
            layer.outputs = (layer.outputs[0], node.outputs[0])
            dropped.add(id(node))
    return _drop(graph, dropped)


def _normalised_inputs(graph: Graph) -> bool:
    producers = graph.producers()
    changed = False
    for node in graph.nodes:
        at, slot = (0, 3) if node.op in _FORWARD else (X, COEFFICIENTS)
        if node.op not in _FORWARD + _BACKWARD:
            continue
        norm = producers.get(node.inputs[at])
        if norm is None or norm.op != "normalize" or len(norm.inputs) > 4:
            continue
        inputs = [*node.inputs, "", "", ""][: max(len(node.inputs), slot + 1)]
        inputs[at], inputs[slot] = norm.inputs[0], norm.inputs[1]
        node.inputs = tuple(inputs)
        a = attributes(norm)
        node.attributes |= {f"input_{k}": a[k] for k in ("activation", "alpha", "beta")}
        changed = True
    return changed


def _output_gradients(graph: Graph) -> bool:
    producers = graph.producers()
    changed = False
    for node in graph.nodes:
        if node.op not in _BACKWARD:
            continue
        source = producers.get(node.inputs[G])
        if source is None or source.op != "normalize_input_gradient":
            continue
        inputs = list(node.inputs)
        inputs[G], inputs[Z], inputs[GRADIENT_COEFFICIENTS] = source.inputs
        node.inputs = tuple(inputs)
        changed = True
    return changed


def _added_gradients(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "add_gradients":
            continue
        for part, other in (node.inputs, node.inputs[::-1]):
            layer = producers.get(part)
            if layer is None or layer.op not in _BACKWARD or layer.inputs[EXTRA] or layer.outputs[0] != part:
                continue
            source = producers.get(other)
            if len(consumers[part]) > 1 or (source is not None and position[id(source)] >= position[id(layer)]):
                continue
            inputs = list(layer.inputs)
            inputs[EXTRA] = other
            layer.inputs = tuple(inputs)
            layer.outputs = (node.outputs[0], *layer.outputs[1:])
            producers[node.outputs[0]] = layer
            consumers.setdefault(other, []).append(layer)
            dropped.add(id(node))
            break
    return _drop(graph, dropped)


def _activated_inputs(graph: Graph) -> bool:
    producers = graph.producers()
    changed = False
    for node in graph.nodes:
        if node.op not in ("train_linear", "linear_backward"):
            continue
        at, slot = (0, 3) if node.op == "train_linear" else (X, COEFFICIENTS)
        source = producers.get(node.inputs[at])
        normalised = len(node.inputs) > slot and node.inputs[slot]
        if source is None or source.op not in FUNCTIONS or source.op in FROM_OUTPUT or normalised:
            continue
        inputs = list(node.inputs)
        inputs[at] = source.inputs[0]
        node.inputs = tuple(inputs)
        f = function_of(source)
        node.attributes |= {"input_activation": f["function"], "input_alpha": f["alpha"], "input_beta": f["beta"]}
        changed = True
    return changed


def _slopes(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "unary_gradient":
            continue
        z, dy = node.inputs
        layer = producers.get(dy)
        if layer is None or layer.op != "linear_backward" or layer.outputs[0] != dy or len(consumers[dy]) > 1:
            continue
        if layer.inputs[END_Z]:
            continue
        inputs = list(layer.inputs)
        inputs[END_Z] = z
        layer.inputs = tuple(inputs)
        layer.outputs = (node.outputs[0], *layer.outputs[1:])
        a = attributes(node)
        layer.attributes |= {"end_activation": a["function"], "end_alpha": a["alpha"], "end_beta": a["beta"]}
        producers[node.outputs[0]] = layer
        dropped.add(id(node))
    return _drop(graph, dropped)


def _input_gradients(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "normalize_gradient":
            continue
        dy, z, coefficients = node.inputs
        layer = producers.get(dy)
        if layer is None or layer.op not in _BACKWARD or layer.inputs[END_Z] or layer.outputs[0] != dy:
            continue
        a = attributes(node)
        if len(consumers[dy]) > 1:
            if a["activation"] != "none":
                continue
            for reader in consumers.pop(dy):  # without an activation g is dy
                reader.inputs = tuple(node.outputs[0] if n == dy else n for n in reader.inputs)
                consumers.setdefault(node.outputs[0], []).append(reader)
            graph.outputs = [node.outputs[0] if n == dy else n for n in graph.outputs]
        inputs = list(layer.inputs)
        inputs[END_Z], inputs[END_COEFFICIENTS] = z, coefficients
        layer.inputs = tuple(inputs)
        layer.outputs = (node.outputs[0], node.outputs[1], *layer.outputs[2:])
        layer.attributes |= {f"end_{k}": a[k] for k in ("activation", "alpha", "beta")}
        producers[node.outputs[0]] = layer
        dropped.add(id(node))
    return _drop(graph, dropped)
