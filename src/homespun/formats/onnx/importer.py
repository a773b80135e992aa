"""From a checked ONNX model to a `Graph`: the walk over its nodes. What each operator becomes is in `rules_*.py`.

Images come out channels-last, transposes fall away (`layout`), what depends on no input is computed here (`folding`),
and the first axis of the inputs is the free batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from homespun.errors import FormatError, ModelError, OptionError
from homespun.formats.checked import SENSELESS, check_foreign, shortened
from homespun.formats.onnx.folding import fold
from homespun.formats.onnx.layout import CHANNELS_LAST, Value, identity, moves_only_ones, regrouped
from homespun.formats.onnx.reading import OnnxFile, attributes_of, check_shapes
from homespun.graph import BATCH, Array, Attribute, Graph, Node, Tensor, TensorType
from homespun.graph.infer import infer_node

#: The batch size that shapes are worked out for: a prime that is no network's own size, so that an axis that is a
#: multiple of it holds the batch.
FREE = 2**31 - 1
_MOST_LISTED = 40
#: Bytes of folded constants, beside some times the file's own.
_MOST_FOLDED = 2**28
_ELEMENTS = {1: "float32", 10: "float32", 11: "float32", 16: "float32", 6: "int32", 7: "int32", 2: "uint8", 9: "bool"}


class Unsupported(Exception):  # noqa: N818  (not an error yet: the importer collects all of them)
    """A node that can't be imported; the text says what about it, and what to do."""


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


Rule = Callable[["Importer", ForeignNode], None]


