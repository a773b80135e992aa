"""The nodes of an ONNX model: attributes as Python values, and the order in which those that matter can run."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from homespun.formats.assembly import Unsupported
from homespun.formats.checked import shortened
from homespun.formats.onnx.reading import OnnxFile, attributes_of


class ForeignNode:
    """One ONNX node: its attributes as Python values, the names of inputs ("" where absent) and outputs."""

    def __init__(self, proto: Any, file: OnnxFile) -> None:
        self.op: str = proto.op_type
        self.outputs = list(proto.output)
        self.inputs = list(proto.input)
        self.name: str = proto.name or next((o for o in self.outputs if o), proto.op_type)
        self.domain: str = proto.domain
        self.attributes = attributes_of(proto, file)

    def has(self, i: int) -> bool:
        """Whether input `i` is given."""
        return i < len(self.inputs) and self.inputs[i] != ""

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute's value. Raises `Unsupported` where it has another type than the default."""
        value = self.attributes.get(attribute, default)
        if default is not None and type(value) is not type(default):
            raise Unsupported(f"attribute {attribute!r} is {shortened(value)}, expected something like {default!r}")
        return value


def needed_nodes(
    nodes: Sequence[ForeignNode], outputs: Sequence[str], constants: Container[str], file: OnnxFile
) -> list[ForeignNode]:
    """The nodes that outputs depend on, each after those that it reads.

    Raises `FormatError` where something is written twice, or depends on itself.
    """
    makers: dict[str, ForeignNode] = {}
    for node in nodes:
        for out in node.outputs:
            if out and (out in makers or out in constants):
                raise file.fail("graph", f"{shortened(out)} is written twice")
            if out:
                makers[out] = node
    order: list[ForeignNode] = []
    state: dict[int, int] = {}  # 1: begun, 2: placed
    for output in outputs:
        stack = [makers[output]] if output in makers else []
        while stack:
            node = stack[-1]
            if state.get(id(node)) == 2:
                stack.pop()
                continue
            waiting = [makers[n] for n in node.inputs if n in makers and state.get(id(makers[n])) != 2]
            if not waiting:
                state[id(node)] = 2
                order.append(node)
                stack.pop()
                continue
            if state.get(id(node)) == 1 and any(state.get(id(w)) == 1 for w in waiting):
                raise file.fail(f"node {shortened(node.name)}", "its inputs depend on its own output")
            state[id(node)] = 1
            stack += waiting[::-1]
    return order
