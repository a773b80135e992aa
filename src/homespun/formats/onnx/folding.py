"""What an ONNX model computes from constants alone, computed on import: shapes, ranges, dequantised weights.

Only operators of this table are, in NumPy; the size of a result is worked out before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.formats.assembly import FREE
from homespun.graph import Array

if TYPE_CHECKING:
    from homespun.formats.onnx.nodes import ForeignNode

#: Elements of an array that grows by folding (a range, a repetition): more than masks and grids have.
LARGEST = 2**24
_CASTS: dict[int, Any] = {
    1: np.float32,
    10: np.float32,
    11: np.float32,
    16: np.float32,
    2: np.uint8,
    3: np.int8,
    6: np.int32,
}
_CASTS |= {7: np.int64, 9: np.bool_}
Arrays = Sequence[Any]


class _Fold:
    """The table, callable: a node and its constant inputs (None where absent) to its outputs."""

    def __init__(self, table: dict[str, Callable[[Any, Arrays], Any]]) -> None:
        self._table = table

    def knows(self, op: str) -> bool:
        """Whether the operator can be folded."""
        return op in self._table

    def __call__(self, node: ForeignNode, inputs: Arrays) -> list[Array]:
        with np.errstate(all="ignore"):
            result = self._table[node.op](node, inputs)
        results = result if isinstance(result, list) else [result]
        return [np.asarray(r, np.float32) if np.asarray(r).dtype == np.float64 else np.asarray(r) for r in results]


def _sized(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(d) for d in shape)
    if any(d < 0 for d in shape) or len(shape) > 16 or math.prod(shape) > LARGEST:
        raise ValueError(f"a constant of the shape {list(shape)} is too large")
    return shape


def _broadcasting(function: Callable[..., Any]) -> Callable[[Any, Arrays], Any]:
    def apply(node: Any, x: Arrays) -> Any:
        _sized(np.broadcast_shapes(*(a.shape for a in x)))
        result = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return apply


def _divide(a: Array, b: Array) -> Array:
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(a / b)
    if (b == 0).any():
        raise ZeroDivisionError("integer division by zero")
    cut = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))  # ONNX cuts off, NumPy rounds down
    return np.asarray(cut, a.dtype)


def _axes(node: Any, x: Arrays, i: int = 1) -> list[int]:
    given = x[i].tolist() if len(x) > i and x[i] is not None else node.attributes.get("axes")
    return [int(a) for a in given or []]


def unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape with axes of length one put in at these places of the result."""
    rank = len(shape) + len(axes)
    places = {a % rank if -rank <= a < rank else rank for a in axes}
    if len(places) != len(axes) or rank in places:
        raise ValueError(f"axes {list(axes)} do not fit {rank} axes")
    rest = iter(shape)
    return tuple(1 if i in places else next(rest) for i in range(rank))


def squeezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape without these axes, or without all of length one."""
    places = {a % len(shape) for a in axes} if axes else {i for i, d in enumerate(shape) if d == 1}
    if any(shape[i] != 1 for i in places):
        raise ValueError(f"axes {list(axes)} of {list(shape)} are not all one long")
    return tuple(d for i, d in enumerate(shape) if i not in places)


def resolved(shape: Sequence[int], wanted: Sequence[int], allow_zero: bool = False) -> tuple[int, ...]:
    """What a reshape of `shape` to `wanted` gives: 0 copies an axis, -1 is what remains."""
    out = [shape[i] if d == 0 and not allow_zero else int(d) for i, d in enumerate(wanted)]
    if out.count(-1) == 1:
        known = math.prod(d for d in out if d != -1)
        out[out.index(-1)] = math.prod(shape) // known if known else 0
    if any(d < 0 for d in out) or math.prod(out) != math.prod(shape):
        raise ValueError(f"can't reshape {list(shape)} to {list(wanted)}")
    return tuple(out)


def slices(node: Any, x: Arrays, rank: int) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a `Slice`."""
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
    if any(not -rank <= a < rank for a in axes) or 0 in steps:
        raise ValueError(f"axes {axes} or steps {steps} do not fit {rank} axes")
    return [(a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]


def _slice(node: Any, x: Arrays) -> Array:
    where = [slice(None)] * x[0].ndim
    for axis, start, end, step in slices(node, x, x[0].ndim):
        where[axis] = slice(start, end if end > -(2**62) else None, step)
    return np.asarray(x[0][tuple(where)])


def _gather(node: Any, x: Arrays) -> Array:
    axis = node.get("axis", 0) % x[0].ndim
    _sized((*x[0].shape[:axis], *x[1].shape, *x[0].shape[axis + 1 :]))
    return np.asarray(np.take(x[0], x[1], axis))


def dequantized(codes: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """float32 of quantised numbers, with one scale or one for each index of an axis."""
    if scale.size > 1:
        if scale.size != codes.shape[axis]:
            raise ValueError(f"{scale.size} scales do not fit axis {axis} of {list(codes.shape)}")
        shape = [1] * codes.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero is not None and zero.size > 1 else zero
    elif zero is not None and zero.size != 1:
        raise ValueError(f"{zero.size} zero points do not fit one scale")
    wide = codes.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    return np.asarray(wide.astype(np.float32) * scale.astype(np.float32))


def _dequantize(node: Any, x: Arrays) -> Array:
    if node.get("block_size", 0):
        raise ValueError("scales for blocks of weights can't be read")
    return dequantized(x[0], x[1], x[2] if len(x) > 2 else None, node.get("axis", 1))


def _constant(node: Any, x: Arrays) -> Array:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    if not isinstance(node.attributes.get("value"), np.ndarray):
        raise ValueError("the constant has no value that can be read")
    return np.asarray(node.attributes["value"])


def _range(node: Any, x: Arrays) -> Array:
    start, limit, delta = (a.item() for a in x)
    _sized([max(0, math.ceil((limit - start) / delta))])
    return np.arange(start, limit, delta, dtype=x[0].dtype)


def _split(node: Any, x: Arrays) -> list[Array]:
    axis = node.get("axis", 0)
    sizes = x[1].tolist() if len(x) > 1 and x[1] is not None else node.attributes.get("split")
    if sizes is None:
        return list(np.array_split(x[0], len(node.outputs), axis))
    return list(np.split(x[0], np.cumsum(sizes)[:-1], axis))


def _once_for_all_samples(shape: Sequence[int]) -> list[int]:
    """A shape with one in the place of the free batch: what is the same for all samples is kept once, and repeated by
    the operator that reads it."""
    return [1 if d == FREE else int(d) for d in shape]


def _filled(node: Any, x: Arrays) -> Array:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(_sized(_once_for_all_samples(x[0].tolist())), value.reshape(-1)[0], value.dtype)


def _reduced(function: Callable[..., Any]) -> Callable[[Any, Arrays], Any]:
    def apply(node: Any, x: Arrays) -> Any:
        axes = tuple(_axes(node, x)) or None
        return function(x[0], axis=axes, keepdims=bool(node.get("keepdims", 1))).astype(x[0].dtype)

    return apply


def _tile(node: Any, x: Arrays) -> Array:
    _sized([d * r for d, r in zip(x[0].shape, x[1].tolist(), strict=True)])
    return np.tile(x[0], x[1])


def _where(node: Any, x: Arrays) -> Array:
    _sized(np.broadcast_shapes(*(a.shape for a in x)))
    return np.asarray(np.where(x[0], x[1], x[2]))


fold = _Fold(
    {
        "Constant": _constant,
        "ConstantOfShape": _filled,
        "Identity": lambda node, x: x[0],
        "Cast": lambda node, x: x[0].astype(_CASTS[node.get("to", 0)]),
        "Shape": lambda node, x: np.asarray(x[0].shape[node.get("start", 0) : node.attributes.get("end")], np.int64),
        "Size": lambda node, x: np.asarray(x[0].size, np.int64),
        "Add": _broadcasting(np.add),
        "Sub": _broadcasting(np.subtract),
        "Mul": _broadcasting(np.multiply),
        "Div": _broadcasting(_divide),
        "Max": _broadcasting(np.maximum),
        "Min": _broadcasting(np.minimum),
        "Pow": _broadcasting(lambda a, b: np.power(a, b.astype(a.dtype))),
        "Equal": _broadcasting(np.equal),
        "Less": _broadcasting(np.less),
        "Greater": _broadcasting(np.greater),
        "And": _broadcasting(np.logical_and),
        "Or": _broadcasting(np.logical_or),
        "Not": lambda node, x: np.logical_not(x[0]),
        "Where": _where,
        "Neg": lambda node, x: -x[0],
        "Abs": lambda node, x: np.abs(x[0]),
        "Sqrt": lambda node, x: np.sqrt(x[0]),
        "Reciprocal": lambda node, x: 1.0 / x[0],
        "Exp": lambda node, x: np.exp(x[0]),
        "Log": lambda node, x: np.log(x[0]),
        "Floor": lambda node, x: np.floor(x[0]),
        "Ceil": lambda node, x: np.ceil(x[0]),
        "Concat": lambda node, x: np.concatenate(x, node.get("axis", 0)),
        "Gather": _gather,
        "Slice": _slice,
        "Split": _split,
        "Range": _range,
        "Reshape": lambda node, x: x[0].reshape(resolved(x[0].shape, x[1].tolist(), bool(node.get("allowzero", 0)))),
        "Flatten": lambda node, x: x[0].reshape(math.prod(x[0].shape[: node.get("axis", 1)]), -1),
        "Squeeze": lambda node, x: x[0].reshape(squeezed(x[0].shape, _axes(node, x))),
        "Unsqueeze": lambda node, x: x[0].reshape(unsqueezed(x[0].shape, _axes(node, x))),
        "Transpose": lambda node, x: x[0].transpose(node.attributes.get("perm")),
        "Expand": lambda node, x: np.broadcast_to(
            x[0], _sized(np.broadcast_shapes(x[0].shape, tuple(_once_for_all_samples(x[1].tolist()))))
        ).copy(),
        "Tile": _tile,
        "ReduceSum": _reduced(np.sum),
        "ReduceProd": _reduced(np.prod),
        "ReduceMax": _reduced(np.max),
        "ReduceMin": _reduced(np.min),
        "DequantizeLinear": _dequantize,
    }
)
