"""From a checked ONNX model to a `Graph`: the walk over its nodes. What each operator becomes is in `rules_*.py`.

Images come out channels-last, transposes fall away (`layout`), what depends on no input is computed here (`folding`),
and the first axis of the inputs is the free batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from homespun.errors import FormatError, ModelError, OptionError
from homespun.formats.assembly import FREE, Unsupported, shortlist
from homespun.formats.checked import SENSELESS, check_foreign, largest_constants, shortened
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.folding import fold
from homespun.formats.onnx.layout import CHANNELS_LAST, KEPT_ORDER, Value, identity
from homespun.formats.onnx.nodes import ForeignNode
from homespun.formats.onnx.reading import OnnxFile, check_shapes
from homespun.graph import BATCH, Graph, Tensor, TensorType

_ELEMENTS = {1: "float32", 10: "float32", 11: "float32", 16: "float32", 6: "int32", 7: "int32", 2: "uint8", 9: "bool"}

Rule = Callable[[Conversion, ForeignNode], None]


class Importer(Conversion):
    """Walks the nodes that outputs need: each is folded, or goes to its operator's rule."""

    def __init__(self, file: OnnxFile, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None, free: bool) -> None:
        super().__init__(file)
        self.rules, self.free = rules, free
        self._folded = 0
        self._inputs(shapes)

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
        try:
            self._outputs()
        except (Unsupported, ModelError) as e:
            raise self.file.fail("outputs", str(e)) from None
        self._note_origin()
        return self.graph

    def _convert(self, node: ForeignNode, rule: Rule | None) -> None:
        self._stem = node.name.strip("/") or node.op
        if self._folds(node):
            inputs = [self.constants[n] if n else None for n in node.inputs]
            # A result is at most as large as what it is made of together, or bounded by `folding.LARGEST`.
            if self._folded + sum(c.nbytes for c in inputs if c is not None) > largest_constants(self.file.size):
                raise self.file.fail(f"node {shortened(node.name)}", "constants take more memory than makes sense")
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
            if sum(n in self.learnable for n in node.inputs) == 1 and node.op in _KEEPS_LEARNABLE:
                self.learnable.update(o for o in node.outputs if o)
            return
        assert rule is not None
        rule(self, node)
        missing = [o for o in node.outputs if o and o not in self.values and o not in self.constants]
        used = [o for o in missing if self.is_read(o)]
        if used:
            raise Unsupported(f"its output {used[0]!r} can't be had; use only the first output")

    def _folds(self, node: ForeignNode) -> bool:
        return fold.knows(node.op) and all(not n or n in self.constants for n in node.inputs)

    # -- inputs, outputs ----------------------------------------------------------------------------------------

    def _inputs(self, shapes: Mapping[str, Any] | None) -> None:
        used = [i for i in self.file.model.graph.input if i.name not in self.constants and self.is_read(i.name)]
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
            readers = self.readers.get(entry.name, [])
            if element not in ("float32", "int32") or (readers and all(node.op == "Cast" for node in readers)):
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
            for node in self.readers.get(current, []):
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
        lines = [f"{n.name} ({n.domain + '.' if n.domain else ''}{n.op}): {why}" for n, why in problems]
        kinds = sorted({n.op for n, _ in problems})
        advice = [f"{op}: {_ADVICE[op]}" for op in kinds if op in _ADVICE]
        advice.append(
            "what can be left out (boxes, labels, decoding at the end): cut it off with onnx.utils.extract_model; what "
            "can't: replace it in the model's source, or add the operator (docs/adding-a-format.md)"
        )
        text = "\n  ".join([*shortlist(lines), "What to do:", *advice])
        return self.file.fail("graph", f"{len(problems)} of {len(self.nodes)} nodes can't be imported:\n  {text}")


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


def import_model(file: OnnxFile, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None) -> Graph:
    """The graph of a file, its batch free; fixed as the file has it where operators depend on that number."""
    if file.model.functions:
        names = ", ".join(f.name for f in list(file.model.functions)[:5])
        raise file.fail("graph", f"it has functions of its own ({names}); write them out with onnx.inliner first")
    try:
        graph = _free_or_fixed(file, rules, shapes)
    except OptionError:
        raise  # a `ValueError` too, but of the caller's making
    except SENSELESS as e:
        raise file.fail("graph", f"makes no sense ({type(e).__name__}: {e})") from None
    graph.prune()
    check_foreign(graph, file.fail)
    return graph


def _free_or_fixed(file: OnnxFile, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None) -> Graph:
    importer = Importer(file, rules, shapes, free=True)
    try:
        return importer.run()
    except FormatError as e:
        if importer.declared_batch is None:
            raise  # the batch is free in the file itself, so there is no other reading
        try:
            return Importer(file, rules, shapes, free=False).run()
        except FormatError:
            raise e from None
