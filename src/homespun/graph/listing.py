"""A graph as a table that a person can read: operators, shapes, parameters, FLOPs."""

from __future__ import annotations

from homespun.graph.graph import Graph, TensorType
from homespun.graph.infer import infer, node_flops


def listing(graph: Graph) -> str:
    """One line a node, for a batch of one, and totals."""
    types = infer(graph, batch=1)
    rows = [("node", "operator", "output", "parameters", "MFLOPs", "reads")]
    total_flops = 0
    for node in graph.nodes:
        outs = [types[n] for n in node.outputs if n]
        flops = node_flops(node, types)
        total_flops += flops
        own = [n for n in node.inputs if n and graph.tensors[n].role == "parameter"]
        count = sum(types[n].size for n in own)
        reads = [n for n in node.inputs if n and graph.tensors[n].role in ("activation", "input")]
        shape = shape_text(outs[0]) if outs else ""
        rows.append((node.name, node.op, shape, f"{count:,}" if count else "", f"{flops / 1e6:,.2f}", " ".join(reads)))
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    align = "<<<>>"
    lines = ["  ".join([*(f"{r[i]:{align[i]}{widths[i]}}" for i in range(5)), r[5]]) for r in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    parameters = sum(types[t.name].size for t in graph.with_role("parameter"))
    heads = [f"{n} {shape_text(types[n])}" for n in graph.inputs]
    tails = [f"{n} {shape_text(types[n])}" for n in graph.outputs]
    top = f"{graph.name}: {', '.join(heads)} -> {', '.join(tails)}"
    end = f"{parameters:,} parameters, {total_flops / 1e6:,.1f} MFLOPs a sample ({len(graph.nodes)} nodes)"
    return "\n".join([top, *lines, end])


def shape_text(t: TensorType) -> str:
    """`56x56x24`, without the batch; a dtype only where it is not float32."""
    dims = "x".join(str(d) for d in t.shape[1:]) or "scalar"
    return dims if t.dtype == "float32" else f"{dims} {t.dtype}"
