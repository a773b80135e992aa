"""From nodes to kernel calls: what an operator's `lower` rule writes into, and the assembly of the program after it.

First every node emits calls whose operands are still names; then buffers get offsets from the memory plan, and names
become (space, offset) pairs. Spaces are the executor's: 0 arena, 1 constants, 2 state, 3 + i the i-th array of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from homespun import _native
from homespun.compile.columns import ColumnCopy, Columns
from homespun.compile.memory import Buffer, Plan, aligned, lower_bound, plan
from homespun.errors import ModelError
from homespun.graph import Array, Graph, Node, TensorType
from homespun.graph.graph import ITEM_SIZE
from homespun.graph.operator import attributes, operator

ARENA, CONSTANTS, STATE, EXTERNAL = 0, 1, 2, 3
NONE = (-1, 0)
#: How much larger what is alive at one moment may be without copies into and out of columns than with them.
_MOST_FOR_COLUMNS = 1.0625
Operand = tuple[int, int]


@dataclass
class Call:
    """One kernel call with operands by name."""

    kernel: str
    operands: dict[str, str]
    ints: dict[str, int]
    floats: dict[str, float]
    node: str

    def tensors(self) -> Iterator[tuple[str, str]]:
        """(operand, tensor) of those operands that are neither absent nor constants packed for the kernel."""
        return ((o, name) for o, name in self.operands.items() if name and not name.startswith("constant:"))


@dataclass
class ConstantPool:
    """Constants of a model, packed for one instruction set, kept so that programs of other batch sizes reuse them."""

    offsets: dict[str, int] = field(default_factory=dict)
    chunks: list[Array] = field(default_factory=list)
    size: int = 0
    _blob: Array | None = None

    def add(self, key: str, array: Array) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.offsets[key] = self.size
        self.chunks.append(raw)
        self.size += aligned(raw.size)
        self._blob = None

    def blob(self) -> Array:
        """All constants as bytes, each at its offset, aligned."""
        if self._blob is None:
            blob = aligned_empty(self.size)
            blob[:] = 0
            for offset, chunk in zip(self.offsets.values(), self.chunks, strict=True):
                blob[offset : offset + chunk.size] = chunk
            # the chunks live on as views of the blob, so that nothing is held twice
            self.chunks = [blob[o : o + c.size] for o, c in zip(self.offsets.values(), self.chunks, strict=True)]
            self._blob = blob
        return self._blob


def aligned_empty(size: int) -> Array:
    """Uninitialised bytes whose address is a multiple of 64."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


@dataclass
class Lowered:
    """A program as data: what `homespun._native.Program` takes, and the plan that it follows."""

    instructions: list[tuple[str, list[Operand], list[int], list[float]]]
    nodes: list[str]
    plan: Plan
    unshared_bytes: int
    constants: ConstantPool
    types: dict[str, TensorType]
    arena: dict[str, Buffer] = field(default_factory=dict)  # by tensor, in the order of the plan's offsets
    uses: list[Use] = field(default_factory=list)  # by instruction


@dataclass(frozen=True)
class Use:
    """What one instruction reads and writes: tensors by the name under which their bytes are planned."""

    reads: frozenset[str]
    writes: frozenset[str]


