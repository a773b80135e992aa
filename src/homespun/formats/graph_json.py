"""A graph as JSON and back: the part of an `.hsp` file that says what the model computes.

Reading checks everything: a file may come from anywhere. What does not fit raises `FormatError` that names the place;
the array data themselves are `hsp`'s concern, which hands them over through `arrays`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

import homespun.ops  # noqa: F401  (fills the operators' table, which the checks read)
from homespun.errors import FormatError, ModelError
from homespun.formats.checked import check_foreign, shortened
from homespun.graph import BATCH, Array, Attribute, Graph, Node, Tensor, TensorType
from homespun.graph.graph import ITEM_SIZE, Role
from homespun.graph.operator import OPERATORS, REQUIRED

VERSION = 1
_ROLES = ("input", "parameter", "state", "constant")
_LARGEST_INT = 2**31 - 1


def dump(graph: Graph, storage: Mapping[str, Mapping[str, Any]], limits: Mapping[str, str]) -> str:
    """JSON text of a graph. `storage` adds entries to the tensors of those names: how and where their data are;
    `limits` names the arrays that hold limits of activations.

    Raises `ModelError` if two nodes have the same name.
    """
    if len({n.name for n in graph.nodes}) != len(graph.nodes):
        raise ModelError(f"graph {graph.name!r}: two nodes have the same name; files need names that differ")
    tensors = []
    for t in graph.tensors.values():
        if t.role != "activation":
            entry = {"name": t.name, "role": t.role, "dtype": t.dtype, "shape": list(t.shape)}
            tensors.append({**entry, **storage.get(t.name, {})})
    document = {
        "version": VERSION,
        "name": graph.name,
        "metadata": graph.metadata,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "tensors": tensors,
        "nodes": [_node(n) for n in graph.nodes],
    }
    if limits:
        document["limits"] = dict(limits)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _node(node: Node) -> dict[str, Any]:
    attributes = {k: _encode(v) for k, v in node.attributes.items()}
    return {
        "op": node.op,
        "name": node.name,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": attributes,
    }


def _encode(value: Attribute) -> Any:
    """Tuples become lists, and numbers that JSON has not become {"float": "inf"}."""
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


class Reader:
    """Checks a JSON document piece by piece; every complaint names the file and the place."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, place: str, what: str) -> FormatError:
        """The error to raise."""
        return FormatError(f"{self.file}: {place}: {what}")

    def field(self, parent: Any, key: str, kind: type, place: str) -> Any:
        """`parent[key]`, which must be of a type. A bool is not an int here."""
        if not isinstance(parent, dict):
            raise self.fail(place, f"expected an object, found {_kind(parent)}")
        if key not in parent:
            raise self.fail(place, f"{key!r} is missing")
        value = parent[key]
        if type(value) is not kind:
            raise self.fail(place, f"{key!r} is {_kind(value)}, expected {_KINDS[kind]}")
        return value

    def names(self, parent: Any, key: str, place: str) -> list[str]:
        """`parent[key]`, which must be a list of strings."""
        values = self.field(parent, key, list, place)
        for value in values:
            if type(value) is not str:
                raise self.fail(place, f"{key!r} holds {_kind(value)}, expected strings only")
        return cast(list[str], values)

    def parse(self, text: str, place: str) -> Any:
        """JSON text as Python values. NaN, infinities and keys given twice are refused."""

        def refuse(constant: str) -> Any:
            raise self.fail(place, f"{constant} is not JSON")

        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            result = dict(pairs)
            if len(result) != len(pairs):
                raise self.fail(place, "an object has the same key twice")
            return result

        try:
            return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
        except (ValueError, RecursionError) as e:
            raise self.fail(place, f"not readable as JSON: {e}") from None

    def graph(self, text: str, arrays: Callable[[str, dict[str, Any], Tensor], Array]) -> Graph:
        """The graph of a JSON text. `arrays(place, entry, tensor)` gives the data of a tensor that carries some."""
        place = "graph"
        document = self.parse(text, place)
        version = self.field(document, "version", int, place)
        if version != VERSION:
            raise self.fail(place, f"version {version}; this release reads version {VERSION}: update Homespun")
        graph = Graph(self.field(document, "name", str, place))
        for key, value in self.field(document, "metadata", dict, place).items():
            if type(value) is not str:
                raise self.fail(place, f"metadata {shortened(key)} is {_kind(value)}, expected a string")
            graph.metadata[key] = value
        graph.inputs, graph.outputs = self.names(document, "inputs", place), self.names(document, "outputs", place)
        if len(set(graph.inputs)) != len(graph.inputs):
            raise self.fail(place, "an input is listed twice")
        for i, entry in enumerate(self.field(document, "tensors", list, place)):
            self._tensor(graph, f"tensor {i}", entry, arrays)
        names: set[str] = set()
        written: set[str] = set()
        for i, entry in enumerate(self.field(document, "nodes", list, place)):
            self._node(graph, f"node {i}", entry, names, written)
        types = check_foreign(graph, self.fail)
        if "limits" in document:
            self._limits(graph, self.field(document, "limits", dict, place), types, arrays)
        return graph

    def _tensor(
        self, graph: Graph, place: str, entry: Any, arrays: Callable[[str, dict[str, Any], Tensor], Array]
    ) -> None:
        name = self.field(entry, "name", str, place)
        place = f"tensor {shortened(name)}"
        role, dtype = self.field(entry, "role", str, place), self.field(entry, "dtype", str, place)
        if not name or name in graph.tensors:
            raise self.fail(place, "the name is empty or is given twice")
        if role not in _ROLES:
            raise self.fail(place, f"role {shortened(role)}; it can be {', '.join(_ROLES)}")
        if dtype not in ITEM_SIZE:
            raise self.fail(place, f"dtype {shortened(dtype)}; it can be {', '.join(ITEM_SIZE)}")
        shape = self.field(entry, "shape", list, place)
        least = 1 if role == "input" else 0
        for i, d in enumerate(shape):
            free = d == BATCH and i == 0 and role == "input"
            if type(d) is not int or not (free or least <= d <= _LARGEST_INT):
                raise self.fail(place, f"axis {i} of the shape is {shortened(d)}")
        tensor = Tensor(name, cast(Role, role), tuple(shape), dtype)
        if "half" in entry:
            tensor.half = self.field(entry, "half", bool, place)
        if role != "input":
            tensor.data = arrays(place, entry, tensor)
        graph.add_tensor(tensor)

    def _node(self, graph: Graph, place: str, entry: Any, names: set[str], written: set[str]) -> None:
        op, name = self.field(entry, "op", str, place), self.field(entry, "name", str, place)
        place = f"node {shortened(name)}" if name else place
        if op not in OPERATORS:
            raise self.fail(place, f"there is no operator named {shortened(op)}")
        inputs, outputs = self.names(entry, "inputs", place), self.names(entry, "outputs", place)
        if not outputs or not outputs[0]:
            raise self.fail(place, "it has no output")
        for out in outputs:
            role = graph.tensors[out].role if out in graph.tensors else "activation"
            if out and (out in written or role in ("input", "constant")):
                raise self.fail(place, f"it writes {shortened(out)}, which can't be written or is written already")
            written.add(out)
        attributes = {
            key: self._attribute(f"{place}: attribute {shortened(key)}", op, key, value)
            for key, value in self.field(entry, "attributes", dict, place).items()
        }
        node = graph.add_node(op, inputs, outputs, attributes, name)
        if node.name in names:
            raise self.fail(place, "another node has the same name")
        names.add(node.name)

    def _attribute(self, place: str, op: str, key: str, value: Any) -> Attribute:
        """A value of the type that the operator's default has; an int where a float is expected becomes one."""
        default = OPERATORS[op].attributes.get(key, REQUIRED)
        if type(value) is int and type(default) is int and value == default:
            return value  # even one beyond 32 bits, such as the end of a slice that has none
        found = self._decode(place, value)
        if type(default) is float and type(found) is int:
            return float(found)
        either = key == "padding" and isinstance(found, str)  # names of a rule are possible beside numbers
        if default is not REQUIRED and not either and type(found) is not type(default):
            raise self.fail(place, f"found {_kind(value)}, expected something like {default!r}")
        if isinstance(default, tuple) and isinstance(found, tuple) and [*map(type, found)] != [*map(type, default)]:
            raise self.fail(place, f"found {shortened(list(found))}, expected something like {list(default)}")
        return found

    def _decode(self, place: str, value: Any) -> Attribute:
        if isinstance(value, list):
            return cast(Attribute, tuple(self._number(place, v) for v in value))
        return value if type(value) in (str, bool) else self._number(place, value)

    def _number(self, place: str, value: Any) -> int | float:
        if isinstance(value, dict):
            text = self.field(value, "float", str, place)
            if text not in ("inf", "-inf", "nan") or len(value) > 1:
                raise self.fail(place, f"{shortened(text)} is no number")
            return float(text)
        if type(value) is int and abs(value) > _LARGEST_INT:
            raise self.fail(place, f"{value} does not fit 32 bits")
        if type(value) not in (int, float):
            raise self.fail(place, f"found {_kind(value)}, expected a number")
        return cast(float, value)

    def _limits(
        self,
        graph: Graph,
        limits: dict[str, Any],
        types: Mapping[str, TensorType],
        arrays: Callable[[str, dict[str, Any], Tensor], Array],
    ) -> None:
        """Limits of activations: one positive number for each index of the last axis."""
        for name in limits:
            place = f"limit of {shortened(name)}"
            if name not in graph.tensors or graph.tensors[name].role != "activation":
                raise self.fail(place, "there is no such activation")
            key = self.field(limits, name, str, place)
            limit = arrays(place, {}, Tensor(key, "constant", types[name].shape[-1:], "float16"))
            if not (np.isfinite(limit).all() and (limit > 0).all()):
                raise self.fail(place, "not all values are positive and finite")
            graph.tensors[name].limit = limit


_KINDS: dict[type, str] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)
