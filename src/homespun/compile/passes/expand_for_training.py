"""Pass: rewrite the operators that behave otherwise in training into those that say so.

Rule 1: `conv2d` and `linear` become `train_conv2d` and `train_linear`, which read weights as the optimizer keeps them;
an activation or residual that was fused into them becomes a node again.
Rule 2: `batch_norm` becomes sums, coefficients and `normalize`; if neither its weight nor its bias is trained, it is
frozen: coefficients come from the running statistics, and those stay.
Rule 3: `dropout` draws numbers from the state `random`; with a rate of zero it goes. That of whole samples goes too
where no trained parameter stands before it: what is frozen computes the same at every step.
Rule 4: `attention` becomes `train_attention`, which draws numbers too where its dropout is not zero.
Rule 5: an activation that alone reads a `normalize`, and then an addition that alone reads it, move into it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import homespun.ops  # noqa: F401  (fills the operators' table)
from homespun.graph import Attribute, Graph, Node, TensorType
from homespun.graph.operator import attributes
from homespun.ops.activation import FUSIBLE, fused
from homespun.ops.training_norm import rows_of


@dataclass(frozen=True)
class RunningStatistics:
    """One batch norm whose running statistics follow the batches."""

    sums: str
    mean: str
    variance: str
    count: int
    momentum: float


def expand_for_training(
    graph: Graph, types: dict[str, TensorType], trainable: Collection[str], random: str
) -> list[RunningStatistics]:
    """Apply rules 1 to 5 in place; returns the statistics that a step has to update."""
    old, graph.nodes = graph.nodes, []
    statistics: list[RunningStatistics] = []
    dropouts = 0
    learning = set(trainable)  # and what follows from them
    for node in old:
        a = attributes(node)
        if not learning.isdisjoint(node.inputs):
            learning.update(node.outputs)
        if node.op in ("conv2d", "linear"):
            _expand_layer(graph, node)
        elif node.op == "batch_norm":
            _expand_norm(graph, node, types, trainable, statistics)
        elif node.op == "dropout" and a["rate"] > 0 and (node.inputs[0] in learning or not a["samples"]):
            graph.add_node("train_dropout", (node.inputs[0], random), node.outputs, {**a, "layer": dropouts})
            dropouts += 1
        elif node.op == "dropout":
            graph.add_node("identity", node.inputs, node.outputs)
        elif node.op == "attention":
            drops = a["dropout"] > 0
            inputs = (*(*node.inputs, "")[:4], random if drops else "")
            log_sums = graph.fresh_name(f"{node.outputs[0]}/log_sums")
            graph.add_node(
                "train_attention", inputs, (*node.outputs, log_sums), {**a, "layer": dropouts}, name=node.name
            )
            dropouts += drops
        elif a.get("activation", "none") != "none":
            _split_activation(graph, node, node.op, node.inputs, dict(node.attributes))
        else:
            graph.nodes.append(node)
    _fuse_into_normalize(graph, types)
    return statistics


def _expand_layer(graph: Graph, node: Node) -> None:
    x, w, bias, residual = (*node.inputs, "", "")[:4]
    kept = {k: v for k, v in node.attributes.items() if k in ("stride", "dilation", "padding", "groups")}
    if residual:
        z = graph.fresh_name(f"{node.outputs[0]}/before_residual")
        graph.add_node(f"train_{node.op}", (x, w, bias), (z,), kept)
        added = Node("add", (z, residual), node.outputs, _activation(node), node.name)
        _split_activation(graph, added, "add", added.inputs, added.attributes)
        return
    _split_activation(graph, node, f"train_{node.op}", (x, w, bias), {**kept, **_activation(node)})


def _activation(node: Node) -> dict[str, Attribute]:
    return {k: v for k, v in node.attributes.items() if k in ("activation", "alpha", "beta")}


def _split_activation(graph: Graph, node: Node, op: str, inputs: tuple[str, ...], given: dict[str, Any]) -> None:
    """Append `op` and, as a node of its own, the activation that was fused into it."""
    kind = given.get("activation", "none")
    plain = {k: v for k, v in given.items() if k not in ("activation", "alpha", "beta")}
    if kind == "none":
        graph.add_node(op, inputs, node.outputs, plain, node.name)
        return
    before = graph.fresh_name(f"{node.outputs[0]}/before_activation")
    graph.add_node(op, inputs, (before,), plain)
    names = {"leaky_relu": ("alpha",), "hard_sigmoid": ("alpha", "beta"), "elu": ("alpha",)}.get(kind, ())
    settings = {k: given[k] for k in names if k in given}
    if kind == "clip":
        settings = {"low": given.get("alpha", 0.0), "high": given.get("beta", 0.0)}
    graph.add_node(kind, (before,), node.outputs, settings, node.name)


def _expand_norm(
    graph: Graph,
    node: Node,
    types: dict[str, TensorType],
    trainable: Collection[str],
    statistics: list[RunningStatistics],
) -> None:
    a = attributes(node)
    x, weight, bias, mean, variance = node.inputs
    count = rows_of(types[x])
    frozen = weight not in trainable and bias not in trainable
    sums = ""
    if not frozen:
        sums = graph.fresh_name(f"{node.name}/batch_sums")
        graph.add_node("channel_sums", (x,), (sums,))
        statistics.append(RunningStatistics(sums, mean, variance, count, float(a["momentum"])))
    coefficients = graph.fresh_name(f"{node.name}/batch_coefficients")
    graph.add_node(
        "batch_norm_coefficients",
        (sums, weight, bias, *((mean, variance) if frozen else ("", ""))),
        (coefficients,),
        {"eps": a["eps"], "count": count, "frozen": frozen},
    )
    graph.add_node("normalize", (x, coefficients, weight, bias), node.outputs, {"frozen": frozen}, node.name)


def _fuse_into_normalize(graph: Graph, types: dict[str, TensorType]) -> None:
    producers, consumers = graph.producers(), graph.consumers()
    dropped: set[int] = set()
    for node in graph.nodes:
        if node.op in FUSIBLE:
            norm = _lone_normalize(graph, producers, consumers, node.inputs[0])
            if norm is None or norm.attributes.get("activation", "none") != "none" or len(norm.inputs) > 4:
                continue
            norm.attributes.update(fused(node.op, attributes(node)))
            norm.outputs = node.outputs
            producers[node.outputs[0]] = norm
            dropped.add(id(node))
        elif node.op == "add" and types[node.inputs[0]] == types[node.inputs[1]]:
            for summand, other in (node.inputs[:2], node.inputs[1::-1]):
                norm = _lone_normalize(graph, producers, consumers, summand)
                if norm is None or summand == other or len(norm.inputs) > 4:
                    continue
                dropped.add(id(norm))
                node.op, node.inputs = "normalize", (*norm.inputs, other)
                node.attributes = dict(norm.attributes)
                break
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]


def _lone_normalize(
    graph: Graph, producers: dict[str, Node], consumers: dict[str, list[Node]], tensor: str
) -> Node | None:
    """The `normalize` that makes a tensor, if nobody else reads it."""
    node = producers.get(tensor)
    alone = len(consumers.get(tensor, ())) == 1 and tensor not in graph.outputs
    return node if node is not None and node.op == "normalize" and alone else None
