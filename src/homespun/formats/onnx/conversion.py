"""A graph on its way from ONNX to ours: how rules find their operands, and say what an operator has become.

Each foreign tensor is one of ours in some order of axes (`layout`), or a constant that joins the graph once read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.formats.assembly import FREE, Assembly, Unsupported, shape_text, without_leading_ones
from homespun.formats.checked import shortened
from homespun.formats.onnx.layout import CHANNELS_LAST, Value, channel_last, identity, moves_only_ones, regrouped
from homespun.formats.onnx.nodes import ForeignModel, ForeignNode, needed_nodes
from homespun.graph import Array


class Conversion(Assembly):
    """Rules read operands with `value`, `constant`, `channels_last`, and give results with `set`."""

    def __init__(self, model: ForeignModel) -> None:
        super().__init__(model.name or model.path.stem)
        self.model, self.opset, self.fail = model, model.opset, model.fail
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = dict(model.constants)
        floats = {name for name, array in self.constants.items() if array.dtype == np.float32}
        self.learnable = floats if model.parameters is None else floats & model.parameters
        self.origins: dict[str, str] = {}  # of constants that are a trainable one transposed, cast, cut
        self.declared_batch: int | None = None
        #: Inputs that hold whole numbers, as float32: masks, pixels.
        self.whole: set[str] = set()
        self._made: dict[Any, str] = {}
        self._leads: dict[str, int] = {}
        self._reshapes: dict[str, tuple[Value, Value, tuple[int, ...]]] = {}  # result, what of, and its foreign shape
        self.nodes = needed_nodes(model.nodes, [*model.outputs, *model.effects], self.constants, self.fail)
        self.readers: dict[str, list[ForeignNode]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    self.readers.setdefault(name, []).append(node)

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

    def is_read(self, name: str) -> bool:
        """Whether a node that matters reads a foreign tensor, or it is an output."""
        return name in self.readers or name in self.model.outputs

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
                raise self.fail(f"tensor {shortened(name)}", "it is read, but nothing writes it")
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
        return self.laid_out(value, channel_last(rank)).name

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

    def set(self, foreign: str, name: str, axes: Sequence[int] | None = None) -> None:
        """Say which of ours a foreign tensor is."""
        rank = len(self.types[name].shape)
        self.values[foreign] = Value(name, tuple(axes) if axes is not None else identity(rank))

    def before_batch(self, value: Value) -> int:
        """How many values of the foreign tensor precede the batch in its order: 1 where the batch leads."""
        ours = self.types[value.name].shape
        shape = ours if value.image is not None else tuple(ours[value.axes.index(i)] for i in range(len(ours)))
        at = next((i for i, d in enumerate(shape) if d % FREE == 0), 0)
        return math.prod(shape[:at]) * self._lead(value.name)

    def _lead(self, name: str) -> int:
        """How many indices precede the batch within the axis that holds it: 1 where it leads, or is alone."""
        while name not in self._leads:
            length = next((d for d in self.types[name].shape if d % FREE == 0), FREE)
            node = self.producer(name)
            if length == FREE or node is None:
                return 1
            name = next((i for i in node.inputs if i and length in self.types[i].shape), "")
            if not name:
                return 1
        return self._leads[name]

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """A foreign reshape to a foreign shape, done without moving values wherever ours allows."""
        shape = tuple(int(d) for d in shape)
        made, source, old = self._reshapes.get(value.name, (None, value, ()))
        if made == value and old == shape:
            return source  # a reshape and back
        at = next((i for i, d in enumerate(shape) if d % FREE == 0), None)
        before = self.before_batch(value)
        result = self._reshaped(value, shape)
        ours = self.types[value.name].shape
        if value.image is None and result.name != value.name:
            old = tuple(ours[value.axes.index(i)] for i in range(len(ours)))
            self._reshapes[result.name] = (result, value, old)
        if at is not None:
            lead, rest = divmod(before, math.prod(shape[:at]))
            if rest or shape[at] // FREE % lead:
                raise Unsupported("it moves the batch into other axes")
            self._leads[result.name] = lead
        return result

    def before_reshape(self, value: Value) -> Value | None:
        """What a value was before it was reshaped, if that was the last that was done to it."""
        made, source, _ = self._reshapes.get(value.name, (None, value, ()))
        return source if made == value else None

    def _reshaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        if value.image is not None:
            value = self.laid_out(value, (0, 1))
        ours = self.types[value.name].shape
        before = tuple(ours[value.axes.index(i)] for i in range(len(ours)))
        if math.prod(before) != math.prod(shape) or 0 in shape:
            raise Unsupported(f"can't reshape {shape_text(before)} to {shape_text(shape)}")
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

    def weight(self, foreign: str, array: Array) -> str:
        """An array of the file as it is; trainable where it is an initializer with more than one number."""
        trainable = foreign in self.learnable and array.size > 1 and array.dtype == np.float32
        array = array.astype(np.int32) if array.dtype == np.int64 else _own(array)
        return self.add_array(self.weight_name(foreign), array, "parameter" if trainable else "constant")

    def operand(self, foreign: str, axes: tuple[int, ...]) -> Value:
        """A constant as an operand of a tensor with its axes in this order, to be broadcast from the right."""
        array = self.constants[foreign]
        if array.size == 1:
            return Value(self.weight(foreign, array.reshape(())), ())
        full = array.reshape((1,) * (len(axes) - array.ndim) + array.shape).transpose(axes)
        full = without_leading_ones(full)
        if not np.isfinite(full).all() and full.dtype.kind == "f" and foreign in self.learnable:
            raise Unsupported("a constant operand has values that are not finite")
        key = ("operand", foreign, full.shape, axes)
        if key not in self._made:
            self._made[key] = self.weight(foreign, np.ascontiguousarray(full))
        return Value(self._made[key], identity(full.ndim))

    def layer_weight(self, foreign: str, kind: str, array: Array, role: str = "parameter") -> str:
        """An array in the layout that a layer wants; the same one again where another layer shares it.

        Raises `Unsupported` where its values are no numbers.
        """
        # Vectors are shared by exporters that find equal ones, such as biases of zero: here each layer has its own.
        own = self._stem if array.ndim == 1 and self.model.deduplicated else ""
        key = (foreign, kind, array.shape, role, own)
        if key not in self._made:
            array = _own(array)
            if not np.isfinite(array).all():
                raise Unsupported(f"its {kind} has values that are not finite")
            self._made[key] = self.add_array(self.weight_name(foreign, kind), array, role)
        return self._made[key]

    def weight_name(self, foreign: str, kind: str = "constant") -> str:
        """The file's name, unless an exporter made it up: then the node's, and what it is."""
        foreign = self.origins.get(foreign, foreign)
        made_up = "::" in foreign or foreign.isdigit() or foreign not in self.learnable
        return f"{self._stem}.{kind}" if made_up else foreign


def _own(array: Array) -> Array:
    """The array in memory of its own, which the file's is not: it can be written to."""
    array = np.asarray(array, order="C")
    return array if array.flags.writeable else array.copy()
