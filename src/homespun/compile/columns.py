"""Concatenation and slices without a copy: tensors that lie, row by row, as columns of larger ones.

`concat`, `split` and `slice` along the last axis lower to copies into or out of columns. Such a copy can go where every
kernel that touches the smaller tensor can step as far as the larger one's rows are apart: where its ints have
`OPERAND_row`. The smaller tensor then has no bytes of its own, and the larger one lives as long as either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from homespun.graph import TensorType
from homespun.graph.graph import ITEM_SIZE

if TYPE_CHECKING:
    from homespun.compile.lowering import Call

Schema = Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]]


class Place(NamedTuple):
    """Where a tensor lies: each row of it in one of `whole`'s, `row` elements long, from element `first` on."""

    whole: str
    first: int
    row: int


@dataclass(frozen=True)
class ColumnCopy:
    """A call that copies `part` into columns of `whole` (`joins`), or out of them, from element `first` of a row on."""

    call: Call
    part: str
    whole: str
    first: int
    joins: bool


class Columns:
    """Which tensors could lie in others, and, once chosen, where they do. Tensors are those that have bytes (roots)."""

    def __init__(
        self,
        copies: Sequence[ColumnCopy],
        calls: Sequence[Call],
        types: Mapping[str, TensorType],
        root: Callable[[str], str],
        movable: Callable[[str], bool],
        schema: Schema,
    ) -> None:
        self.places: dict[str, Place] = {}
        self._copies = {id(c.call): c for c in copies}
        self._calls, self._types, self._root, self._movable, self._schema = calls, types, root, movable, schema
        self._touching: dict[str, list[tuple[Call, str, str]]] = {}
        for call in calls if copies else ():
            for operand, name in call.tensors():
                self._touching.setdefault(root(name), []).append((call, operand, name))

    def choose(self, wanted: Callable[[ColumnCopy], bool]) -> list[Call]:
        """Let parts of the copies that are `wanted` lie in their wholes, where all kernels allow it; returns the calls
        that are left."""
        self.places = {}
        for copy in filter(wanted, self._copies.values()):
            part, whole = self._root(copy.part), self._root(copy.whole)
            free = part not in self.places and self._movable(part) and self._movable(whole)
            if free and self.outermost(whole)[0] != part and all(map(self._steps, self._touching[part])):
                self.places[part] = Place(whole, copy.first, self._types[copy.whole].shape[-1])
        return [c for c in self._calls if not self._is_void(c)]

    def outermost(self, name: str) -> tuple[str, int]:
        """(the tensor whose bytes these are, bytes from its beginning to the first of these)."""
        first, whole = 0, name
        while whole in self.places:
            whole, start, _ = self.places[whole]
            first += start
        return whole, first * ITEM_SIZE[self._types[whole].dtype] if first else 0

    def set_rows(self) -> None:
        """Tell the kernels how far apart the rows are of what lies in another tensor."""
        for part, (whole, _, row) in self.places.items():
            while whole in self.places:
                whole, _, row = self.places[whole]
            for call, operand, _ in self._touching[part]:
                if id(call) in self._copies:
                    call.ints["s4" if operand == "input" else "o4"] = row
                else:
                    call.ints[f"{operand}_row"] = row

    def _steps(self, touch: tuple[Call, str, str]) -> bool:
        """Whether a call can read or write its operand with rows apart."""
        call, operand, name = touch
        same_rows = self._types[name].shape[-1:] == self._types[self._root(name)].shape[-1:]
        return same_rows and (id(call) in self._copies or f"{operand}_row" in self._schema[call.kernel][1])

    def _is_void(self, call: Call) -> bool:
        copy = self._copies.get(id(call))
        place = self.places.get(self._root(copy.part)) if copy is not None else None
        return copy is not None and place is not None and place[:2] == (self._root(copy.whole), copy.first)
