"""A model on its way in, whatever kind of file it is from: nodes, constants, inputs and outputs in ONNX's terms.

`reading` makes one of an ONNX file, `homespun.formats.mindir` of MindSpore's; `importer` makes the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from homespun.errors import FormatError
from homespun.formats.assembly import Unsupported
from homespun.formats.checked import shortened
from homespun.graph import Array


@dataclass
class ForeignNode:
    """One node: its operator, the names of inputs ("" where absent) and outputs, attributes as Python values.

    `kind` is what the file calls the operator, for messages. `problem` says why a node that was understood can't be
    imported; the importer lists it with all others.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    kind: str = ""
    standard: bool = True  # whether the operator is one of ONNX's own
    problem: str = ""

    def __post_init__(self) -> None:
        self.kind = self.kind or self.op
        self.name = self.name or next((o for o in self.outputs if o), self.op)

    def has(self, i: int) -> bool:
        """Whether input `i` is given."""
        return i < len(self.inputs) and self.inputs[i] != ""

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute's value. Raises `Unsupported` where it has another type than the default."""
        value = self.attributes.get(attribute, default)
        if default is not None and type(value) is not type(default):
            raise Unsupported(f"attribute {attribute!r} is {shortened(value)}, expected something like {default!r}")
        return value


@dataclass(frozen=True)
class ForeignInput:
    """An input: lengths of its axes, 0 where open, None where even their number is; None for a dtype that can't be."""

    name: str
    dims: list[int] | None
    dtype: str | None


@dataclass
class ForeignModel:
    """What a file says, checked so far that it can be walked. `size` is that of all its files together, bytes."""

    name: str
    path: Any
    fail: Callable[[str, str], FormatError]
    size: int
    nodes: list[ForeignNode]
    constants: Mapping[str, Array]
    inputs: list[ForeignInput]
    outputs: list[str]
    source: str
    opset: int
    #: What to do about an operator that can't be imported, by its `kind`; "" is for all.
    advice: Mapping[str, str]
    #: Whether every input of four axes is (N, C, H, W), as the format has it; else the operators tell.
    channels_first: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Those of the constants that training may change; None for all of float32.
    parameters: Set[str] | None = None
    #: Whether the exporter may have stored equal vectors once, so that layers which share one do so by chance.
    deduplicated: bool = True
    #: Results that matter although no output needs them.
    effects: Sequence[str] = ()


def needed_nodes(
    nodes: Sequence[ForeignNode],
    outputs: Sequence[str],
    constants: Container[str],
    fail: Callable[[str, str], FormatError],
) -> list[ForeignNode]:
    """The nodes that outputs depend on, each after those that it reads.

    Raises `FormatError` where something is written twice, or depends on itself.
    """
    makers: dict[str, ForeignNode] = {}
    for node in nodes:
        for out in node.outputs:
            if out and (out in makers or out in constants):
                raise fail("graph", f"{shortened(out)} is written twice")
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
                raise fail(f"node {shortened(node.name)}", "its inputs depend on its own output")
            state[id(node)] = 1
            stack += waiting[::-1]
    return order
