"""One operator of a MindIR file as rules see it: operands, attributes, and what the file says of its results.

What an operator of today takes as an operand was an attribute in files of older versions; `setting` reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.checked import shortened
from homespun.formats.mindir.reading import Declared, Special
from homespun.graph import Array


@dataclass(frozen=True)
class Ref:
    """A tensor: an input, a parameter, a constant, or what an operator gives."""

    name: str


@dataclass(frozen=True)
class Closure:
    """A function of the file as a value."""

    graph: str


Value: TypeAlias = Any  # Ref, Closure, Special, a number, a text, None, or a tuple of such


@dataclass
class Operation:
    """One operator of the file: what its operands are, its attributes, and what its results are said to be."""

    kind: str
    name: str
    inputs: list[Value]
    attributes: Mapping[str, Any]
    results: list[Declared]
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def ref(self, i: int = 0) -> Ref:
        """Operand `i`, which must be a tensor."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if not isinstance(value, Ref):
            raise Unsupported(f"its operand {i} is no tensor")
        return value

    def has(self, i: int) -> bool:
        """Whether operand `i` is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def setting(self, i: int, name: str, default: Any = None) -> Any:
        """A plain value: operand `i` in files of today, or the attribute that it was before (-1: that it still is).

        Raises `Unsupported` where it is computed, or of another type than the default.
        """
        value = self.inputs[i] if 0 <= i < len(self.inputs) else self.attributes.get(name, default)
        if isinstance(value, Ref) and value.name in self.arrays:
            value = self.arrays[value.name]
        if isinstance(value, np.ndarray):
            value = value.item() if value.ndim == 0 else tuple(value.reshape(-1)[:4096].tolist())
        if isinstance(value, int) and type(default) is float:
            value = float(value)
        if type(default) is bool and type(value) is int:
            value = bool(value)
        if isinstance(value, Ref | Special) or (default is not None and type(value) is not type(default)):
            raise Unsupported(f"its {name} is computed, or something unusual: {shortened(value)}")
        return value

    def numbers(self, i: int, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A setting of whole numbers, one or more, as a tuple."""
        value = self.setting(i, name)
        value = default if value is None else value if isinstance(value, tuple) else (value,)
        if value is None or not all(type(v) is int and -(2**31) < v < 2**31 for v in value):
            raise Unsupported(f"its {name} is {shortened(value)}; whole numbers can be read")
        return tuple(value)
