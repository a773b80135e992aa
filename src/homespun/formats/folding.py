"""What a file computes from constants alone, computed on import: the frame that the formats' tables of operators share.

Only operators of a table are, in NumPy; the size of a result is worked out before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.checked import largest_constants
from homespun.graph import Array

#: Elements of an array that grows by folding (a range, a repetition): more than masks and grids have.
LARGEST = 2**24
#: Numbers that are read, written or multiplied to fold all of a file's operators: some seconds.
MOST_WORK = 2**33
#: Multiplications of one product of constants.
LARGEST_PRODUCT = 2**28
_PRODUCTS = ("MatMul", "BATCH_MATMUL")
Arrays = Sequence[Any]
Rule = Callable[[Any, Arrays], Any]


class Folding:
    """Folds the operators of one file of `size` bytes by a table of NumPy functions, which take a node and its constant
    inputs (None where absent) and give its outputs, one array or a list of them."""

    def __init__(self, rules: Mapping[str, Rule], size: int) -> None:
        self._rules, self._bytes, self._work = rules, largest_constants(size), MOST_WORK

    def knows(self, op: str) -> bool:
        """Whether the operator can be folded."""
        return op in self._rules

    def __call__(self, op: str, node: Any, inputs: Arrays) -> list[Array]:
        """The outputs of a node. Raises `Unsupported` where they would be too large, or with all before too much."""
        given = [a for a in inputs if a is not None]
        # A result is at most as large as what it is made of together, or bounded by `LARGEST`.
        if sum(a.nbytes for a in given) > self._bytes:
            raise Unsupported("constants take more memory than makes sense")
        if self._work < 0:
            raise Unsupported("constants take longer to compute than makes sense")
        with np.errstate(all="ignore"):
            result = self._rules[op](node, inputs)
        results = [np.asarray(r) for r in (result if isinstance(result, list) else [result])]
        self._bytes -= sum(r.nbytes for r in results)
        self._work -= 1000 + sum(a.size for a in (*given, *results))
        if op in _PRODUCTS:
            self._work -= results[0].size * inputs[0].shape[-1]
        return results


def sized(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a result. Raises `Unsupported` where it would be larger than constants are."""
    shape = tuple(int(d) for d in shape)
    if any(d < 0 for d in shape) or len(shape) > 16 or math.prod(shape) > LARGEST:
        raise Unsupported(f"a constant of the shape {list(shape)} is too large")
    return shape


def broadcasting(function: Callable[..., Any]) -> Rule:
    """A rule for a function of two operands, or of more one after the other."""

    def apply(node: Any, x: Arrays) -> Any:
        sized(np.broadcast_shapes(*(a.shape for a in x)))
        result = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return apply


def each(function: Callable[..., Any]) -> Rule:
    """A rule for a function of one operand's elements."""
    return lambda node, x: function(x[0])


def divided(a: Array, b: Array) -> Array:
    """a / b, of whole numbers without what is behind the point. Raises `Unsupported` where they are divided by zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if (b == 0).any():
        raise Unsupported("it divides whole numbers by zero")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)  # NumPy rounds down


def selected(node: Any, x: Arrays) -> Array:
    """The second operand where the first is true, else the third."""
    sized(np.broadcast_shapes(*(a.shape for a in x)))
    return np.asarray(np.where(x[0], x[1], x[2]))


def tiled(node: Any, x: Arrays) -> Array:
    """The first operand, each axis as many times as the second says."""
    sized([d * r for d, r in zip(x[0].shape, x[1].tolist(), strict=True)])
    return np.tile(x[0], x[1])


def counted(node: Any, x: Arrays) -> Array:
    """Numbers from the first operand on, before the second, in steps of the third."""
    start, limit, step = (a.item() for a in x)
    if not step:
        raise Unsupported("its step is zero")
    sized([max(0, math.ceil((limit - start) / step))])
    return np.arange(start, limit, step, dtype=x[0].dtype)


def taken(x: Array, indices: Array, axis: int) -> Array:
    """These places of an axis."""
    axis %= x.ndim
    sized((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return np.asarray(np.take(x, indices.astype(np.int64), axis))


def product(node: Any, x: Arrays) -> Array:
    """The product of two matrices, or of one for each entry of other axes."""
    sized(np.broadcast_shapes(x[0].shape[:-2], x[1].shape[:-2]))
    count = math.prod(np.broadcast_shapes(x[0].shape[:-1], (*x[1].shape[:-2], 1))) * x[1].shape[-1] * x[0].shape[-1]
    if x[0].ndim < 2 or x[1].ndim < 2 or count > LARGEST_PRODUCT:
        raise Unsupported(f"a product of constants {list(x[0].shape)} and {list(x[1].shape)} is too large")
    return np.asarray(np.matmul(x[0], x[1]))
