"""Pass: move batch norm with fixed statistics into the weights of the convolution or linear layer before it.

Rule 1: the norm's input is read by the norm alone and comes from `conv2d` or `linear` without a fused activation or
residual; then W' = W * scale and b' = b * scale + shift, by output channel, and the norm is gone.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3.2.
"""

from __future__ import annotations

import numpy as np

from homespun.graph import Graph, Node
from homespun.graph.operator import attributes
from homespun.ops.normalization import scale_and_shift


def fold_batch_norm(graph: Graph) -> bool:
    """Apply the pass in place; True if anything changed. Weights are replaced by new constants, never written to."""
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        before = producers.get(node.inputs[0])
        if before is None or before.op not in ("conv2d", "linear") or not _foldable(before):
            continue
        if len(consumers[node.inputs[0]]) > 1 or node.inputs[0] in graph.outputs:
            continue
        scale, shift = scale_and_shift(attributes(node)["eps"], *(graph.data(n) for n in node.inputs[1:]))
        weight = graph.data(before.inputs[1])
        old_bias = before.inputs[2] if len(before.inputs) > 2 else ""
        bias = shift + graph.data(old_bias) * scale if old_bias else shift
        w_name = graph.add_array(graph.fresh_name(f"{before.inputs[1]}/folded"), weight * scale)
        graph.tensors[w_name].half = graph.tensors[before.inputs[1]].half
        b_name = graph.add_array(graph.fresh_name(f"{node.inputs[2]}/folded"), bias.astype(np.float32))
        before.inputs = (before.inputs[0], w_name, b_name)
        before.outputs = node.outputs
        producers[node.outputs[0]] = before
        dropped.add(id(node))
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]
    return bool(dropped)


def _foldable(node: Node) -> bool:
    has_residual = len(node.inputs) > 3 and node.inputs[3] != ""
    return attributes(node)["activation"] == "none" and not has_residual
