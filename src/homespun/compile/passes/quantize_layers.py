"""Pass: run convolutions and linear layers in 8 bits. The last pass for a predictor with 8-bit weights.

Rule 1: weights of `conv2d` and `linear` become int8 codes with one scale for each output channel.
Rule 2: an activation whose range is known from its function (`relu6`, `clip` from 0) is stored as uint8 codes of that
range if whoever writes and reads it can: 8-bit layers, and the mean over an image.
Rule 3: all other tensors stay float32; an 8-bit layer that reads one quantises it as it goes, each row on its own
range. So linear bottlenecks, residual sums and activations without a bound keep their precision, and no data is needed.
Rule 4: channels that hardly get as large as the function allows (`limits`) spread their codes over less. Where all
readers treat channels apart (depthwise, mean) each channel has its own range, else the tensor has that of its largest.
Rule 5: what has no 8-bit kernel (depthwise convolutions of float32, or with unusual windows) runs in float32, with the
same rounded weights.
Rule 6: so does a layer whose weights are marked to stay in 16 bits; what it writes and reads is then float32 too.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"; per-row ranges as in Yao et al. 2022, "ZeroQuant", section 4.1; ranges from batch norm as in Nagel et al.
2019, "Data-free quantization through weight equalization and bias correction", section 5.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homespun.compile.ranges import upper_bound
from homespun.compression import quantize_per_channel
from homespun.graph import Array, Graph, Node
from homespun.graph.operator import attributes
from homespun.ops.quantized import CODED, has_depthwise_kernel

_LAYERS = {"conv2d": "quantized_conv2d", "linear": "quantized_linear"}
_POOL = "global_average_pool"
_LARGEST_CODE = 255
_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "abs", "exp", "square")
_SIGN_PASSES_THROUGH = ("reshape", "flatten", "max_pool", "average_pool", _POOL, "transpose", "slice")


def quantize_layers(graph: Graph, limits: Mapping[str, Array] | None = None) -> bool:
    """Apply the pass in place; True if anything changed. `limits`: see `compile.ranges`."""
    steps = code_steps(graph, limits or {})
    producers = graph.producers()
    changed = False
    for node in graph.nodes:
        if node.op == _POOL and node.inputs[0] in steps:
            channels = graph.data(producers[node.inputs[0]].inputs[1]).shape[-1]
            scale = np.broadcast_to(steps[node.inputs[0]], (channels,)).astype(np.float32)
            node.op = f"quantized_{_POOL}"
            node.inputs = (node.inputs[0], graph.add_array(graph.fresh_name(f"{node.inputs[0]}/step"), scale))
        elif node.op in _LAYERS and _has_weights(graph, node) and not _stays_float(graph, node, steps):
            _quantize_layer(graph, node, steps, non_negative=_is_non_negative(producers, node.inputs[0]))
            changed = True
    return changed


def code_steps(graph: Graph, limits: Mapping[str, Array]) -> dict[str, Array]:
    """What one code is worth in the tensors that are stored as uint8 codes (rule 2): () or (channels,)."""
    return {name: end / _LARGEST_CODE for name, end in coded_activations(graph, limits).items()}


def coded_activations(graph: Graph, limits: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors that are stored as uint8 codes (rule 2), with the value of the largest code: () or (channels,)."""
    producers, consumers = graph.producers(), graph.consumers()
    bounds = {name: bound for name, node in producers.items() if (bound := _bound(graph, node)) is not None}
    while True:
        kept = {
            name: bound
            for name, bound in bounds.items()
            if name not in graph.outputs
            and not _stays_float(graph, producers[name], bounds)
            and all(_reads_codes(graph, reader, name, bounds) for reader in consumers.get(name, []))
        }
        if len(kept) == len(bounds):
            break
        bounds = kept
    ends: dict[str, Array] = {}
    for name, bound in bounds.items():
        end = np.minimum(limits.get(name, np.float64(bound)), bound)
        by_channel = all(r.op == _POOL or _is_depthwise(graph, r) for r in consumers.get(name, []))
        ends[name] = end if by_channel else np.max(end)
    return ends


def _bound(graph: Graph, node: Node) -> float | None:
    """The upper end of what a layer writes, if its activation makes that 0 to a known bound."""
    if node.op not in _LAYERS or not _has_weights(graph, node) or node.inputs[3:] not in ((), ("",)):
        return None
    return upper_bound(node)


def _reads_codes(graph: Graph, node: Node, name: str, coded: Mapping[str, object]) -> bool:
    if node.op == _POOL:
        return True
    if node.op not in _LAYERS or not _has_weights(graph, node) or name in node.inputs[1:]:
        return False
    return not _stays_float(graph, node, coded)


def _stays_float(graph: Graph, node: Node, coded: Mapping[str, object]) -> bool:
    """Rule 5: the depthwise kernel reads and writes codes only, and knows the usual windows only. Rule 6."""
    if graph.tensors[node.inputs[1]].half:
        return True
    if not _is_depthwise(graph, node):
        return False
    in_codes = node.inputs[0] in coded and node.outputs[0] in coded
    return not (in_codes and has_depthwise_kernel(graph.data(node.inputs[1]).shape, attributes(node)))


def _is_depthwise(graph: Graph, node: Node) -> bool:
    if node.op != "conv2d":
        return False
    channels = graph.data(node.inputs[1]).shape[-1]
    return bool(attributes(node)["groups"] == channels > 1)


def _has_weights(graph: Graph, node: Node) -> bool:
    """Whether the weights are known now, which those of a layer that multiplies two activations are not."""
    tensor = graph.tensors[node.inputs[1]]
    return tensor.data is not None and tensor.dtype == "float32"


def _is_non_negative(producers: Mapping[str, Node], name: str) -> bool:
    node = producers.get(name)
    while node is not None and node.op in _SIGN_PASSES_THROUGH:
        node = producers.get(node.inputs[0])
    return node is not None and (node.op in _NEVER_NEGATIVE or node.attributes.get("activation") in _NEVER_NEGATIVE)


def _quantize_layer(graph: Graph, node: Node, steps: Mapping[str, Array], non_negative: bool) -> None:
    x, weight, bias, residual = (*node.inputs, "", "")[:4]
    codes, weight_scale = quantize_per_channel(graph.data(weight))
    scale = weight_scale.astype(np.float64)
    shift = graph.data(bias).astype(np.float64) if bias else np.zeros(scale.shape)
    if x in steps:
        scale = scale * steps[x]
    a = attributes(node)
    if node.outputs[0] in steps:
        step = steps[node.outputs[0]]
        scale, shift = scale / step, shift / step
        a |= {"activation": "none", "alpha": 0.0, "beta": 0.0, "output": CODED}
    node.op = _LAYERS[node.op]
    node.attributes = {**a, "non_negative": non_negative and x not in steps}
    arrays = {"codes": codes, "scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
    names = [graph.add_array(graph.fresh_name(f"{node.name}/{part}"), array) for part, array in arrays.items()]
    node.inputs = (x, *names, residual) if residual else (x, *names)
