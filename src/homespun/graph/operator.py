"""What can be known about an operator: the record that `homespun.ops` fills in, one for each operator.

It stands with the graph because checking, printing and shape inference need it; the operators themselves, and their
table, are in `homespun.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from homespun.errors import ModelError
from homespun.graph.graph import Array, Attribute, Graph, Node, TensorType

Attributes = Mapping[str, Any]
ShapeRule = Callable[[Attributes, Sequence[TensorType | None]], Sequence[TensorType]]


@dataclass(frozen=True)
class Cost:
    """What an operator costs at given shapes: floating-point operations (a multiply-add is two)."""

    flops: int = 0


class Gradients(Protocol):
    """What a gradient rule builds with: it appends nodes to the joint graph."""

    graph: Graph

    def add(self, op: str, inputs: Sequence[str], stem: str = "", **attributes: Attribute) -> str:
        """Append a node with one output and return that output's name."""

    def add_many(
        self, op: str, inputs: Sequence[str], stems: Sequence[str], **attributes: Attribute
    ) -> tuple[str, ...]:
        """Append a node with several outputs; an empty stem leaves that output out."""

    def type(self, tensor: str) -> TensorType:
        """Shape and dtype of a tensor, with the batch size bound."""

    def wanted(self, tensor: str) -> bool:
        """Whether anybody needs the gradient of this tensor."""


class Channels(Protocol):
    """What a channel rule tells about a node to whoever wants to take channels away.

    Channels are numbered across the whole graph; each index of a tensor's last axis is one. What has the same number
    goes or stays together.
    """

    def type(self, tensor: str) -> TensorType:
        """Shape and dtype of a tensor, for a batch of one."""

    def of(self, tensor: str) -> Array:
        """Numbers (C,) of the channels along the last axis of a tensor; new ones if it has none yet."""

    def give(self, tensor: str, numbers: Array) -> None:
        """Number the last axis of an output."""

    def carries(self, tensor: str) -> bool:
        """Whether a tensor's data are in the graph, so that channels can be taken out of them."""

    def couple(self, *numbers: Array) -> None:
        """Channels at the same place in each of these arrays go or stay together."""

    def freeze(self, numbers: Array) -> None:
        """Channels that stay."""

    def lay(self, tensor: str, axis: int, numbers: Array) -> None:
        """Number an axis of a tensor that carries data; coupled to what its numbers were before, if it had any."""

    def adjust(self, attribute: str, value: Callable[[Callable[[Array], int]], Attribute]) -> None:
        """An attribute of the node that depends on channels: its value from a function that counts which remain."""


#: (channels, node) -> None; says which channels of a node's tensors go together. Without a rule all of them stay.
ChannelRule = Callable[[Channels, Node], None]
#: (builder, node, gradients of its outputs or None) -> gradients of its inputs, None where there is none.
GradientRule = Callable[[Gradients, Node, Sequence[str | None]], Sequence[str | None]]
#: (lowering, node) -> None; emits kernel calls. The type of the first is in homespun.compile, below this layer.
LowerRule = Callable[[Any, Node], None]
#: (writer, node) -> None; writes standard ONNX nodes. The type of the first is in homespun.formats.onnx.writer.
OnnxRule = Callable[[Any, Node], None]


@dataclass(frozen=True)
class Operator:
    """One operator, declared once.

    `inputs`: names; a trailing "?" marks an optional one, a lone "*" any number. `attributes`: defaults; one whose
    default is `REQUIRED` must be given. `shape` maps attributes and input types to output types, or raises
    `ShapeError`. `gradient` returns graph nodes; None means that there is none, and `no_gradient` says why. `saves`
    names all that the kernels of the gradient may read ("output" or names of `inputs`; the tests compare): what stays
    in memory until then. `in_place`: the inputs whose memory output 0 may take. `rows`: the inputs of which a slice of
    the output, along any axis but the last, needs only the same slice. `onnx` is its name there, and `to_onnx` writes
    it in standard ONNX operators, be they one or many. `channels` says what goes with a channel that is pruned.
    """

    name: str
    inputs: tuple[str, ...]
    shape: ShapeRule
    attributes: Mapping[str, Any] = field(default_factory=dict)
    lower: LowerRule | None = None
    gradient: GradientRule | None = None
    no_gradient: str = ""
    saves: tuple[str, ...] = ()
    in_place: tuple[int, ...] = ()
    rows: tuple[str, ...] = ()
    cost: Callable[[Attributes, Sequence[TensorType | None], Sequence[TensorType]], Cost] = lambda a, i, o: Cost(
        sum(t.size for t in o)
    )
    onnx: str = ""
    to_onnx: OnnxRule | None = None
    channels: ChannelRule | None = None


REQUIRED = object()

#: Operators by name. Filled once, by `homespun.ops`.
OPERATORS: dict[str, Operator] = {}


def operator(node: Node) -> Operator:
    """The record of a node's operator. Raises `ModelError` if there is none."""
    try:
        return OPERATORS[node.op]
    except KeyError:
        raise ModelError(f"node {node}: there is no operator named {node.op!r}") from None


def attributes(node: Node) -> dict[str, Any]:
    """A node's attributes with the defaults filled in. Raises `ModelError` for unknown or missing ones."""
    declared = operator(node).attributes
    for key in node.attributes:
        if key not in declared:
            known = ", ".join(declared) or "none"
            raise ModelError(f"node {node}: unknown attribute {key!r}; the operator has {known}")
    full = {**declared, **node.attributes}
    missing = [k for k, v in full.items() if v is REQUIRED]
    if missing:
        raise ModelError(f"node {node}: attribute {missing[0]!r} must be given")
    return full
