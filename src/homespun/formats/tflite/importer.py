"""From a TFLite file to a `Graph`: the walk over its operators. What each becomes is in `rules_*.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import homespun.ops  # noqa: F401  (fills the operators' table)
from homespun.compile.ranges import keep_limits, upper_bound
from homespun.errors import FormatError, ModelError
from homespun.formats.assembly import FREE, Assembly, Unsupported, shortlist, without_leading_ones
from homespun.formats.checked import shortened
from homespun.formats.folding import Folding
from homespun.formats.tflite import folding
from homespun.formats.tflite.reading import TensorTable
from homespun.graph import BATCH, Array, Graph, Tensor, TensorType

#: By the schema's number: activations that other operators have built in.
_BUILT_IN: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("relu", {}),
    2: ("clip", {"low": -1.0, "high": 1.0}),
    3: ("relu6", {}),
    4: ("tanh", {}),
}
_INT32, _UINT8, _INT64, _INT8 = 2, 3, 4, 9


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

    def __init__(self, tflite: Any, model: Any, name: str, size: int, fail: Callable[[str, str], FormatError]) -> None:
        super().__init__(name)
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
        #: What rules leave for the rules of later operators, by tensor: half of something that is said in several.
        self.begun: dict[int, tuple[Any, ...]] = {}
        self._version = model.Version()
        self._table = TensorTable(model, proto, size, fail)
        self._inputs = [proto.Inputs(i) for i in range(proto.InputsLength())]
        self._outputs = [proto.Outputs(i) for i in range(proto.OutputsLength())]
        self._made: dict[Any, str] = {}
        self._fold = Folding(folding.RULES, size)
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
        for i in range(len(self._table)):
            data = None if i in self.values else self._table.data(i)
            if data is not None:
                self.constants[i] = data
        problems: list[tuple[Operation, str]] = []
        lost: set[int] = set()
        for op in self._operations:
            self._stem = self._table.name(op.outputs[0]) if op.outputs else op.name
            if any(o in self.values for o in op.outputs):
                raise self.fail(f"operator {op.at} ({op.name})", "it writes what is written already")
            known = op.name in rules or self._fold.knows(op.name)
            if not known:
                problems.append((op, "there is no such operator here"))
            elif op.name not in rules and not lost.intersection(op.inputs) and not self._folds(op):
                problems.append((op, "it is computed from the model's input"))
            elif not lost.intersection(op.inputs):
                try:
                    self._convert(op, rules.get(op.name))
                    continue
                except (Unsupported, ModelError) as e:
                    problems.append((op, str(e)))
            lost.update(op.outputs)
        if problems:
            lines = [
                f"operator {op.at} ({op.name}) for {self._table.name(op.outputs[0]) if op.outputs else ''!r}: {why}"
                for op, why in problems
            ]
            text = "\n  ".join([*shortlist(lines), "What to do:", *advice({op.name for op, _ in problems})])
            raise self.fail(
                "graph", f"{len(problems)} of {len(self._operations)} operators can't be imported:\n  {text}"
            )
        for i in self._outputs:
            name = self._output(i)  # which may put another list in the place of `outputs`
            self.graph.outputs.append(name)
        self.graph.metadata["source"] = f"TFLite version {self._version}"
        return self.graph

    def _folds(self, op: Operation) -> bool:
        return self._fold.knows(op.name) and all(i < 0 or i in self.constants for i in op.inputs)

    def _convert(self, op: Operation, rule: Callable[[Interpreter, Operation], None] | None) -> None:
        if self._folds(op):
            inputs = [self.constants[i] if i >= 0 else None for i in op.inputs]
            self.constants.update(zip(op.outputs, self._fold(op.name, op, inputs), strict=False))
            return
        assert rule is not None
        rule(self, op)

    def _input(self, i: int) -> None:
        table, name = self._table, self.fresh(self._table.name(i))
        dims = table.shape(i)
        if not dims or any(d < 1 for d in dims[1:]) or dims[0] not in (-1, 0, 1):
            raise self.fail(
                f"input {shortened(name)}", f"its shape is {dims}; a batch of one, and known sizes, can be read"
            )
        scales, zeros, _ = table.scales(i)
        whole = table.kind(i) in (_INT32, _INT64) and not scales.size
        readers = [op for op in self._operations if i in op.inputs]
        if readers and all(op.name == "CAST" for op in readers):
            whole = False  # pixels and masks: the numbers are the same
        dtype = "int32" if whole else "float32"
        if scales.size == 1 and scales[0] > 0 and table.kind(i) in (_UINT8, _INT8) and len(dims) == 4:
            # How a pixel from 0 to 255 becomes the number that its code stands for.
            shift = float(zeros.reshape(-1)[0]) + (128 if table.kind(i) == _INT8 else 0)
            self.graph.metadata |= {"input_mean": f"{shift:g}", "input_scale": repr(float(1 / scales[0]))}
        self.graph.add_tensor(Tensor(name, "input", (BATCH, *dims[1:]), dtype))
        self.graph.inputs.append(name)
        self.types[name] = TensorType((FREE, *dims[1:]), dtype)
        self.values[i] = name

    def _output(self, i: int) -> str:
        """Ours of an output, by the file's name of it where that is free."""
        name, wanted = self.value(i), self._table.name(i)
        producer = self.producer(name)
        if producer is None or name in self.graph.outputs or wanted in self.graph.tensors:
            return name
        self.graph.rename(name, wanted)
        producer.name = wanted
        self.types[wanted] = self.types.pop(name)
        self._producers[wanted] = self._producers.pop(name)
        self.values = {k: wanted if v == name else v for k, v in self.values.items()}
        return wanted

    # -- what rules use -----------------------------------------------------------------------------------------

    def constant(self, op: Operation, i: int, what: str) -> Array:
        """The values of an operand. Raises `Unsupported` where it is computed or absent."""
        if not self.has(op, i) or op.inputs[i] not in self.constants:
            raise Unsupported(f"its {what} is no constant")
        return self.constants[op.inputs[i]]

    def is_constant(self, op: Operation, i: int) -> bool:
        """Whether operand `i` depends on no input."""
        return self.has(op, i) and op.inputs[i] in self.constants

    def has(self, op: Operation, i: int) -> bool:
        """Whether operand `i` is given."""
        return i < len(op.inputs) and op.inputs[i] >= 0

    def kind(self, i: int) -> int:
        """The schema's number of a tensor's data type."""
        return self._table.kind(i)

    def value(self, i: int) -> str:
        """Our name of a tensor; a constant joins the graph, trainable where it holds more than one number."""
        if i in self.begun:
            raise Unsupported("it stands within a dilated convolution or a look-up, in a way that is not known here")
        if i not in self.values:
            if i not in self.constants:
                raise Unsupported(f"nothing computes its input {self._table.name(i)!r}" if i >= 0 else "an input lacks")
            array = without_leading_ones(self.constants[i])
            role = "parameter" if array.size > 1 and array.dtype.kind == "f" else "constant"
            self.values[i] = self.weight(i, "", array, role)
        return self.values[i]

    def weight(self, i: int, kind: str, array: Array, role: Any = "parameter") -> str:
        """An array in the layout that a layer wants; the same one again where another layer shares it."""
        key = (i, kind, array.shape)
        if key not in self._made:
            array = np.array(array, np.float32 if array.dtype.kind == "f" else np.int32, order="C")
            if array.dtype == np.float32 and not np.isfinite(array).all():
                raise Unsupported("it has weights that are not finite")
            self._made[key] = self.add_array(self._table.name(i), array, role)
        return self._made[key]

    def shape(self, op: Operation, i: int = 0) -> tuple[int, ...]:
        """Shape of an operand, the batch as `FREE`."""
        i = op.inputs[i]
        return self.constants[i].shape if i in self.constants else self.types[self.value(i)].shape

    def set(self, op: Operation, name: str, activation: int = 0, at: int = 0) -> None:
        """Say which of ours the operator's output `at` is, after the activation that is built in."""
        if activation:
            if activation not in _BUILT_IN:
                raise Unsupported(f"its activation has the number {activation}")
            function, attributes = _BUILT_IN[activation]
            name = self.emit(function, [name], **attributes)
        self.values[op.outputs[at]] = name
        self._keep_limit(op.outputs[at], name)

    def _keep_limit(self, i: int, name: str) -> None:
        """Note how far an activation reaches whose codes the file spreads over less than its function allows, so that
        8-bit programs do the same without calibration."""
        end, producer, width = self._table.largest(i), self.producer(name), self.types[name].shape[-1:]
        if end is None or producer is None or upper_bound(producer) is None or width[0] % FREE == 0:
            return
        known = self.graph.tensors[name].limit
        keep_limits(self.graph, {name: np.full(width, end if known is None else min(end, float(known.max())))})


_ADVICE = {
    "custom TFLite_Detection_PostProcess": "boxes are chosen after the network: cut the model before it",
    "NON_MAX_SUPPRESSION_V4": "boxes are chosen after the network: cut the model before it",
    "NON_MAX_SUPPRESSION_V5": "boxes are chosen after the network: cut the model before it",
    "ARG_MAX": "the highest score is chosen after the network: convert the model without it",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "recurrent layers can't be trained here",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "recurrent layers can't be trained here",
    "LSTM": "recurrent layers can't be trained here",
    "WHILE": "convert it with a fixed number of steps",
    "IF": "convert the branch that is meant",
}


def advice(operators: set[str]) -> list[str]:
    """What to do about operators that can't be imported."""
    lines = [f"{name}: {_ADVICE[name]}" for name in sorted(operators) if name in _ADVICE]
    return [*lines, "convert the model without them, or cut it before them; docs/tflite.md lists what is read"]
