"""From a MindIR file to a model in ONNX's terms: parameters, tuples, side effects and functions fall away here.

MindSpore's graphs call each other, pass tuples and order their side effects by values of their own. What is left
after a walk over the nodes is a flat list of operators; `operators` says what each becomes in ONNX's terms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.checked import SENSELESS, shortened
from homespun.formats.mindir.operation import Closure, Operation, Ref, Value
from homespun.formats.mindir.reading import Declared, MindirFile, Special
from homespun.formats.onnx.nodes import ForeignInput, ForeignModel, ForeignNode
from homespun.formats.protobuf import Message
from homespun.graph import Array

#: Operators, and their operands, after functions have been put where they are called.
LARGEST_NETWORK = 200_000
_DEEPEST_CALL = 64
_MOST_OUTPUTS = 1000
_ELEMENTS = {1: "float32", 10: "float32", 11: "float32", 16: "float32", 17: "float32"}
_ELEMENTS |= {6: "int32", 7: "int32", 2: "uint8", 9: "bool"}
#: Operators that change a parameter: one call of such a network is not like the next.
_WRITES = ("Assign", "AssignAdd", "AssignSub", "ScatterUpdate", "ScatterAdd", "ScatterNdUpdate")
#: Operators whose results are their operands.
_PASSES_ON = ("Load", "Depend", "StopGradient", "Identity", "MakeTuple", "MakeList")


Rule = Callable[["Translation", Operation], Value]


class Translation:
    """Walks the file's main graph, and functions where they are called. Rules write with `emit` and `constant`."""

    def __init__(self, file: MindirFile, weights: Mapping[str, Array] | None, rules: Mapping[str, Rule]) -> None:
        self.file, self.rules = file, rules
        self.constants: dict[str, Array] = {}
        self.nodes: list[ForeignNode] = []
        self.makers: dict[str, ForeignNode] = {}
        self.declared: dict[str, Declared] = {}
        self.effects: list[str] = []
        self.once: set[str] = set()  # what one operator reads, and nothing else
        self._taken: dict[str, int] = {}
        self._read_counts: dict[str, Counter[str]] = {}
        self._size = 0
        self._stem = ""
        model = file.model
        self._primitives = {p["name"]: p for p in model["primitives"]}
        self._settings: dict[str, Mapping[str, Any]] = {}
        self._functions = {g["name"]: g for g in model["functions"]}
        graph = model["graph"]
        self._globals: dict[str, Value] = {}
        self.parameters = self._read_parameters(graph, weights)
        self.inputs = self._read_inputs(graph)
        for g in (graph, *model["functions"]):
            for node in g["node"]:
                if node["op_type"] == "Constant":
                    self._read_constant(node)
        self.outputs = [self.tensor(v) for v in self._flat(self._run(graph, self._globals, 0))]
        if not self.outputs:
            raise file.fail("graph", "it has no outputs")

    def model(self, advice: Mapping[str, str]) -> ForeignModel:
        """What has been found, as the importer takes it."""
        model = self.file.model
        producer = f"{model['producer_name']} {model['model_version']}".strip()[:80]
        return ForeignModel(
            name=self.file.path.stem,
            path=self.file.path,
            fail=self.file.fail,
            size=self.file.size,
            nodes=self.nodes,
            constants=self.constants,
            parameters=self.parameters,
            inputs=self.inputs,
            outputs=self.outputs,
            effects=self.effects,
            source=f"MindIR, {producer}" if producer else "MindIR",
            opset=17,
            deduplicated=False,
            channels_first=True,
            advice=advice,
        )

    # -- what rules write ---------------------------------------------------------------------------------------

    def emit(self, op: str, inputs: list[str], **attributes: Any) -> Ref:
        """Append an operator of ONNX with one result."""
        return self.append(ForeignNode(op, inputs, [self.fresh(self._stem)], attributes, kind=op))

    def emit_many(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Append an operator of ONNX with these results."""
        self.append(ForeignNode(op, inputs, outputs, attributes, kind=op))

    def append(self, node: ForeignNode) -> Ref:
        """Append an operator; its first result."""
        self._count(1 + len(node.inputs))
        self.nodes.append(node)
        for out in node.outputs:
            self.makers[out] = node
        return Ref(node.outputs[0])

    def lost(self, op: Operation, why: str) -> Ref:
        """What can't be imported; the importer says so, with all others, where an output needs it."""
        known = [v.name for v in op.inputs if isinstance(v, Ref)]
        return self.append(ForeignNode(op.kind, known, [self.fresh(op.name)], standard=False, problem=why))

    def constant(self, array: Any, dtype: Any = np.int64) -> str:
        """The name of a new constant, which is not trained."""
        name = self.fresh(f"{self._stem}/constant")
        self.constants[name] = np.asarray(array, dtype)
        return name

    def tensor(self, value: Value) -> str:
        """The name of a tensor; a plain number becomes a constant."""
        if isinstance(value, Ref):
            return value.name
        if type(value) in (int, float, bool):
            return self.constant(value, np.float32)
        if isinstance(value, np.ndarray):
            return self.constant(value, value.dtype)
        raise Unsupported(f"{shortened(value)} stands where a tensor is needed")

    def is_constant(self, name: str) -> bool:
        """Whether a tensor depends on constants only."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in self.constants or current in seen:
                continue
            if current not in self.makers or len(seen) > 100:
                return False
            seen.add(current)
            waiting += [n for n in self.makers[current].inputs if n]
        return True

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """The shape that the file says a tensor has, -1 for open lengths. Raises `Unsupported` where it does not."""
        if ref.name in self.constants:
            return self.constants[ref.name].shape
        found = self.declared.get(ref.name)
        if found is None or min(found.shape, default=0) < -1:
            raise Unsupported("the file does not say what shape its operand has")
        return found.shape

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        number = self._taken.get(stem, 0)
        self._taken[stem] = number + 1
        if not number:
            return stem
        return self.fresh(f"{stem}_{number}")

    # -- the walk -----------------------------------------------------------------------------------------------

    def _run(self, graph: Message, names: dict[str, Value], depth: int) -> Value:
        """The value of a graph, its inputs bound to `names`."""
        if depth > _DEEPEST_CALL:
            raise self.file.fail(f"function {shortened(graph['name'])}", "calls go too deep, or in a circle")
        reads = self._reads(graph)
        for node in graph["node"]:
            if node["op_type"] == "Constant":
                continue
            self._count(1 + len(node["input"]))
            out = node["output"][0] if node["output"] else ""
            if not out or out in names:
                raise self.file.fail(f"node {shortened(node['name'])}", "it writes nothing, or what is written already")
            names[out] = value = self._apply(node, names, depth)
            if isinstance(value, Ref) and reads[out] == 1 and value.name in self.makers:
                self.once.add(value.name)
        results = [self._look_up(o["name"], names, "the output") for o in graph["output"]]
        return results[0] if len(results) == 1 else tuple(results)

    def _apply(self, node: Message, names: dict[str, Value], depth: int) -> Value:
        inputs = [self._look_up(i, names, shortened(node["name"])) for i in node["input"]]
        called = node["op_type"].removeprefix("REF::")
        primitive = self._primitives.get(called)
        kind = primitive["op_type"] if primitive is not None else called
        if kind in _PASSES_ON or called in self._functions:
            self.once.difference_update(v.name for v in inputs if isinstance(v, Ref))
        if primitive is None and called in self._functions:
            return self._call(self._functions[called], inputs, depth)
        if primitive is None and node["op_type"].startswith("REF::"):
            kind = "call of a computed function"
        if kind == "UpdateState":
            return Special.MONAD
        if kind in _PASSES_ON and inputs and not kind.startswith("Make"):
            return inputs[0]
        if kind in ("MakeTuple", "MakeList"):
            return tuple(v for v in inputs if v is not Special.MONAD)
        if kind in ("TupleGetItem", "ListGetItem") and len(inputs) == 2:
            return self._item(node, *inputs)
        settings = self._attributes(node, primitive)
        results = self.file.results(next((a for a in node["attribute"] if a["name"] == "shape"), None))
        domain = node["domain"]
        name = domain.removeprefix("Default/") if "/" in domain else node["name"].partition(":")[2] or node["name"]
        plain = [v for v in inputs if v is not Special.MONAD]
        return self._translate(Operation(kind, name[:400], plain, settings, results, self.constants))

    def _translate(self, op: Operation) -> Value:
        self._stem = op.name
        began = len(self.nodes)
        rule = self.rules.get(op.kind)
        try:
            if op.kind in _WRITES:
                raise Unsupported("it changes a parameter, so that calls differ; such networks can't be imported")
            if rule is None:
                raise Unsupported("there is no such operator here")
            value = rule(self, op)
        except (Unsupported, *SENSELESS) as e:
            value = self.lost(op, str(e) if isinstance(e, Unsupported) else f"makes no sense ({type(e).__name__}: {e})")
            if op.kind in _WRITES:
                self.effects.append(value.name)
        for node in self.nodes[began:]:
            node.kind, node.name = op.kind, op.name
        for ref, found in zip(value if isinstance(value, tuple) else (value,), op.results, strict=False):
            if isinstance(ref, Ref):
                self.declared.setdefault(ref.name, found)
        return value

    def _reads(self, graph: Message) -> Counter[str]:
        """How often names are read in a graph; what it gives may be read anywhere."""
        if graph["name"] not in self._read_counts:
            counts = Counter(name for node in graph["node"] for name in node["input"])
            counts.update([o["name"] for o in graph["output"]] * 2)
            self._read_counts[graph["name"]] = counts
        return self._read_counts[graph["name"]]

    def _call(self, function: Message, arguments: list[Value], depth: int) -> Value:
        formal = [i["name"] for i in function["input"]]
        if len(formal) != len(arguments):
            text = f"takes {len(formal)} arguments, {len(arguments)} are given"
            raise self.file.fail(f"function {shortened(function['name'])}", text)
        return self._run(function, dict(zip(formal, arguments, strict=True)), depth + 1)

    def _item(self, node: Message, value: Value, index: Value) -> Value:
        if isinstance(value, Ref) and value.name in self.makers and self.makers[value.name].problem:
            return value  # of a tuple that could not be made, which is said already
        if not isinstance(value, tuple) or type(index) is not int or not -len(value) <= index < len(value):
            text = f"takes item {shortened(index)} of {shortened(value)}"
            raise self.file.fail(f"node {shortened(node['name'])}", text)
        return value[index]

    def _look_up(self, name: str, names: Mapping[str, Value], reader: str) -> Value:
        for table in (names, self._globals):
            if name in table:
                return table[name]
        if name in self._functions:
            return Closure(name)
        raise self.file.fail(f"node {reader}", f"it reads {shortened(name)}, which nothing before it writes")

    def _attributes(self, node: Message, primitive: Message | None) -> Mapping[str, Any]:
        if primitive is None:
            return self.file.attributes(node["attribute"])
        if primitive["name"] not in self._settings:
            self._settings[primitive["name"]] = self.file.attributes(primitive["attribute"])
        return self._settings[primitive["name"]]

    # -- what the file holds ------------------------------------------------------------------------------------

    def _read_parameters(self, graph: Message, weights: Mapping[str, Array] | None) -> set[str]:
        if graph["map_parameter"]:
            raise self.file.fail("graph", "it has hash tables for parameters, which can't be trained here")
        found: set[str] = set()
        for tensor in graph["parameter"]:
            name = tensor["name"].removeprefix(f"{graph['name']}:")
            if not name or name in found or tensor["name"] in self._globals:
                raise self.file.fail("graph", f"a parameter is named {shortened(name)}, or two are")
            if weights is None:
                self.constants[name] = self.file.array(tensor)
            elif name not in weights or weights[name].shape != tuple(tensor["dims"]):
                given = f"{list(weights[name].shape)} in the weights" if name in weights else "not in the weights"
                text = f"is {given}, {tensor['dims']} in the network"
                raise self.file.fail(f"parameter {shortened(name)}", text)
            else:
                self.constants[name] = weights[name]
            found.add(self.fresh(name))
            self._globals[tensor["name"]] = Ref(name)
        return found

    def _read_inputs(self, graph: Message) -> list[ForeignInput]:
        inputs = []
        for entry in graph["input"]:
            if entry["name"] in self._globals:
                raise self.file.fail("graph", f"an input is named {shortened(entry['name'])}, or two are")
            if not entry["tensor"]:
                text = "it is a tuple or a number; export the network with tensors as inputs"
                if entry["attr_info"] is None or self.file.value(entry["attr_info"]) is not Special.MONAD:
                    raise self.file.fail(f"input {shortened(entry['name'])}", text)
                self._globals[entry["name"]] = Special.MONAD
                continue
            name = self.fresh(entry["name"].removeprefix(f"{graph['name']}:") or "input")
            found = self.file.declared(entry["tensor"][0])
            dims = None if min(found.shape, default=0) < -1 else [max(d, 0) for d in found.shape]
            inputs.append(ForeignInput(name, dims, _ELEMENTS.get(found.data_type)))
            self._globals[entry["name"]] = Ref(name)
            self.declared[name] = found
        return inputs

    def _read_constant(self, node: Message) -> None:
        given = node["attribute"]
        if not node["output"] or len(given) != 1 or node["output"][0] in self._globals:
            raise self.file.fail(f"constant {shortened(node['name'])}", "it has no value, or it is there twice")
        value = self.file.value(given[0])
        if isinstance(value, np.ndarray):
            self._stem = "tensor"
            value = Ref(self.constant(value, value.dtype))
        self._globals[node["output"][0]] = value

    def _flat(self, value: Value) -> Iterator[Value]:
        """Tensors of nested tuples."""
        waiting, found = [value], 0
        while waiting:
            value = waiting.pop()
            found += 1
            if found > _MOST_OUTPUTS:
                raise self.file.fail("graph", f"it has more than {_MOST_OUTPUTS} outputs")
            if isinstance(value, tuple):
                waiting += value[::-1][-_MOST_OUTPUTS - 1 :]
            elif not isinstance(value, Ref):
                raise self.file.fail("graph", f"an output is {shortened(value)}, no tensor")
            else:
                yield value

    def _count(self, more: int) -> None:
        self._size += more
        if self._size > LARGEST_NETWORK:
            raise self.file.fail("graph", f"with its functions it has more than {LARGEST_NETWORK:,} operands")
