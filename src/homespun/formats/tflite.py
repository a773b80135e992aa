"""TFLite files in, through the `tflite` package's flatbuffers schema: float, with weights in halves, quantised.

Images are channels-last there too. Quantised numbers become float32 by their scales, so that the network can be
trained; what `interpret` knows of each operator is a function of a few lines, in `tflite_rules`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import homespun.ops  # noqa: F401  (fills the operators' table)
from homespun.errors import FormatError, MissingPackageError, ModelError
from homespun.formats.assembly import FREE, Assembly, Unsupported, shortlist, without_leading_ones
from homespun.formats.checked import SENSELESS, check_foreign, largest_constants, shortened
from homespun.graph import BATCH, Array, Graph, Tensor, TensorType

_LARGEST_FILE = 2**31 - 1
_MOST_AXES = 32
_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
#: By the schema's number: activations that other operators have built in.
_BUILT_IN: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("relu", {}),
    2: ("clip", {"low": -1.0, "high": 1.0}),
    3: ("relu6", {}),
    4: ("tanh", {}),
}


def load(path: Path) -> Graph:
    """The network of a TFLite file, its batch free.

    Raises `FormatError` that names the place, or lists every operator that can't be imported.
    """
    try:
        import tflite
    except ImportError:
        raise MissingPackageError(
            'TFLite files need the package "tflite", which is not installed: pip install "homespun[tflite]"'
        ) from None
    from homespun.formats.tflite_rules import RULES

    def fail(place: str, what: str) -> FormatError:
        return FormatError(f"{path}: {place}: {what}")

    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise fail("file", f"{size} bytes are more than a TFLite file can have")
    raw = path.read_bytes()
    if raw[4:8] != b"TFL3":
        raise fail("file", "it does not begin as TFLite files do; it is something else, or empty")
    try:
        graph = Interpreter(tflite, tflite.Model.GetRootAs(raw, 0), path, size, fail).run(RULES)
    except (*SENSELESS, struct.error) as e:
        raise fail("file", f"its structure makes no sense ({type(e).__name__}: {e}); truncated or damaged") from None
    graph.prune()
    check_foreign(graph, fail)
    return graph


class Operation:
    """One operator of the file: numbers of its tensors (-1 where absent) and its options."""

    def __init__(self, tflite: Any, proto: Any, name: str, at: int) -> None:
        self._tflite, self._proto, self.name, self.at = tflite, proto, name, at
        self.inputs = [proto.Inputs(i) for i in range(proto.InputsLength())]
        self.outputs = [proto.Outputs(i) for i in range(proto.OutputsLength())]

    def options(self, kind: str) -> Any:
        """The options as a table of the schema. Raises `Unsupported` where there are none."""
        table = self._proto.BuiltinOptions()
        if table is None:
            raise Unsupported("its options are missing")
        options = getattr(self._tflite, kind)()
        options.Init(table.Bytes, table.Pos)
        return options


class Interpreter(Assembly):
    """Builds the graph. Rules read operands with `value` and `constant`, and give results with `set`."""

    def __init__(self, tflite: Any, model: Any, path: Path, size: int, fail: Callable[[str, str], FormatError]) -> None:
        super().__init__(path.stem)
        self.fail = fail
        if model.SubgraphsLength() != 1:
            raise fail("file", f"it has {model.SubgraphsLength()} graphs; control flow can't be imported")
        proto = model.Subgraphs(0)
        counts = (proto.TensorsLength(), proto.OperatorsLength(), model.BuffersLength(), model.OperatorCodesLength())
        operators = [proto.Operators(i) for i in range(counts[1])] if 4 * counts[1] <= size else []
        operands = sum(o.InputsLength() + o.OutputsLength() for o in operators)
        if any(4 * n > size for n in (*counts, operands)):
            raise fail("file", f"{max(*counts, operands)} entries do not fit its {size} bytes; truncated or damaged")
        self.values: dict[int, str] = {}
        self.constants: dict[int, Array] = {}
        self._model, self._tensors = model, [proto.Tensors(i) for i in range(counts[0])]
        self._inputs = [proto.Inputs(i) for i in range(proto.InputsLength())]
        self._outputs = [proto.Outputs(i) for i in range(proto.OutputsLength())]
        self._made: dict[Any, str] = {}
        self._left = largest_constants(size)
        names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
        self._operations = []
        for at, operator in enumerate(operators):
            code = model.OperatorCodes(operator.OpcodeIndex())
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = names.get(number, str(number))
            if name == "CUSTOM":
                name = f"custom {(code.CustomCode() or b'').decode('utf-8', 'replace')[:60]}"
            self._operations.append(Operation(tflite, operator, name, at))

    def run(self, rules: Mapping[str, Callable[[Interpreter, Operation], None]]) -> Graph:
        """The whole graph. Raises `FormatError` that lists all operators which can't be imported."""
        for i in self._inputs:
            self._input(i)
        for i in range(len(self._tensors)):
            self._read(i)
        problems: list[tuple[Operation, str]] = []
        lost: set[int] = set()
        for op in self._operations:
            self._stem = self._name(op.outputs[0]) if op.outputs else op.name
            if any(o in self.values for o in op.outputs):
                raise self.fail(f"operator {op.at} ({op.name})", "it writes what is written already")
            if op.name not in rules:
                problems.append((op, "there is no such operator here"))
            elif not lost.intersection(op.inputs):
                try:
                    rules[op.name](self, op)
                    continue
                except (Unsupported, ModelError) as e:
                    problems.append((op, str(e)))
            lost.update(op.outputs)
        if problems:
            lines = [f"operator {op.at} ({op.name}) for {self._name(op.outputs[0])!r}: {why}" for op, why in problems]
            advice = (
                "What to do: convert the model without them, or cut it before them; docs/formats.md lists what is read"
            )
            text = "\n  ".join([*shortlist(lines), advice])
            raise self.fail(
                "graph", f"{len(problems)} of {len(self._operations)} operators can't be imported:\n  {text}"
            )
        for i in self._outputs:
            self.graph.outputs.append(self.value(i))
        self.graph.metadata["source"] = f"TFLite version {self._model.Version()}"
        return self.graph

    # -- tensors ------------------------------------------------------------------------------------------------

    def _name(self, i: int) -> str:
        name = self._tensors[i].Name() or b""
        return name[:800].decode("utf-8", "replace")[:200].split(";")[0] or f"tensor{i}"

    def _input(self, i: int) -> None:
        tensor, name = self._tensors[i], self.fresh(self._name(i))
        dims = self._shape(tensor, f"input {shortened(name)}")
        if not dims or any(d < 1 for d in dims[1:]) or dims[0] not in (-1, 0, 1):
            raise self.fail(
                f"input {shortened(name)}", f"its shape is {dims}; a batch of one, and known sizes, can be read"
            )
        dtype = "int32" if tensor.Type() in (2, 4) and not self._scales(tensor)[0].size else "float32"
        self.graph.add_tensor(Tensor(name, "input", (BATCH, *dims[1:]), dtype))
        self.graph.inputs.append(name)
        self.types[name] = TensorType((FREE, *dims[1:]), dtype)
        self.values[i] = name

    def _shape(self, tensor: Any, place: str) -> list[int]:
        if tensor.ShapeLength() > _MOST_AXES:
            raise self.fail(place, f"it has {tensor.ShapeLength()} axes")
        return [int(tensor.Shape(k)) for k in range(tensor.ShapeLength())]

    def _scales(self, tensor: Any) -> tuple[Array, Array, int]:
        """(scales, zero points, axis); no scales where it is not quantised."""
        q = tensor.Quantization()
        if q is None or not q.ScaleLength():
            return np.zeros(0), np.zeros(0), 0
        scales = np.asarray(q.ScaleAsNumpy())
        zeros = q.ZeroPointAsNumpy() if q.ZeroPointLength() else np.zeros(scales.size, np.int64)
        return scales, np.asarray(zeros), int(q.QuantizedDimension())

    def _read(self, i: int) -> None:
        """A tensor's data, if it has some: float32, or whole numbers that are no quantised ones."""
        tensor = self._tensors[i]
        buffer = self._model.Buffers(tensor.Buffer())
        if i in self.values or buffer is None or not buffer.DataLength():
            return
        place = f"tensor {shortened(self._name(i))}"
        if tensor.Sparsity() is not None or tensor.Type() not in _DTYPES:
            return  # who reads it says so
        dtype = np.dtype(_DTYPES[tensor.Type()]).newbyteorder("<")
        shape = self._shape(tensor, place)
        if any(d < 0 for d in shape) or math.prod(shape) * dtype.itemsize != buffer.DataLength():
            raise self.fail(place, f"has {buffer.DataLength()} bytes; {dtype.name}{shape} needs another number")
        self._left -= 4 * math.prod(shape)
        if self._left < 0:
            raise self.fail(place, "constants take more memory than makes sense")
        array = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype).reshape(shape)
        scales, zeros, axis = self._scales(tensor)
        if scales.size:
            spread = [1] * len(shape)
            if scales.size > 1:
                spread[axis] = -1
                if scales.size != shape[axis]:
                    raise self.fail(place, f"{scales.size} scales do not fit axis {axis} of {shape}")
            array = (array.astype(np.float64) - zeros.reshape(spread)) * scales.astype(np.float64).reshape(spread)
        self.constants[i] = array.astype(np.float32) if array.dtype.kind == "f" else array

    # -- what rules use -----------------------------------------------------------------------------------------

    def constant(self, op: Operation, i: int, what: str) -> Array:
        """The values of an operand. Raises `Unsupported` where it is computed, sparse or absent."""
        if not self.has(op, i) or op.inputs[i] not in self.constants:
            raise Unsupported(f"its {what} is no dense constant")
        return self.constants[op.inputs[i]]

    def has(self, op: Operation, i: int) -> bool:
        """Whether operand `i` is given."""
        return i < len(op.inputs) and op.inputs[i] >= 0

    def value(self, i: int) -> str:
        """Our name of a tensor; a constant joins the graph, trainable where it holds more than one number."""
        if i not in self.values:
            if i not in self.constants:
                raise Unsupported(f"nothing computes its input {self._name(i)!r}" if i >= 0 else "an input is missing")
            array = without_leading_ones(self.constants[i])
            self.values[i] = self.weight(i, "", array, "parameter" if array.size > 1 else "constant")
        return self.values[i]

    def weight(self, i: int, kind: str, array: Array, role: Any = "parameter") -> str:
        """An array in the layout that a layer wants; the same one again where another layer shares it."""
        key = (i, kind, array.shape)
        if key not in self._made:
            array = np.array(array, np.float32 if array.dtype.kind == "f" else np.int32, order="C")
            if array.dtype == np.float32 and not np.isfinite(array).all():
                raise Unsupported("it has weights that are not finite")
            self._made[key] = self.add_array(self._name(i), array, role)
        return self._made[key]

    def shape(self, op: Operation, i: int = 0) -> tuple[int, ...]:
        """Shape of an operand, the batch as `FREE`."""
        return self.types[self.value(op.inputs[i])].shape

    def set(self, op: Operation, name: str, activation: int = 0) -> None:
        """Say which of ours the operator's first output is, after the activation that is built in."""
        if activation:
            if activation not in _BUILT_IN:
                raise Unsupported(f"its activation has the number {activation}")
            function, attributes = _BUILT_IN[activation]
            name = self.emit(function, [name], **attributes)
        self.values[op.outputs[0]] = name
