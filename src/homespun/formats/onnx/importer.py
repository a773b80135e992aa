"""From a checked model in ONNX's terms to a `Graph`: the walk over its nodes. `rules_*.py` say what operators become.

Images come out channels-last, transposes fall away (`layout`), what depends on no input is computed here (`folding`),
and the first axis of the inputs is the free batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from homespun.errors import FormatError, ModelError, OptionError
from homespun.formats.assembly import FREE, Unsupported, shortlist
from homespun.formats.checked import SENSELESS, check_foreign, shortened
from homespun.formats.folding import Folding
from homespun.formats.onnx import folding
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.layout import CHANNELS_LAST, KEPT_ORDER, Value, identity
from homespun.formats.onnx.nodes import ForeignInput, ForeignModel, ForeignNode
from homespun.graph import BATCH, Graph, Tensor, TensorType

Rule = Callable[[Conversion, ForeignNode], None]


class Importer(Conversion):
    """Walks the nodes that outputs need: each is folded, or goes to its operator's rule."""

    def __init__(
        self, model: ForeignModel, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None, free: bool
    ) -> None:
        super().__init__(model)
        self.rules, self.free = rules, free
        self._fold = Folding(folding.RULES, model.size)
        self._inputs(shapes)

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self) -> Graph:
        """The whole graph. Raises `FormatError` that lists all nodes which can't be imported."""
        problems: list[tuple[ForeignNode, str]] = []
        lost: set[str] = set()
        for node in self.nodes:
            rule = self.rules.get(node.op) if node.standard else None
            known = rule is not None or (node.standard and self._fold.knows(node.op))
            missing = lost.intersection(node.inputs)
            if node.problem or not known or (rule is None and not missing and not self._folds(node)):
                why = "it is computed from the model's input" if known else "there is no such operator here"
                problems.append((node, node.problem or why))
                lost.update(node.outputs)
                continue
            if missing:
                lost.update(node.outputs)
                continue
            try:
                self._convert(node, rule)
            except (Unsupported, ModelError) as e:
                problems.append((node, str(e)))
                lost.update(node.outputs)
            except SENSELESS as e:
                raise self.fail(f"node {shortened(node.name)}", f"makes no sense ({type(e).__name__}: {e})") from None
        if problems:
            raise self._unsupported(problems)
        try:
            self._outputs()
        except (Unsupported, ModelError) as e:
            raise self.fail("outputs", str(e)) from None
        self._note_origin()
        return self.graph

    def _convert(self, node: ForeignNode, rule: Rule | None) -> None:
        self._stem = node.name.strip("/") or node.op
        if self._folds(node):
            inputs = [self.constants[n] if n else None for n in node.inputs]
            try:
                results = self._fold(node.op, node, inputs)
            except (Unsupported, *SENSELESS):
                if any(c is not None and c.dtype == np.int64 and (c == FREE).any() for c in inputs):
                    raise Unsupported("its result depends on the batch size") from None
                raise
            for name, array in zip(node.outputs, results, strict=False):
                if name:
                    self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
            trained = [n for n in node.inputs if n in self.learnable]
            if len(trained) == 1 and node.op in _KEEPS_LEARNABLE:
                self.learnable.update(o for o in node.outputs if o)
                self.origins.update((o, self.origins.get(trained[0], trained[0])) for o in node.outputs)
            return
        assert rule is not None
        rule(self, node)
        missing = [o for o in node.outputs if o and o not in self.values and o not in self.constants]
        used = [o for o in missing if self.is_read(o)]
        if used:
            raise Unsupported(f"its output {used[0]!r} can't be had; use only the first output")

    def _folds(self, node: ForeignNode) -> bool:
        return node.standard and self._fold.knows(node.op) and all(not n or n in self.constants for n in node.inputs)

    # -- inputs, outputs ----------------------------------------------------------------------------------------

    def _inputs(self, shapes: Mapping[str, Any] | None) -> None:
        used = [i for i in self.model.inputs if i.name not in self.constants and self.is_read(i.name)]
        given = self._check_shapes(shapes, [i.name for i in used])
        self.channels_last_inputs: list[str] = []
        declared = {i.name: self._declared_shape(i, given.get(i.name)) for i in used}
        firsts = {s[0] for s in declared.values() if s}
        if self.free and len(firsts) == 1:
            self.declared_batch = next(iter(firsts)) if firsts != {FREE} else None
        for entry in used:
            if not entry.name or entry.name in self.values:
                raise self.fail("graph", f"an input is named {shortened(entry.name)}, or two are")
            shape = declared[entry.name]
            if self.free and shape and len(firsts) == 1:
                shape = (FREE, *shape[1:])
            element = entry.dtype
            if element is None:
                raise self.fail(f"input {shortened(entry.name)}", "its data type can't be an input")
            if element != "float32" and (element != "int32" or self._is_computed_with(entry.name)):
                self.whole.add(entry.name)
                element = "float32"  # pixels and masks: the numbers are the same
            axes = identity(len(shape))
            if len(shape) == 4 and (self.model.channels_first or self._is_channels_first(entry.name)):
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

    def _check_shapes(self, given: Mapping[str, Any] | None, names: list[str]) -> Mapping[str, Any]:
        """The caller's shapes of inputs. Raises `OptionError` for one that the model doesn't have."""
        for name in given or {}:
            if name not in names:
                raise OptionError(f"shapes: {self.model.path} has no input {name!r}; it has {', '.join(names)}")
        return given or {}

    def _declared_shape(self, entry: ForeignInput, given: Sequence[int] | None) -> tuple[int, ...]:
        place = f"input {shortened(entry.name)}"
        if entry.dims is None and not given:
            raise self.fail(place, "it is no tensor, or its number of axes is not known")
        dims = list(entry.dims or [])
        if given is not None:
            if dims and len(given) != len(dims):
                raise OptionError(f"shapes: input {entry.name!r} has {len(dims)} axes, {len(given)} given")
            dims = [int(d) for d in given]
        if dims and dims[0] <= 0:
            dims[0] = FREE
        if any(d < 1 for d in dims) or not dims:
            text = ", ".join(str(d) if d > 0 else "?" for d in dims)
            raise self.fail(
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

    def _is_computed_with(self, name: str) -> bool:
        """Whether an input of whole numbers is one to compute with, rather than to look something up."""
        ends = [node for node in self.readers.get(name, []) if node.op != "Shape"]
        moved = [o for node in ends if node.op in _MOVES for o in node.outputs[:1]]
        return (
            bool(ends)
            and all(node.op in _COMPARES or (node.op in _MOVES and node.inputs[0] == name) for node in ends)
            and all(self._is_computed_with(o) for o in moved)
        )

    def _outputs(self) -> None:
        last: list[str] = []
        for foreign in self.model.outputs:
            if foreign not in self.values and foreign not in self.constants:
                raise self.fail(f"output {shortened(foreign)}", "nothing computes it")
            value = self.value(foreign)
            if value.image is not None or (not value.plain and value.axes != CHANNELS_LAST):
                value = self.laid_out(value, identity(len(self.shape(foreign))))
            name = value.name
            if self.graph.tensors[name].role != "activation" or name in self.graph.outputs:
                name = self.emit("identity", [name], foreign)
            taken = self.graph.tensors.get(foreign)
            if taken and name != foreign and taken.role == "activation" and foreign not in self.graph.outputs:
                self._rename(foreign, self.fresh(foreign))  # a step on the way to it
            if name != foreign and foreign not in self.graph.tensors:
                self._rename(name, foreign)
                name = foreign
            self.graph.outputs.append(name)
            if value.plain and len(value.axes) == 4:
                last.append(name)
        self.channels_last_inputs += last

    def _rename(self, old: str, new: str) -> None:
        """Give one of our tensors, and the node that makes it, another name."""
        self.graph.rename(old, new)
        for node in self.graph.nodes:
            node.name = new if node.outputs[0] == new else node.name
        self.types[new] = self.types.pop(old)
        self.values = {k: Value(new, v.axes, v.image) if v.name == old else v for k, v in self.values.items()}
        self._made = {k: new if v == old else v for k, v in self._made.items()}

    def _note_origin(self) -> None:
        self.graph.metadata["source"] = self.model.source
        for key, value in self.model.metadata.items():
            self.graph.metadata.setdefault(key, value)
        if self.channels_last_inputs:
            # tensors of four axes that the file has in our order, so that exporting writes them so again
            self.graph.metadata[KEPT_ORDER] = ",".join(self.channels_last_inputs)

    def _unsupported(self, problems: list[tuple[ForeignNode, str]]) -> FormatError:
        lines = [f"{n.name} ({n.kind}): {why}" for n, why in problems]
        advice = [
            f"{kind}: {self.model.advice[kind]}"
            for kind in sorted({n.kind for n, _ in problems} & {*self.model.advice})
        ]
        advice.append(self.model.advice[""])
        text = "\n  ".join([*shortlist(lines), "What to do:", *advice])
        return self.fail("graph", f"{len(problems)} of {len(self.nodes)} nodes can't be imported:\n  {text}")


_CHANNELS_FIRST = (
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "LRN"),
    *(
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "QLinearConv",
        "DepthToSpace",
        "SpaceToDepth",
    ),
)
_LAYOUT_FREE = (
    *("Add", "Sub", "Mul", "Div", "Cast", "Identity", "Pad", "Relu", "Clip", "Slice", "Split", "Concat", "Neg"),
    *("QuantizeLinear", "DequantizeLinear", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "PRelu", "Dropout"),
)
#: What asks a number of an input, and what only hands it on.
_COMPARES = ("Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Where")
_MOVES = ("Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Slice", "Identity", "Expand")
_KEEPS_LEARNABLE = (
    *("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Split", "Slice"),
    *("Cast", "DequantizeLinear"),
)


def import_model(model: ForeignModel, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None) -> Graph:
    """The graph of a model, its batch free; fixed as it is there where operators depend on that number."""
    try:
        graph = _free_or_fixed(model, rules, shapes)
    except OptionError:
        raise  # a `ValueError` too, but of the caller's making
    except SENSELESS as e:
        raise model.fail("graph", f"makes no sense ({type(e).__name__}: {e})") from None
    graph.prune()
    check_foreign(graph, model.fail)
    return graph


def _free_or_fixed(model: ForeignModel, rules: Mapping[str, Rule], shapes: Mapping[str, Any] | None) -> Graph:
    importer = Importer(model, rules, shapes, free=True)
    try:
        return importer.run()
    except FormatError as e:
        if importer.declared_batch is None:
            raise  # the batch is free in the file itself, so there is no other reading
        try:
            return Importer(model, rules, shapes, free=False).run()
        except FormatError:
            raise e from None
