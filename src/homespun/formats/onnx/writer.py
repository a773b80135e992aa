"""What operators' `to_onnx` rules write with: nodes and weights of an ONNX graph, and the order of axes in it.

Images are channels-first there. A tensor of four axes is known in our order, in theirs, or in both; a transpose is
written only where one is asked for that is not there yet, so that a network of convolutions has none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from homespun.graph import Array, Graph, Node, TensorType
from homespun.graph.operator import attributes
from homespun.ops.activation import onnx_function

#: The operator set that is written: old enough for the runtimes that are out there, new enough to quantise channels
#: and to add up what is scattered.
OPSET = 17
FIRST = (0, 3, 1, 2)
_TO_FIRST = {0: 0, 1: 2, 2: 3, 3: 1}
Operand = str | float | Array


class OnnxWriter:
    """Collects nodes. Called as `write("Add", a, b)` it appends one and returns its output's name.

    Operands are names in the ONNX graph ("" is absent), numbers (a float32 constant) or arrays. `codes` are 8-bit
    weights by name, which are written as codes and a `DequantizeLinear`; `steps` what one code is worth in the
    activations, (channels,) or (), that go through 8 bits.
    """

    def __init__(
        self,
        graph: Graph,
        types: Mapping[str, TensorType],
        codes: Mapping[str, tuple[Array, Array]] | None = None,
        steps: Mapping[str, Array] | None = None,
    ) -> None:
        import onnx

        self._onnx = onnx
        self.graph, self.types = graph, dict(types)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.shared: dict[Any, Any] = {}  # what rules keep for each other
        self.next: dict[str, str] = {}  # what parameters and states become, by our name
        self._codes, self._steps = dict(codes or {}), dict(steps or {})
        self._ours: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._constants: dict[Any, str] = {}
        self._held: list[Any] = []
        self._taken: set[str] = set()
        self._made: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._stem = "node"

    def enter(self, graph: Graph, types: Mapping[str, TensorType]) -> None:
        """Go on with another graph, which shares tensors with the one before by name."""
        self.graph = graph
        self.types.update(types)

    # -- what rules read ----------------------------------------------------------------------------------------

    def attributes(self, node: Node) -> dict[str, Any]:
        """The node's attributes, defaults filled in."""
        return attributes(node)

    def type(self, name: str) -> TensorType:
        """Shape and dtype of one of our tensors."""
        return self.types[name]

    def data(self, name: str) -> Array:
        """The array of one of our tensors. Raises `ModelError` if it has none."""
        return self.graph.data(name)

    def ours(self, name: str) -> str:
        """ONNX's name of one of our tensors, its axes in our order."""
        if name not in self._ours:
            if name in self._first:
                self._ours[name] = self("Transpose", self._first[name], stem=f"{name}/last", perm=[0, 2, 3, 1])
            else:
                self._ours[name] = self._weight(name, None)
        return self._ours[name]

    def first(self, name: str) -> str:
        """ONNX's name of one of our tensors of four axes, channels first."""
        if name not in self._first:
            tensor = self.graph.tensors.get(name)
            if name not in self._ours and tensor is not None and tensor.data is not None:
                self._first[name] = self._weight(name, FIRST)
            else:
                self._first[name] = self("Transpose", self.ours(name), stem=f"{name}/first", perm=list(FIRST))
        return self._first[name]

    def permuted(self, name: str, axes: tuple[int, ...]) -> str:
        """A weight with its axes in another order: transposed now, or by a node where it is no constant."""
        key = (name, axes)
        if key not in self._constants:
            if name in self._ours:
                self._constants[key] = self("Transpose", self._ours[name], stem=f"{name}/permuted", perm=list(axes))
            else:
                self._constants[key] = self._weight(name, axes)
        return self._constants[key]

    def together(self, *names: str) -> tuple[list[str], bool]:
        """(operands, whether they are channels first) of a function of each element, in one order of axes."""
        ranks = [len(self.types[n].shape) for n in names]
        first = any(n in self._first and n not in self._ours for n in names if len(self.types[n].shape) == 4)
        if not first or any(r in (2, 3) for r in ranks):
            return [self.ours(n) for n in names], False
        return [
            self.first(n) if r == 4 else self.spread(self.ours(n), True, r) for n, r in zip(names, ranks, strict=True)
        ], True

    def axis(self, axis: int, first: bool) -> int:
        """Where one of our axes is in ONNX."""
        return _TO_FIRST[axis] if first else axis

    def spread(self, vector: str, first: bool, rank: int = 1) -> str:
        """A vector of one value a channel (an ONNX name), shaped so that it is broadcast along the pixels."""
        if not first or rank == 0:
            return vector
        key = ("spread", vector)
        if key not in self._constants:
            self._constants[key] = self("Reshape", vector, np.asarray([-1, 1, 1], np.int64))
        return self._constants[key]

    def shape(self, name: str, first: bool) -> tuple[int, ...]:
        """Shape of one of our tensors in ONNX; channels first where it has four axes and that is asked for."""
        shape = self.types[name].shape
        return tuple(shape[i] for i in FIRST) if first and len(shape) == 4 else shape

    # -- what rules write ---------------------------------------------------------------------------------------

    def __call__(self, op: str, *operands: Operand, stem: str = "", outputs: int = 1, **given: Any) -> Any:
        """Append a node; returns the name of its output, or of several where `outputs` is more than one."""
        names = [o if isinstance(o, str) else self._constant(o) for o in operands]
        out = [self.fresh(stem or f"{self._stem}/{op}") for _ in range(outputs)]
        self.nodes.append(self._onnx.helper.make_node(op, names, out, name=out[0], **given))
        self._made.update(out)
        return out[0] if outputs == 1 else out

    def give(self, name: str, onnx_name: str, first: bool = False) -> None:
        """Say which tensor of the ONNX graph one of ours is, in our order of axes or channels first."""
        if name in self._steps:
            axis = 1 if first else len(self.types[name].shape) - 1
            onnx_name = self._through_8_bits(onnx_name, self._steps[name], axis)
        (self._first if first else self._ours)[name] = onnx_name

    def _through_8_bits(self, x: str, step: Array, axis: int) -> str:
        """Rounded to uint8 codes and back: each worth `step`, () or one for each index of an axis, from zero on."""
        scale, zero = np.asarray(step, np.float32), np.zeros(np.shape(step), np.uint8)
        given = {"axis": axis} if scale.ndim else {}
        codes = self("QuantizeLinear", x, scale, zero, stem=f"{x}/quantized", **given)
        return str(self("DequantizeLinear", codes, scale, zero, stem=f"{x}/dequantized", **given))

    def update(self, name: str, value: str, control: str) -> None:
        """Say what a parameter or state becomes, unless the step has been found bad."""
        go = self.shared[control][0]
        self.next[name] = self("Where", go, value, self.ours(name)) if go else value

    def filled(self, shape: Sequence[int], value: float) -> str:
        """A tensor of one number, made when it runs."""
        number = self._onnx.numpy_helper.from_array(np.asarray([value], np.float32))
        return str(self("ConstantOfShape", np.asarray(shape, np.int64), value=number))

    def cut(self, full: str, reach: Sequence[int], pads: Sequence[int], size: Sequence[int]) -> str:
        """The part of an image (N, C, *reach) that lies inside, without the padding before: (N, C, *size).

        What windows did not reach, at the end, is zero.
        """
        missing = [max(0, p + n - r) for r, p, n in zip(reach, pads, size, strict=False)]
        if any(missing):
            full = self("Pad", full, np.asarray([0, 0, 0, 0, 0, 0, *missing], np.int64))
        if tuple(size) == tuple(r + m for r, m in zip(reach, missing, strict=True)):
            return full
        ends = [p + n for p, n in zip(pads, size, strict=False)]
        return str(self("Slice", full, *(np.asarray(v, np.int64) for v in (list(pads[:2]), ends, [2, 3]))))

    def activated(self, node: Node, y: str) -> str:
        """The activation that is fused into a node, written behind it."""
        a = attributes(node)
        return onnx_function(self, a["activation"], y, float(a["alpha"]), float(a["beta"]))

    def begin(self, node: Node) -> None:
        """Name what follows after a node."""
        self._stem = node.name or node.outputs[0]

    def fresh(self, stem: str) -> str:
        """A name that no tensor of the ONNX graph has."""
        name, i = stem, 0
        while name in self._taken:
            i += 1
            name = f"{stem}_{i}"
        self._taken.add(name)
        return name

    def rename(self, old: str, new: str) -> bool:
        """Give a node's output another name in the finished graph; False if that is not possible."""
        if new in self._taken or old not in self._made or old in self._renamed:
            return old == new
        self._taken.add(new)
        self._renamed[old] = new
        return True

    def finished(self, outputs: Collection[str]) -> tuple[list[Any], set[str]]:
        """(the nodes that these outputs need, under their final names; all names that are read)."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name in self._renamed:
                        names[i] = self._renamed[name]
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        return nodes[::-1], needed

    def _constant(self, value: float | Array) -> str:
        array = np.asarray(value, np.float32) if type(value) in (int, float) else np.asarray(value)
        key: Any = (array.dtype.str, array.shape, array.tobytes())
        if array.size >= 64:
            key = id(value)
            self._held.append(value)  # so that no other array gets its id
        if key not in self._constants:
            name = self.fresh(
                f"{self._stem}/constant"
                if array.size > 1
                else f"number/{array.reshape(-1)[0]:g}"
                if array.size
                else "empty"
            )
            self._constants[key] = self.add_initializer(name, array)
        return self._constants[key]

    def add_initializer(self, name: str, array: Array) -> str:
        """Put an array into the file."""
        self.initializers.append(self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def _weight(self, name: str, axes: Sequence[int] | None) -> str:
        """A tensor with data as an initializer, 8-bit weights as codes."""
        order = list(axes) if axes is not None else None
        name_there = self.fresh(name if order is None or name not in self._taken else f"{name}/permuted")
        if name not in self._codes:
            data = self.data(name)
            return self.add_initializer(name_there, data if order is None else data.transpose(order))
        codes, scale = self._codes[name]
        codes = codes if order is None else codes.transpose(order)
        axis = codes.ndim - 1 if order is None else order.index(codes.ndim - 1)
        stored = self.add_initializer(self.fresh(f"{name_there}/codes"), codes)
        scales = self.add_initializer(self.fresh(f"{name_there}/scale"), scale)
        zeros = self.add_initializer(self.fresh(f"{name_there}/zero"), np.zeros(scale.shape, np.int8))
        self.nodes.append(
            self._onnx.helper.make_node(
                "DequantizeLinear", [stored, scales, zeros], [name_there], name=name_there, axis=axis
            )
        )
        return name_there