class Lowering:
    """Collects the kernel calls of a graph for one batch size, instruction set and thread count.

    `placed` says where tensors are that have a place of their own outside the arena, as what training writes to has.
    """

    def __init__(
        self,
        graph: Graph,
        types: Mapping[str, TensorType],
        isa: str,
        threads: int,
        constants: ConstantPool,
        placed: Mapping[str, Operand] | None = None,
    ) -> None:
        self.graph, self.types, self.isa, self.threads = graph, dict(types), isa, threads
        self.calls: list[Call] = []
        self._constants = constants
        self._placed = dict(placed or {})
        self._schema = _native.kernels()
        self._functions = _native.activations()
        self._nodes = {n.name: n for n in graph.nodes}
        self._alias: dict[str, str] = {}
        self._landing: dict[str, int] = {}  # root tensor -> position among the outputs
        self._copies: list[ColumnCopy] = []
        self._columns: Columns | None = None
        self._node = ""

    # -- what operators' `lower` rules use ----------------------------------------------------------------------

    def attributes(self, node: Node) -> dict[str, Any]:
        """The node's attributes, defaults filled in."""
        return attributes(node)

    def type(self, name: str) -> TensorType:
        """Shape and dtype of a tensor."""
        return self.types[name]

    def function(self, name: str) -> int:
        """The number by which the kernels know an element-wise function."""
        return self._functions[name]

    def activation(self, node: Node) -> tuple[int, dict[str, float]]:
        """Number and float parameters of the activation that is fused into a node."""
        a = attributes(node)
        return self.function(a["activation"]), {"alpha": float(a["alpha"]), "beta": float(a["beta"])}

    def data(self, name: str) -> Array:
        """The array of a tensor that this program does not change. Raises `ModelError` if it has none."""
        return self.graph.data(name)

    def constant(self, array: Array, key: str = "") -> str:
        """Put an array among the constants and return a name for it."""
        name = key or f"{self._node}/constant{len(self._constants.offsets)}"
        if name not in self._constants.offsets:
            self._constants.add(name, array)
        return "constant:" + name

    def packed(self, kernel: str, ints: Mapping[str, int], *weights: str) -> str:
        """Weights in the layout that a kernel reads, packed now, since this program does not change them."""
        key = f"{kernel}/{'+'.join(weights)}"
        if key not in self._constants.offsets:
            arrays = [np.ascontiguousarray(self.data(w)) for w in weights]
            self._constants.add(key, _native.pack(kernel, dict(ints), arrays, self.isa))
        return "constant:" + key

    def alias(self, output: str, source: str) -> None:
        """Declare that a tensor is the same bytes as another."""
        self._alias[output] = self.root(source)

    def root(self, name: str) -> str:
        """The tensor whose bytes `name` is, or among whose bytes it is."""
        return self._at(name)[0]

    def _at(self, name: str) -> tuple[str, int]:
        """(the tensor among whose bytes `name` is, how many of them come before)."""
        own = self._original(name)
        return (own, 0) if self._columns is None else self._columns.outermost(own)

    def _original(self, name: str) -> str:
        while name in self._alias:
            name = self._alias[name]
        return name

    def emit(
        self,
        kernel: str,
        operands: Mapping[str, str],
        ints: Mapping[str, int],
        floats: Mapping[str, float] | None = None,
    ) -> None:
        """Append a kernel call. Operands are tensor names; "" where an optional one is absent."""
        if kernel not in self._schema:
            raise ModelError(f"node {self._node}: no kernel named {kernel!r} is built in")
        names, int_names, float_names = self._schema[kernel]
        dense = {n: 0 for n in int_names if n.endswith("_row")}
        call = Call(kernel, dict(operands), {**dense, **ints}, dict(floats or {}), self._node)
        if "workspace" in names:
            size = _native.workspace_bytes(kernel, call.ints, self.threads, self.isa)
            if size:
                name = f"{self._node}/workspace{len(self.calls)}"
                self.types[name] = TensorType((size,), "uint8")
                call.operands["workspace"] = name
        unknown = (
            set(call.operands) - set(names) or set(call.ints) - set(int_names) or set(call.floats) - set(float_names)
        )
        missing = set(int_names) - set(call.ints) or set(float_names) - set(call.floats)
        if unknown or missing:
            what = f"does not know {sorted(unknown)}" if unknown else f"wants {sorted(missing)}"
            raise ModelError(f"node {self._node}: kernel {kernel!r} {what}")
        self.calls.append(call)

    def copy_columns(self, source: str, output: str, first: int, *, into: bool) -> None:
        """Copy a tensor into columns of a wider one from `first` on, or out of them; or let it lie there instead."""
        part, whole = (source, output) if into else (output, source)
        width, row = self.types[part].shape[-1], self.types[whole].shape[-1]
        rows = self.types[part].size // width
        ints = flat_copy(self.types[part]) | {"d4": rows, "d5": width, "s4": width if into else row}
        ints |= {"o4": row if into else width, "output_offset" if into else "input_offset": first}
        self.emit("strided_copy", {"input": source, "output": output}, ints)
        self._copies.append(ColumnCopy(self.calls[-1], part, whole, first, into))

    # -- assembly -----------------------------------------------------------------------------------------------

    def lower_all(self) -> None:
        """Run every node's rule, then see that each output of the graph has an array of its own to land in."""
        for node in self.graph.nodes:
            rule = operator(node).lower
            if rule is None:
                raise ModelError(f"node {node}: the operator has no kernel")
            self._node = node.name
            rule(self, node)
        taken: set[str] = set()
        for position, out in enumerate(self.graph.outputs):
            root = self.root(out)
            if root in taken or self.graph.tensors[root].role != "activation":
                fresh = f"{out}/output{position}"
                self.types[fresh] = self.types[out]
                self._node = fresh
                self.emit("strided_copy", {"input": root, "output": fresh}, flat_copy(self.types[out]))
                root = fresh
            taken.add(root)
            self._landing[root] = position

    def buffers(self) -> list[Buffer]:
        """Lower the graph, and say only what would be in the arena."""
        self.lower_all()
        self._place_columns()
        return list(self._lives(self._keys()).values())

    def _keys(self) -> dict[str, str]:
        """For each tensor of a call, the name under which its bytes are planned."""
        roots = {name: "" for call in self.calls for _, name in call.tensors()}
        roots.update({name: self.root(name) for name in roots})
        shared = self._share_in_place(roots)
        return {name: shared(root) for name, root in roots.items()}

    def _lives(self, keys: Mapping[str, str]) -> dict[str, Buffer]:
        lives: dict[str, list[int]] = {}
        for at, call in enumerate(self.calls):
            for _, name in call.tensors():
                lives.setdefault(keys[name], [at, at])[1] = at
        return {k: Buffer(self.types[k].nbytes, *span) for k, span in lives.items() if self._space(k) == ARENA}

    def assemble(self) -> Lowered:
        """Plan the arena and turn names into operands."""
        self.lower_all()
        self._place_columns()
        keys = self._keys()
        arena = self._lives(keys)
        layout = plan(list(arena.values()))
        offsets = dict(zip(arena, layout.offsets, strict=True))
        instructions, nodes = [], []
        uses = [self._use(call, keys) for call in self.calls]
        places = {key: self._place(key, offsets) for key in dict.fromkeys(keys.values())}
        for call in self.calls:
            names, int_names, float_names = self._schema[call.kernel]
            operands = [self._operand(call.operands.get(n, ""), keys, places) for n in names]
            ints = [call.ints[n] for n in int_names]
            instructions.append((call.kernel, operands, ints, [call.floats[n] for n in float_names]))
            nodes.append(call.node)
        unshared = sum(
            aligned(self.types[t].nbytes) for t in {self.root(name) for name in keys} if self._space(t) == ARENA
        )
        return Lowered(instructions, nodes, layout, unshared, self._constants, self.types, arena, uses)

    def _use(self, call: Call, keys: Mapping[str, str]) -> Use:
        node = self._nodes.get(call.node)
        made = set(node.outputs) if node is not None else set()
        written: set[str] = set()
        read: set[str] = set()
        for operand, name in call.tensors():
            fills = name in made or operand in ("workspace", "output")
            (written if fills else read).add(keys[name])
        return Use(frozenset(read), frozenset(written))

    def _space(self, name: str) -> int:
        """Where a root tensor's bytes are."""
        if name in self._placed:
            return self._placed[name][0]
        if name in self._landing or name in self.graph.inputs:
            return EXTERNAL
        tensor = self.graph.tensors.get(name)
        if tensor is not None and tensor.data is not None:
            return CONSTANTS
        return ARENA

    def _operand(self, name: str, keys: Mapping[str, str], places: Mapping[str, Operand]) -> Operand:
        if not name:
            return NONE
        if name.startswith("constant:"):
            return (CONSTANTS, self._constants.offsets[name.removeprefix("constant:")])
        space, offset = places[keys[name]]
        return (space, offset + self._at(name)[1])

    def _place(self, key: str, offsets: Mapping[str, int]) -> Operand:
        """Where the bytes are that are planned under a name."""
        if key in self._placed:
            return self._placed[key]
        if key in self._landing:
            return (EXTERNAL + len(self.graph.inputs) + self._landing[key], 0)
        if key in self.graph.inputs:
            return (EXTERNAL + self.graph.inputs.index(key), 0)
        if self._space(key) == CONSTANTS:
            self.constant(self.data(key), key)
            return (CONSTANTS, self._constants.offsets[key])
        return (ARENA, offsets[key])

    def _place_columns(self) -> None:
        """Drop copies into and out of columns: all that can go, or those of one kind where that would take notably more
        memory, since wholes have to live longer for their parts' sake."""

        def movable(name: str) -> bool:
            return self._space(name) == ARENA and name not in self._placed

        if not self._copies:
            return
        columns = Columns(self._copies, self.calls, self.types, self._original, movable, self._schema)
        self._columns = columns
        most = _MOST_FOR_COLUMNS * lower_bound(list(self._lives(self._keys()).values()))
        choices: list[Callable[[ColumnCopy], bool]] = [lambda c: True, lambda c: c.joins, lambda c: not c.joins]
        everything = self.calls
        for choice in choices:
            self.calls = columns.choose(choice)
            if lower_bound(list(self._lives(self._keys()).values())) <= most:
                columns.set_rows()
                return
        self.calls, self._columns = everything, None

    def _is_part(self, name: str) -> bool:
        return self._columns is not None and self._original(name) in self._columns.places

    def _share_in_place(self, roots: Mapping[str, str]) -> Callable[[str], str]:
        """Let an output take over the bytes of an input that dies with the call, where the operator allows it. `roots`
        are those of the calls' tensors."""
        end: dict[str, int] = {}  # the last call that touches a root tensor
        per_node: dict[str, int] = {}
        for at, call in enumerate(self.calls):
            for _, name in call.tensors():
                end[roots[name]] = at
            per_node[call.node] = per_node.get(call.node, 0) + 1
        parent: dict[str, str] = {}

        def find(name: str) -> str:
            while name in parent:
                name = parent[name]
            return name

        for at, call in enumerate(self.calls):
            node = self._nodes.get(call.node)
            if node is None or per_node[call.node] != 1 or not (places := operator(node).in_place):
                continue
            y = node.outputs[0]
            if not y or self._is_part(y):
                continue
            out = find(self.root(y))
            used = [find(roots[name]) for _, name in call.tensors()]
            for position in places:
                x = node.inputs[position] if position < len(node.inputs) else ""
                root = find(self.root(x))
                if (
                    x
                    and not self._is_part(x)
                    and root != out
                    and used.count(root) == 1
                    and self._space(out) in (ARENA, EXTERNAL)
                    and out not in self._placed
                    and self._space(root) == ARENA
                    and end.get(root) == at
                    and self.types[root].nbytes == self.types[self.root(y)].nbytes
                ):
                    if out in self._landing:
                        parent[root] = out
                    else:
                        parent[out] = root
                        end[root] = end[out]
                    break
        return find


def flat_copy(t: TensorType) -> dict[str, int]:
    """The integers of a `strided_copy` of a whole tensor."""
    ints = {"element_bytes": ITEM_SIZE[t.dtype], "input_offset": 0, "output_offset": 0}
    for i in range(6):
        ints |= {f"d{i}": t.size if i == 5 else 1, f"s{i}": int(i == 5), f"o{i}": int(i == 5)}
    return ints
