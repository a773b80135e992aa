"""Which channels of a network go together: what pruning has to know before it takes any away.

Every index of every last axis gets a number; operators say which numbers meet (`Operator.channels`), and what has met
becomes one *unit*: the filter that makes a channel, its norm, the filters that read it, and whatever a residual sum, a
gate or a shuffle ties to it. Units with the same faces in the same tensors are a *group*, such as the inner channels
of one block, or all blocks of one residual stream.
Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", section 3, here by channel rather than by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from homespun.errors import ShapeError
from homespun.graph import Array, Graph, Node, TensorType, infer
from homespun.graph.graph import Attribute
from homespun.graph.operator import operator
from homespun.ops.coupling import stay

Counter = Callable[[Array], int]


@dataclass(frozen=True)
class Face:
    """An axis of a tensor that is counted in channels; `units` (C,) says which unit each belongs to, -1: it stays."""

    tensor: str
    axis: int
    units: Array


class Coupling:
    """The units of a graph.

    `faces`: all axes that channels can be taken from. `groups`: the units (n,) of each group. Both without what has to
    stay: the graph's inputs and outputs, and what operators that have no rule touch.
    """

    def __init__(self, graph: Graph) -> None:
        found = _Numbering(graph)
        roots = found.roots()
        stays = np.zeros(roots.size, bool)
        stays[roots[found.frozen()]] = True
        free = np.unique(roots[~stays[roots]])
        unit = np.full(roots.size, -1)
        unit[free] = np.arange(free.size)
        self.units_of = unit[roots]  # by number
        self.count = int(free.size)
        self.numbers = found.last
        self.adjustments = found.adjustments
        self.faces = [Face(t, axis, self.units_of[n]) for (t, axis), n in found.laid.items()]
        self.faces += [Face(t, -1, self.units_of[n]) for t, n in found.last.items() if graph.tensors[t].data is None]
        self.groups = self._grouped()

    def _grouped(self) -> list[Array]:
        where: list[list[int]] = [[] for _ in range(self.count)]
        for place, face in enumerate(self.faces):
            for u in np.unique(face.units[face.units >= 0]):
                where[u].append(place)
        groups: dict[tuple[int, ...], list[int]] = {}
        for u, places in enumerate(where):
            groups.setdefault(tuple(places), []).append(u)
        return [np.array(g) for g in groups.values()]

    def without(self, graph: Graph, removed: Array) -> Graph:
        """A copy of the graph without the units for which `removed` (count,) is True. Raises `ShapeError` if an axis
        would be empty."""
        gone = np.append(removed, False)  # the last is for unit -1

        def left(numbers: Array) -> int:
            return int((~gone[self.units_of[numbers]]).sum())

        result = graph.copy()
        for place, changes in self.adjustments.items():
            for attribute, value in changes.items():
                result.nodes[place].attributes[attribute] = value(left)
        for face in self.faces:
            stays = ~gone[face.units]
            if stays.all():
                continue
            tensor = result.tensors[face.tensor]
            if not stays.any():
                raise ShapeError(f"no channel of {face.tensor!r} would be left")
            if tensor.limit is not None:
                tensor.limit = tensor.limit[stays]
            if tensor.data is not None:
                tensor.data = np.ascontiguousarray(np.compress(stays, tensor.data, face.axis))
                tensor.shape = tensor.data.shape
        infer(result)
        return result


class _Numbering:
    """Numbers of all channels, and which of them go together: what operators' rules write to (`operator.Channels`)."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._types = graph, infer(graph)
        self._parent: list[int] = []
        self._frozen: list[int] = []
        self._node = 0
        #: Numbers of the last axes of all tensors, and of all axes of those that carry data.
        self.last: dict[str, Array] = {}
        self.laid: dict[tuple[str, int], Array] = {}
        #: By place of the node and attribute.
        self.adjustments: dict[int, dict[str, Callable[[Counter], Attribute]]] = {}
        for name in graph.inputs:
            self.freeze(self.of(name))
        for place, node in enumerate(graph.nodes):
            self._node = place
            (operator(node).channels or stay)(self, node)
            self._check(node)
        for name in graph.outputs:
            self.freeze(self.of(name))

    def _check(self, node: Node) -> None:
        for name in filter(None, node.outputs):
            if self.of(name).size != (self._types[name].shape or (0,))[-1]:
                raise ShapeError(f"node {node}: its rule for channels numbers another axis than {name!r} has")

    # -- what rules call ----------------------------------------------------------------------------------------

    def type(self, tensor: str) -> TensorType:
        return self._types[tensor]

    def carries(self, tensor: str) -> bool:
        return self._graph.tensors[tensor].data is not None

    def of(self, tensor: str) -> Array:
        if tensor not in self.last:
            shape = self._types[tensor].shape
            self._number(tensor, self._new(shape[-1] if shape else 0))
        return self.last[tensor]

    def give(self, tensor: str, numbers: Array) -> None:
        if tensor in self.last:  # a state that the graph writes
            self.couple(self.last[tensor], numbers)
        else:
            self._number(tensor, numbers)

    def couple(self, *numbers: Array) -> None:
        for others in numbers[1:]:
            for a, b in zip(numbers[0].tolist(), others.tolist(), strict=True):
                self._parent[self._root(a)] = self._root(b)

    def freeze(self, numbers: Array) -> None:
        self._frozen += numbers.tolist()

    def lay(self, tensor: str, axis: int, numbers: Array) -> None:
        if axis == len(self._types[tensor].shape) - 1:
            self.give(tensor, numbers)
        elif (tensor, axis) in self.laid:
            self.couple(self.laid[tensor, axis], numbers)
        else:
            self.laid[tensor, axis] = numbers

    def adjust(self, attribute: str, value: Callable[[Counter], Attribute]) -> None:
        self.adjustments.setdefault(self._node, {})[attribute] = value

    # -- what comes of it ---------------------------------------------------------------------------------------

    def roots(self) -> Array:
        """The number that stands for each number."""
        return np.array([self._root(i) for i in range(len(self._parent))], np.int64)

    def frozen(self) -> Array:
        return np.array(self._frozen, np.int64)

    def _number(self, tensor: str, numbers: Array) -> None:
        self.last[tensor] = numbers
        if self.carries(tensor) and self._types[tensor].shape:
            self.laid[tensor, len(self._types[tensor].shape) - 1] = numbers

    def _new(self, count: int) -> Array:
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i