class Importer:
    """Builds the graph. Rules read operands with `value`, `constant` `channels_last`, and give results with `set`."""

    def __init__(self, file: OnnxFile, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None, free: bool) -> None:
        self.file, self.opset, self.rules, self.free = file, file.opset, rules, free
        proto = file.model.graph
        self.graph = Graph(proto.name or file.path.stem)
        self.types: dict[str, TensorType] = {}
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = {}
        self.learnable: set[str] = set()
        self.declared_batch: int | None = None
        self._made: dict[Any, str] = {}
        self._stem = ""
        self._folded = 0
        for tensor in proto.initializer:
            if not tensor.name or tensor.name in self.constants:
                raise file.fail("graph", f"an initializer is named {shortened(tensor.name)}, or two are")
            self.constants[tensor.name] = file.array(tensor)
            if self.constants[tensor.name].dtype == np.float32:
                self.learnable.add(tensor.name)
        self.nodes = [ForeignNode(n, file) for n in proto.node]
        self.foreign_outputs = [o.name for o in proto.output]
        self._needed()
        self._inputs(proto, shapes)

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self) -> Graph:
        """The whole graph. Raises `FormatError` that lists all nodes which can't be imported."""
        problems: list[tuple[ForeignNode, str]] = []
        lost: set[str] = set()
        for node in self.nodes:
            rule = self.rules.get(node.op) if node.domain in ("", "ai.onnx") else None
            if rule is None and not self._folds(node):
                problems.append((node, "there is no such operator here"))
                lost.update(node.outputs)
                continue
            if lost.intersection(node.inputs):
                lost.update(node.outputs)
                continue
            try:
                self._convert(node, rule)
            except (Unsupported, ModelError) as e:
                problems.append((node, str(e)))
                lost.update(node.outputs)
            except SENSELESS as e:
                raise self.file.fail(
                    f"node {shortened(node.name)}", f"makes no sense ({type(e).__name__}: {e})"
                ) from None
        if problems:
            raise self._unsupported(problems)
        self._outputs()
        self._note_origin()
        return self.graph

    def _convert(self, node: ForeignNode, rule: Rule | None) -> None:
        self._stem = node.name.strip("/") or node.op
        if self._folds(node):
            inputs = [self.constants[n] if n else None for n in node.inputs]
            try:
                results = fold(node, inputs)
            except SENSELESS:
                if any(c is not None and c.dtype == np.int64 and (c == FREE).any() for c in inputs):
                    raise Unsupported("its result depends on the batch size") from None
                raise
            for name, array in zip(node.outputs, results, strict=False):
                if name:
                    self.constants[name] = array
                    self._folded += array.nbytes
            if self._folded > _MOST_FOLDED + 16 * self.file.size:
                raise self.file.fail(f"node {shortened(node.name)}", "constants take more memory than makes sense")
            if sum(n in self.learnable for n in node.inputs) == 1 and node.op in _KEEPS_LEARNABLE:
                self.learnable.update(o for o in node.outputs if o)
            return
        assert rule is not None
        rule(self, node)
        missing = [o for o in node.outputs if o and o not in self.values and o not in self.constants]
        used = [o for o in missing if o in self._read or o in self.foreign_outputs]
        if used:
            raise Unsupported(f"its output {used[0]!r} can't be had; use only the first output")

    def _folds(self, node: ForeignNode) -> bool:
        return fold.knows(node.op) and all(not n or n in self.constants for n in node.inputs)

    def _needed(self) -> None:
        """Keep the nodes that outputs depend on, in an order in which they can run."""
        makers: dict[str, ForeignNode] = {}
        for node in self.nodes:
            for out in node.outputs:
                if out and (out in makers or out in self.constants):
                    raise self.file.fail("graph", f"{shortened(out)} is written twice")
                if out:
                    makers[out] = node
        order: list[ForeignNode] = []
        state: dict[int, int] = {}  # 1: begun, 2: placed
        for output in self.foreign_outputs:
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
                    raise self.file.fail(f"node {shortened(node.name)}", "its inputs depend on its own output")
                state[id(node)] = 1
                stack += waiting[::-1]
        self.nodes = order
        self._read = {n for node in order for n in node.inputs if n}

    # -- inputs, outputs ----------------------------------------------------------------------------------------

    def _inputs(self, proto: Any, shapes: Mapping[str, Any] | None) -> None:
        entries = [i for i in proto.input if i.name not in self.constants]
        used = [i for i in entries if i.name in self._read or i.name in self.foreign_outputs]
        given = check_shapes(shapes, [i.name for i in used], self.file)
        self.channels_last_inputs: list[str] = []
        declared = {i.name: self._declared_shape(i, given.get(i.name)) for i in used}
        firsts = {s[0] for s in declared.values() if s}
        if self.free and len(firsts) == 1:
            self.declared_batch = next(iter(firsts)) if firsts != {FREE} else None
        for entry in used:
            if not entry.name or entry.name in self.values:
                raise self.file.fail("graph", f"an input is named {shortened(entry.name)}, or two are")
            shape = declared[entry.name]
            if self.free and shape and len(firsts) == 1:
                shape = (FREE, *shape[1:])
            element = _ELEMENTS.get(entry.type.tensor_type.elem_type)
            if element is None:
                raise self.file.fail(f"input {shortened(entry.name)}", "its data type can't be an input")
            readers = [n.op for n in self.nodes if entry.name in n.inputs]
            if element not in ("float32", "int32") or (readers and all(op == "Cast" for op in readers)):
                element = "float32"  # pixels and masks: the numbers are the same
            axes = identity(len(shape))
            if len(shape) == 4 and self._is_channels_first(entry.name):
                axes = CHANNELS_LAST
            elif len(shape) == 4:
                self.channels_last_inputs.append(entry.name)
            ours = tuple(shape[a] for a in axes)
            self.graph.add_tensor(
                Tensor(entry.name, "input", (BATCH if ours[:1] == (FREE,) else ours[0], *ours[1:]), element)
            )
            self.graph.inputs.append(entry.name)
            self.types[entry.name] = TensorType(ours, element)
            self.values[entry.name] = Value(entry.name, axes)

    def _declared_shape(self, entry: Any, given: Sequence[int] | None) -> tuple[int, ...]:
        place = f"input {shortened(entry.name)}"
        if not entry.type.HasField("tensor_type") or not (given or entry.type.tensor_type.HasField("shape")):
            raise self.file.fail(place, "it is no tensor, or its number of axes is not known")
        dims = [d.dim_value if d.HasField("dim_value") else 0 for d in entry.type.tensor_type.shape.dim]
        if given is not None:
            if dims and len(given) != len(dims):
                raise OptionError(f"shapes: input {entry.name!r} has {len(dims)} axes, {len(given)} given")
            dims = [int(d) for d in given]
        if dims and dims[0] <= 0:
            dims[0] = FREE
        if any(d < 1 for d in dims) or not dims:
            text = ", ".join(str(d) if d > 0 else "?" for d in dims)
            raise self.file.fail(
                place,
                f"its shape is ({text}); all but the batch must be known. Say "
                f"hs.load(path, shapes={{{entry.name!r}: (...)}}), in the file's own order of axes",
            )
        return tuple(dims)

    def _is_channels_first(self, name: str) -> bool:
        """Whether an input of four axes is read as (N, C, H, W): by the first operator on its way that cares."""
        seen, queue = {name}, [name]
        while queue:
            current = queue.pop(0)
            for node in self.nodes:
                if current not in node.inputs:
                    continue
                if node.op in _CHANNELS_FIRST:
                    return True
                if node.op in _LAYOUT_FREE:
                    queue += [o for o in node.outputs if o and o not in seen]
                    seen.update(node.outputs)
        return False

    def _outputs(self) -> None:
        last: list[str] = []
        for foreign in self.foreign_outputs:
            if foreign not in self.values and foreign not in self.constants:
                raise self.file.fail(f"output {shortened(foreign)}", "nothing computes it")
            value = self.value(foreign)
            if value.image is not None or (not value.plain and value.axes != CHANNELS_LAST):
                value = self.laid_out(value, identity(len(self.shape(foreign))))
            if value.plain and len(value.axes) == 4:
                last.append(foreign)
            name = value.name
            if self.graph.tensors[name].role != "activation" or name in self.graph.outputs:
                name = self.emit("identity", [name], foreign)
            if name != foreign and foreign not in self.graph.tensors:
                self.graph.rename(name, foreign)
                for node in self.graph.nodes:
                    node.name = foreign if node.outputs[0] == foreign else node.name
                self.types[foreign] = self.types.pop(name)
                self.values = {
                    k: Value(foreign, v.axes, v.image) if v.name == name else v for k, v in self.values.items()
                }
                name = foreign
            self.graph.outputs.append(name)
        self.channels_last_inputs += last

    def _note_origin(self) -> None:
        model = self.file.model
        producer = f"{model.producer_name} {model.producer_version}".strip()
        self.graph.metadata["source"] = f"ONNX opset {self.opset}" + (f", {producer[:80]}" if producer else "")
        for entry in list(model.metadata_props)[:64]:
            if entry.key and len(entry.key) + len(entry.value) < 2**16:
                self.graph.metadata.setdefault(entry.key, entry.value)
        if self.channels_last_inputs:
            # tensors of four axes that the file has in our order, so that exporting writes them so again
            self.graph.metadata[KEPT_ORDER] = ",".join(self.channels_last_inputs)

    def _unsupported(self, problems: list[tuple[ForeignNode, str]]) -> FormatError:
        lines = [f"{n.name} ({n.domain + '.' if n.domain else ''}{n.op}): {why}" for n, why in problems[:_MOST_LISTED]]
        if len(problems) > _MOST_LISTED:
            lines.append(f"... and {len(problems) - _MOST_LISTED} more")
        kinds = sorted({n.op for n, _ in problems})
        advice = [f"{op}: {_ADVICE[op]}" for op in kinds if op in _ADVICE]
        advice.append(
            "what can be left out (boxes, labels, decoding at the end): cut it off with onnx.utils.extract_model; what "
            "can't: replace it in the model's source, or add the operator (docs/adding-a-format.md)"
        )
        text = "\n  ".join([*lines, "What to do:", *advice])
        return self.file.fail("graph", f"{len(problems)} of {len(self.nodes)} nodes can't be imported:\n  {text}")

    # -- what rules read ----------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a foreign tensor, its axes in the foreign order, the batch as `FREE`."""
        if name in self.constants:
            return self.constants[name].shape
        value = self.values[name]
        ours = self.types[value.name].shape
        if value.image is not None:
            return ours
        return tuple(ours[value.axes.index(i)] for i in range(len(ours)))

    def is_constant(self, name: str) -> bool:
        """Whether a foreign tensor depends on no input."""
        return name in self.constants

    def constant(self, node: ForeignNode, i: int, what: str) -> Array:
        """The values of input `i`. Raises `Unsupported` where it is computed, or absent."""
        if not node.has(i) or node.inputs[i] not in self.constants:
            raise Unsupported(f"its {what} is computed from the model's input; it must be a constant")
        return self.constants[node.inputs[i]]

    def axes(self, node: ForeignNode) -> list[int]:
        """The axes that a node names: an input in newer operator sets, an attribute in older ones."""
        given = self.constant(node, 1, "axes") if node.has(1) else node.get("axes", [])
        return [int(a) for a in given]

    def value(self, name: str) -> Value:
        """A foreign tensor as ours; a constant joins the graph."""
        if name not in self.values:
            if name not in self.constants:
                raise self.file.fail(f"tensor {shortened(name)}", "it is read, but nothing writes it")
            array = self.constants[name]
            self.values[name] = Value(self.weight(name, array), identity(array.ndim))
        return self.values[name]

    def plain(self, name: str) -> str:
        """Ours, laid out as the foreign tensor is."""
        value = self.value(name)
        rank = len(value.axes)
        return value.name if value.plain else self.laid_out(value, identity(rank)).name

    def channels_last(self, name: str) -> str:
        """Ours of an image or another tensor, with axis 1 at the end."""
        value = self.value(name)
        rank = len(value.axes)
        if rank < 2:
            raise Unsupported(f"its input has {rank} axes")
        return self.laid_out(value, (0, *range(2, rank), 1)).name

    def laid_out(self, value: Value, axes: tuple[int, ...]) -> Value:
        """The same tensor with its axes in another order."""
        if value.image is not None:
            c, h, w = value.image
            images = self.reshape(value.name, (self.types[value.name].shape[0], h, w, c))
            first = self.emit("transpose", [images], f"{value.name}/channels_first", axes=(0, 3, 1, 2))
            value = Value(self.reshape(first, (self.types[value.name].shape[0], c * h * w)), (0, 1))
        if value.axes == axes:
            return value
        permutation = tuple(value.axes.index(a) for a in axes)
        key = ("transposed", value.name, permutation)
        if key not in self._made:
            shape = self.types[value.name].shape
            data = self.graph.tensors[value.name].data
            if data is not None:
                role = self.graph.tensors[value.name].role
                made = self.add_array(
                    f"{value.name}/transposed", np.ascontiguousarray(data.transpose(permutation)), role
                )
            elif moves_only_ones(shape, permutation):
                made = self.reshape(value.name, tuple(shape[i] for i in permutation))
            else:
                made = self.emit("transpose", [value.name], axes=permutation)
            self._made[key] = made
        return Value(self._made[key], axes)

    # -- what rules write ---------------------------------------------------------------------------------------

    def emit(self, op: str, inputs: Sequence[str], stem: str = "", **attributes: Attribute) -> str:
        """Append a node with one output and return that output's name."""
        name = self.graph.fresh_name(stem or self._stem)
        node = Node(op, tuple(inputs), (name,), attributes, name)
        (found, *_) = infer_node(node, self.types)
        if any(type(d) is not int or d < 1 for d in found.shape):
            raise Unsupported(f"its result would have the shape {list(found.shape)}")
        self.graph.add_node(op, inputs, (name,), attributes, name)
        self.types[name] = found
        return name

    def set(self, foreign: str, name: str, axes: Sequence[int] | None = None) -> None:
        """Say which of ours a foreign tensor is."""
        rank = len(self.types[name].shape)
        self.values[foreign] = Value(name, tuple(axes) if axes is not None else identity(rank))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Ours in another shape, of which one axis may hold the batch."""
        shape = tuple(int(d) for d in shape)
        if self.types[name].shape == shape:
            return name
        batched = [i for i, d in enumerate(shape) if d % FREE == 0 and d]
        if len(batched) > 1 or math.prod(shape) != self.types[name].size:
            raise Unsupported(f"can't reshape {self._text(self.types[name].shape)} to {self._text(shape)}")
        if len(shape) == 2 and shape[0] == FREE and self.types[name].shape[0] == FREE:
            return self.emit("flatten", [name])
        free = tuple(-1 if i in batched else d for i, d in enumerate(shape))
        return self.emit("reshape", [name], shape=free)

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """A foreign reshape to a foreign shape, done without moving values wherever ours allows."""
        shape = tuple(int(d) for d in shape)
        if value.image is not None:
            value = self.laid_out(value, (0, 1))
        ours = self.types[value.name].shape
        before = tuple(ours[value.axes.index(i)] for i in range(len(ours)))
        if math.prod(before) != math.prod(shape) or 0 in shape:
            raise Unsupported(f"can't reshape {self._text(before)} to {self._text(shape)}")
        if value.plain:
            return Value(self.reshape(value.name, shape), identity(len(shape)))
        if value.axes == CHANNELS_LAST and shape == (before[0], math.prod(before[1:])) and before[2] * before[3] > 1:
            c, h, w = before[1:]
            return Value(self.reshape(value.name, shape), (0, 1), (c, h, w) if c > 1 else None)
        groups = regrouped(before, shape)
        place = {axis: i for i, axis in enumerate(value.axes)}
        groups.sort(key=lambda g: max((place[a] for a in g[0] if before[a] != 1), default=-1))
        order = tuple(a for first, _ in groups for a in first)
        if not moves_only_ones(ours, [place[a] for a in order]):
            value = self.laid_out(value, order)
        axes = tuple(a for _, second in groups for a in second)
        return Value(self.reshape(value.name, [shape[a] for a in axes]), axes)

    def weight(self, foreign: str, array: Array, role: str = "") -> str:
        """An array of the file as it is; trainable where it is an initializer with more than one number."""
        trainable = foreign in self.learnable and array.size > 1 and array.dtype == np.float32
        array = array.astype(np.int32) if array.dtype == np.int64 else _own(array)
        return self.add_array(self.weight_name(foreign), array, role or ("parameter" if trainable else "constant"))

    def layer_weight(self, foreign: str, kind: str, array: Array, role: str = "parameter") -> str:
        """An array in the layout that a layer wants; the same one again where another layer shares it.

        Raises `Unsupported` where its values are no numbers.
        """
        # Vectors are shared by exporters that find equal ones, such as biases of zero: here each layer has its own.
        key = (foreign, kind, array.shape, role, self._stem if array.ndim == 1 else "")
        if key not in self._made:
            array = _own(array)
            if not np.isfinite(array).all():
                raise Unsupported(f"its {kind} has values that are not finite")
            self._made[key] = self.add_array(self.weight_name(foreign, kind), array, role)
        return self._made[key]

    def weight_name(self, foreign: str, kind: str = "constant") -> str:
        """The file's name, unless an exporter made it up: then the node's, and what it is."""
        made_up = "::" in foreign or foreign.isdigit() or foreign not in self.learnable
        return f"{self._stem}.{kind}" if made_up else foreign

    def add_array(self, name: str, array: Array, role: Any = "constant") -> str:
        """Put an array into the graph."""
        name = self.graph.add_array(self.graph.fresh_name(name), array, role)
        self.types[name] = TensorType(tuple(array.shape), str(array.dtype))
        return name

    def _text(self, shape: Sequence[int]) -> str:
        return "(" + ", ".join("N" if d == FREE else f"{d // FREE}N" if d % FREE == 0 else str(d) for d in shape) + ")"


#: Metadata: names of inputs and outputs of four axes that are channels-last in the ONNX file too.
KEPT_ORDER = "onnx.channels_last"
_CHANNELS_FIRST = (
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "LRN"),
    *("BatchNormalization", "InstanceNormalization", "QLinearConv", "DepthToSpace", "SpaceToDepth"),
)
_LAYOUT_FREE = (
    *("Add", "Sub", "Mul", "Div", "Cast", "Identity", "Pad", "Relu", "Clip", "Slice", "Split", "Concat", "Neg"),
    *("QuantizeLinear", "DequantizeLinear", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "PRelu", "Dropout"),
)
_KEEPS_LEARNABLE = ("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "DequantizeLinear", "Flatten")
_ADVICE = {
    "NonMaxSuppression": "boxes are chosen after the network: cut the model before it",
    "Loop": "export it with a fixed number of steps",
    "If": "export the branch that is meant",
    "Scan": "export it with a fixed number of steps",
    "LSTM": "recurrent layers can't be trained here",
    "GRU": "recurrent layers can't be trained here",
    "RNN": "recurrent layers can't be trained here",
    "FusedConv": "export it without onnxruntime's optimisations",
}


def _own(array: Array) -> Array:
    """The array in memory of its own, which the file's is not: it can be written to."""
    array = np.asarray(array, order="C")
    return array if array.flags.writeable else array.copy()


def import_model(file: OnnxFile, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None) -> Graph:
    """The graph of a file, its batch free; fixed as the file has it where operators depend on that number."""
    if file.model.functions:
        names = ", ".join(f.name for f in list(file.model.functions)[:5])
        raise file.fail("graph", f"it has functions of its own ({names}); write them out with onnx.inliner first")
    importer = Importer(file, rules, shapes, free=True)
    try:
        graph = importer.run()
    except FormatError as e:
        if importer.declared_batch is None:
            raise  # the batch is free in the file itself, so there is no other reading
        try:
            graph = Importer(file, rules, shapes, free=False).run()
        except FormatError:
            raise e from None
    graph.prune()
    check_foreign(graph, file.fail)
    return graph
