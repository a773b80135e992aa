"""The graph: what a model is, for training and for inference alike.

A `Graph` is a list of nodes, in an order in which they can run, over named tensors. Importers and zoo builders make
one, passes and autodiff transform it, the compiler lowers it. It knows nothing of kernels, files or devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from homespun.errors import ModelError

Array: TypeAlias = NDArray[Any]
Attribute: TypeAlias = int | float | str | bool | tuple[int, ...] | tuple[float, ...]
Role = Literal["input", "parameter", "state", "constant", "activation"]

#: The batch dimension of an input's shape: free until a program is compiled.
BATCH = -1
#: Metadata key: outputs, separated by commas, that only training needs; models for inference go without them.
AUXILIARY_KEY = "auxiliary_outputs"
#: Metadata key: which of these, separated by commas, a teacher of a network has too (`training.distillation`).
MATCHED_KEY = "matched_features"


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of a tensor with the batch size bound. Images are channels-last: (N, H, W, C)."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without padding."""
        return self.size * ITEM_SIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


ITEM_SIZE = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass
class Tensor:
    """A named value of a graph.

    `input` has a declared shape, whose first entry may be `BATCH`; `parameter` (trainable), `state` (written by the
    graph itself, as running statistics are) and `constant` carry `data`; an `activation` has neither: its shape
    follows from the operators once the batch size is bound (`infer`). An activation may have a `limit`, float16: what
    each channel (the last axis) hardly ever exceeds, for 8-bit programs to spread their codes over. Weights that are
    `half` stay in 16 bits where others go into 8.
    """

    name: str
    role: Role
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    data: Array | None = None
    limit: Array | None = None
    half: bool = False


@dataclass
class Node:
    """One operator applied: reads `inputs` (an empty name is an absent optional input), writes `outputs`."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name or self.outputs[0]} ({self.op})"


class Graph:
    """A model: tensors by name, nodes in an order in which they can run, inputs and outputs.

    `metadata` holds what a model carries beside its computation (class names, preprocessing, source, licence), as
    strings; it is saved and loaded with it.
    """

    def __init__(self, name: str = "model") -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.metadata: dict[str, str] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def with_role(self, *roles: Role) -> Iterator[Tensor]:
        """Tensors of the given roles, in the order in which they were added."""
        return (t for t in self.tensors.values() if t.role in roles)

    def parameters(self) -> dict[str, Array]:
        """Trainable tensors by name. The arrays are the graph's own, not copies."""
        return {t.name: data_of(t) for t in self.with_role("parameter")}

    def producers(self) -> dict[str, Node]:
        """The node that writes each activation or state."""
        return {out: node for node in self.nodes for out in node.outputs if out}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor, in order; tensors that nobody reads are absent."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    def data(self, name: str) -> Array:
        """The array of a parameter, state or constant. Raises `ModelError` for any other tensor."""
        return data_of(self.tensors[name])

    def __str__(self) -> str:
        from homespun.graph.listing import listing

        return listing(self)

    def __repr__(self) -> str:
        count = sum(t.data.size for t in self.with_role("parameter") if t.data is not None)
        return f"<Graph {self.name!r}: {len(self.nodes)} nodes, {count:,} parameters>"

    # -- changing -----------------------------------------------------------------------------------------------

    def copy(self) -> Graph:
        """A graph that can be changed without changing this one. Arrays are shared, not copied."""
        other = Graph(self.name)
        other.tensors = {
            name: Tensor(t.name, t.role, t.shape, t.dtype, t.data, t.limit, t.half) for name, t in self.tensors.items()
        }
        other.nodes = [Node(n.op, n.inputs, n.outputs, dict(n.attributes), n.name) for n in self.nodes]
        other.inputs, other.outputs = list(self.inputs), list(self.outputs)
        other.metadata = dict(self.metadata)
        return other

    def add_tensor(self, tensor: Tensor) -> str:
        """Add a tensor; its name must be new."""
        if not tensor.name or tensor.name in self.tensors:
            raise ModelError(f"{self.name}: a tensor named {tensor.name!r} exists already or the name is empty")
        self.tensors[tensor.name] = tensor
        return tensor.name

    def add_array(self, name: str, data: Array, role: Role = "constant") -> str:
        """Add a tensor that carries data."""
        return self.add_tensor(Tensor(name, role, tuple(data.shape), str(data.dtype), data))

    def add_node(
        self,
        op: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Mapping[str, Attribute] | None = None,
        name: str = "",
    ) -> Node:
        """Append a node; outputs that do not exist yet become activations."""
        node = Node(op, tuple(inputs), tuple(outputs), dict(attributes or {}), name or next(iter(outputs)))
        for out in node.outputs:
            if out and out not in self.tensors:
                self.tensors[out] = Tensor(out, "activation")
        self.nodes.append(node)
        return node

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`... : the first that no tensor has."""
        name, i = stem, 0
        while name in self.tensors:
            i += 1
            name = f"{stem}_{i}"
        return name

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name everywhere."""
        if new in self.tensors:
            raise ModelError(f"{self.name}: a tensor named {new!r} exists already")
        tensor = self.tensors.pop(old)
        tensor.name = new
        self.tensors[new] = tensor
        for node in self.nodes:
            if old in node.inputs:
                node.inputs = tuple(new if n == old else n for n in node.inputs)
            if old in node.outputs:
                node.outputs = tuple(new if n == old else n for n in node.outputs)
        self.inputs = [new if n == old else n for n in self.inputs]
        self.outputs = [new if n == old else n for n in self.outputs]

    def replace_uses(self, old: str, new: str) -> None:
        """Let every reader of `old`, and the outputs, read `new` instead."""
        for node in self.nodes:
            if old in node.inputs:
                node.inputs = tuple(new if n == old else n for n in node.inputs)
        self.outputs = [new if n == old else n for n in self.outputs]

    def prune(self) -> None:
        """Drop nodes whose results nobody needs, then tensors that no node touches. States that are written stay."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            writes_state = any(o and self.tensors[o].role in ("state", "parameter") for o in node.outputs)
            if writes_state or needed.intersection(node.outputs):
                kept.append(node)
                needed.update(n for n in node.inputs if n)
        self.nodes = kept[::-1]
        touched = set(self.inputs) | set(self.outputs)
        for node in self.nodes:
            touched.update(node.inputs, node.outputs)
        self.tensors = {name: t for name, t in self.tensors.items() if name in touched}


def data_of(tensor: Tensor) -> Array:
    """The array of a tensor that carries one. Raises `ModelError` if it does not."""
    if tensor.data is None:
        raise ModelError(f"tensor {tensor.name!r} ({tensor.role}) carries no data")
    return tensor.data
