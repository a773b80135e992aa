"""Pass: where only some rows of a result are read, such as the first token of each text, compute no others.

Rule 1: where all that is read of a tensor is one slice along an axis that is neither the first, which is the batch, nor
the last, and the operator that makes it works row by row (`rows` of its record), it is made of that slice of its
inputs; and so on upwards. A tensor that somebody reads whole is cut where this ends.
Rule 2: a slice of more than half of an axis stays where it is: there is little to save, and what is cut is a copy.

An encoder with a classifier on its first token so does the last layer's feed-forward part, projection and queries for
one token of each text; keys and values need all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from homespun.graph import Graph, Node, Tensor, TensorType
from homespun.graph.operator import attributes, operator


class Rows(NamedTuple):
    """From `start` up to but not `stop`, along an axis counted from the last, which is -1."""

    axis: int
    start: int
    stop: int


def select_rows_early(graph: Graph, types: Mapping[str, TensorType]) -> bool:
    """Apply the pass in place; True if anything changed. `types` are those before it; infer anew afterwards."""
    narrowed = _narrowed(graph, types)
    if not narrowed:
        return False
    old, graph.nodes = graph.nodes, []
    cuts: dict[tuple[str, Rows], str] = {}
    done: dict[str, str] = {}

    def cut(name: str, rows: Rows) -> str:
        if (name, rows) not in cuts:
            part = graph.add_tensor(Tensor(graph.fresh_name(f"{name}/rows"), "activation"))
            graph.tensors[part].limit = graph.tensors[name].limit
            axis = rows.axis + len(types[name].shape)
            graph.add_node("slice", (name,), (part,), {"axis": axis, "start": rows.start, "stop": rows.stop})
            cuts[name, rows] = part
        return cuts[name, rows]

    for node in old:
        if (rows := narrowed.get(node.outputs[0])) is not None:
            parts = _of_inputs(node, rows, types)
            node.inputs = tuple(
                n if part is None or n in narrowed else cut(n, part) for n, part in zip(node.inputs, parts, strict=True)
            )
        elif node.op == "slice" and node.inputs[0] in narrowed:  # made early: its input is all that it reads
            if node.outputs[0] not in graph.outputs:
                done[node.outputs[0]] = node.inputs[0]
                continue
            node.op, node.attributes = "identity", {}
        graph.nodes.append(node)
    for output, source in done.items():
        graph.replace_uses(output, source)
    return True


def _narrowed(graph: Graph, types: Mapping[str, TensorType]) -> dict[str, Rows]:
    """The tensors of which only some rows are to be made."""
    wanted: dict[str, set[Rows | None]] = {name: {None} for name in graph.outputs}  # None: the whole
    narrowed: dict[str, Rows] = {}
    for node in reversed(graph.nodes):
        parts: Sequence[Rows | None] = [None] * len(node.inputs)
        reads = wanted.get(node.outputs[0], {None})
        rows = next(iter(reads)) if len(reads) == 1 and len(node.outputs) == 1 else None
        if rows is not None and operator(node).rows:
            narrowed[node.outputs[0]] = rows
            parts = _of_inputs(node, rows, types)
        elif node.op == "slice":
            parts = [_rows_of(node, types)]
        for name, part in zip(node.inputs, parts, strict=True):
            if name:
                wanted.setdefault(name, set()).add(part)
    return narrowed


def _rows_of(node: Node, types: Mapping[str, TensorType]) -> Rows | None:
    """What a slice reads, or None where rule 1 or 2 leaves it where it is."""
    a, shape, out = attributes(node), types[node.inputs[0]].shape, types[node.outputs[0]].shape
    axis = a["axis"] if a["axis"] >= 0 else a["axis"] + len(shape)
    if not 0 < axis < len(shape) - 1 or 2 * out[axis] > shape[axis]:
        return None
    return Rows(axis - len(shape), a["start"], a["start"] + out[axis])


def _of_inputs(node: Node, rows: Rows, types: Mapping[str, TensorType]) -> list[Rows | None]:
    """Which rows of each input make those of the output; None: the whole, as of what is the same for all rows."""
    names = [n.removesuffix("?") for n in operator(node).inputs]
    shape, by_row = types[node.outputs[0]].shape, operator(node).rows
    parts: list[Rows | None] = []
    for name, operand in zip(node.inputs, names, strict=False):
        of = types[name].shape if name else ()
        along = len(of) >= -rows.axis and of[rows.axis] == shape[rows.axis]
        parts.append(rows if operand in by_row and along else None)
    return parts
