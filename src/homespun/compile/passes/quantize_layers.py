"""Pass: run convolutions and linear layers in 8 bits. The last pass for a predictor with 8-bit weights.

Rule 1: weights of `conv2d` and `linear` become int8 codes with one scale for each output channel.
Rule 2: an activation whose range is known from its function (`relu6`, `clip` from 0) is stored as uint8 codes of that
range if whoever writes and reads it can: 8-bit layers, and the mean over an image.
Rule 3: all other tensors stay float32; an 8-bit layer that reads one quantises it as it goes, each row on its own
range. So linear bottlenecks, residual sums and activations without a bound keep their precision, and no data is needed.
Rule 4: what has no 8-bit kernel (depthwise convolutions of float32, or with unusual windows) runs in float32, with the
same rounded weights.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"; per-row ranges as in Yao et al. 2022, "ZeroQuant", section 4.1.
"""

from __future__ import annotations

import numpy as np

from homespun.compression import quantize_per_channel
from homespun.graph import Graph, Node
from homespun.graph.operator import attributes
from homespun.ops.quantized import CODED, has_depthwise_kernel

_LAYERS = {"conv2d": "quantized_conv2d", "linear": "quantized_linear"}
_POOL = "global_average_pool"
_LARGEST_CODE = 255
_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "abs", "exp", "square")
_SIGN_PASSES_THROUGH = ("reshape", "flatten", "max_pool", "average_pool", _POOL, "transpose", "slice")


def quantize_layers(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed."""
    limits = coded_activations(graph)
    producers = graph.producers()
    changed = False
    for node in graph.nodes:
        if node.op == _POOL and node.inputs[0] in limits:
            channels = graph.data(producers[node.inputs[0]].inputs[1]).shape[-1]
            steps = np.full(channels, limits[node.inputs[0]] / _LARGEST_CODE, np.float32)
            node.op = f"quantized_{_POOL}"
            node.inputs = (node.inputs[0], graph.add_array(graph.fresh_name(f"{node.inputs[0]}/step"), steps))
        elif node.op in _LAYERS and _is_constant(graph, node.inputs[1]) and not _stays_float(graph, node, limits):
            _quantize_layer(graph, node, limits, non_negative=_is_non_negative(producers, node.inputs[0]))
            changed = True
    return changed


def coded_activations(graph: Graph) -> dict[str, float]:
    """The tensors that are stored as uint8 codes (rule 2), with the value of the largest code."""
    producers, consumers = graph.producers(), graph.consumers()
    limits = {name: limit for name, node in producers.items() if (limit := _limit(graph, node)) is not None}
    while True:
        kept = {
            name: limit
            for name, limit in limits.items()
            if name not in graph.outputs
            and not _stays_float(graph, producers[name], limits)
            and all(_reads_codes(graph, reader, name, limits) for reader in consumers.get(name, []))
        }
        if len(kept) == len(limits):
            return limits
        limits = kept


def _limit(graph: Graph, node: Node) -> float | None:
    """The upper end of what a layer writes, if its activation makes that 0 to a known bound."""
    if node.op not in _LAYERS or not _is_constant(graph, node.inputs[1]) or node.inputs[3:] not in ((), ("",)):
        return None
    a = attributes(node)
    if a["activation"] == "relu6":
        return 6.0
    if a["activation"] == "clip" and a["alpha"] == 0.0 and a["beta"] > 0.0:
        return float(a["beta"])
    return None


def _reads_codes(graph: Graph, node: Node, name: str, limits: dict[str, float]) -> bool:
    if node.op == _POOL:
        return True
    if node.op not in _LAYERS or not _is_constant(graph, node.inputs[1]) or name in node.inputs[1:]:
        return False
    return not _is_depthwise(graph, node) or not _stays_float(graph, node, limits)


def _stays_float(graph: Graph, node: Node, limits: dict[str, float]) -> bool:
    """Rule 4: the depthwise kernel reads and writes codes only, and knows the usual windows only."""
    if not _is_depthwise(graph, node):
        return False
    in_codes = node.inputs[0] in limits and node.outputs[0] in limits
    return not (in_codes and has_depthwise_kernel(graph.data(node.inputs[1]).shape, attributes(node)))


def _is_depthwise(graph: Graph, node: Node) -> bool:
    return node.op == "conv2d" and attributes(node)["groups"] == graph.data(node.inputs[1]).shape[-1] > 1


def _is_constant(graph: Graph, name: str) -> bool:
    tensor = graph.tensors[name]
    return tensor.data is not None and tensor.dtype == "float32"


def _is_non_negative(producers: dict[str, Node], name: str) -> bool:
    node = producers.get(name)
    while node is not None and node.op in _SIGN_PASSES_THROUGH:
        node = producers.get(node.inputs[0])
    return node is not None and (node.op in _NEVER_NEGATIVE or node.attributes.get("activation") in _NEVER_NEGATIVE)


def _quantize_layer(graph: Graph, node: Node, limits: dict[str, float], non_negative: bool) -> None:
    x, weight, bias, residual = (*node.inputs, "", "")[:4]
    codes, scale = quantize_per_channel(graph.data(weight))
    shift = graph.data(bias).astype(np.float64) if bias else np.zeros(scale.shape)
    scale = scale.astype(np.float64)
    if x in limits:
        scale *= limits[x] / _LARGEST_CODE
    a = attributes(node)
    if node.outputs[0] in limits:
        step = limits[node.outputs[0]] / _LARGEST_CODE
        scale, shift = scale / step, shift / step
        a |= {"activation": "none", "alpha": 0.0, "beta": 0.0, "output": CODED}
    node.op = _LAYERS[node.op]
    node.attributes = {**a, "non_negative": non_negative and x not in limits}
    stem = node.name
    arrays = (codes, scale.astype(np.float32), shift.astype(np.float32))
    parts = (f"{stem}/codes", f"{stem}/scale", f"{stem}/shift")
    names = [graph.add_array(graph.fresh_name(p), array) for p, array in zip(parts, arrays, strict=True)]
    node.inputs = (x, *names, residual) if residual else (x, *names)
