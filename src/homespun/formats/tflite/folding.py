"""What a TFLite model computes from constants alone, computed on import: shapes, ranges, halves that become floats.

Only operators of this table are, in NumPy; the size of a result is worked out before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.graph import Array

if TYPE_CHECKING:
    from homespun.formats.tflite.importer import Operation

#: Elements of an array that grows by folding (a range, a repetition): more than masks and grids have.
LARGEST = 2**24
#: By the schema's number; whole numbers are wide, for the free batch is a large one.
_DTYPES: dict[int, Any] = {0: np.float32, 1: np.float32, 2: np.int64, 3: np.uint8, 4: np.int64, 6: np.bool_}
Arrays = Sequence[Any]


class _Fold:
    """The table, callable: an operator and its constant inputs (None where absent) to its outputs."""

    def __init__(self, table: dict[str, Callable[[Any, Arrays], Any]]) -> None:
        self._table = table

    def knows(self, name: str) -> bool:
        """Whether the operator can be folded."""
        return name in self._table

    def __call__(self, op: Operation, inputs: Arrays) -> list[Array]:
        """Raises `Unsupported` where a result would be too large, or is no number."""
        with np.errstate(all="ignore"):
            result = self._table[op.name](op, inputs)
        return [np.asarray(r) for r in (result if isinstance(result, list) else [result])]


def _sized(shape: Sequence[int]) -> Sequence[int]:
    if any(d < 0 for d in shape) or len(shape) > 16 or math.prod(shape) > LARGEST:
        raise Unsupported(f"a constant of the shape {list(shape)} is too large")
    return shape


def _broadcasting(function: Callable[..., Any]) -> Callable[[Any, Arrays], Any]:
    def apply(op: Any, x: Arrays) -> Any:
        _sized(np.broadcast_shapes(*(a.shape for a in x)))
        result = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return apply


def _divided(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if (b == 0).any():
        raise Unsupported("it divides whole numbers by zero")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def slices(op: Operation, x: Arrays, shape: Sequence[int]) -> tuple[list[tuple[int, int, int]], list[int | None]]:
    """What a `STRIDED_SLICE` of a shape cuts: (start, stop, step) of each axis, and the axes of its result.

    An axis of the result is the number of the axis that is cut, or None where it is new.
    """
    o = op.options("StridedSliceOptions")
    begin, end, steps = (a.reshape(-1).tolist() for a in x[1:4])
    if o.Offset():
        end = [b + e for b, e in zip(begin, end, strict=True)]
    dense: list[int | str] = []  # places in `begin`, or what stands for others
    for i in range(len(begin)):
        if o.EllipsisMask() >> i & 1:
            taken = sum(not (o.NewAxisMask() >> j & 1) for j in range(len(begin)) if j != i)
            dense += ["all"] * (len(shape) - taken)
        else:
            dense.append("new" if o.NewAxisMask() >> i & 1 else i)
    dense += ["all"] * (len(shape) - sum(d != "new" for d in dense))
    cuts: list[tuple[int, int, int]] = []
    axes: list[int | None] = []
    for place in dense:
        axis = len(cuts)
        if isinstance(place, str):
            axes.append(None if place == "new" else axis)
            if place == "all":
                cuts.append((0, shape[axis], 1))
            continue
        start = None if o.BeginMask() >> place & 1 else begin[place]
        stop = None if o.EndMask() >> place & 1 else end[place]
        if o.ShrinkAxisMask() >> place & 1:
            at = begin[place] + (shape[axis] if begin[place] < 0 else 0)
            cuts.append((at, at + 1, 1))
            continue
        cuts.append(slice(start, stop, steps[place]).indices(shape[axis]))
        axes.append(axis)
    if len(cuts) != len(shape):
        raise Unsupported(f"its {len(begin)} ranges do not fit {len(shape)} axes")
    return cuts, axes


def _strided_slice(op: Operation, x: Arrays) -> Array:
    cuts, axes = slices(op, x, x[0].shape)
    where = tuple(slice(a, b if b >= 0 else None, c) for a, b, c in cuts)
    found = np.asarray(x[0][where])
    kept = [axis for axis in axes if axis is not None]
    return found.reshape([1 if axis is None else found.shape[axis] for axis in axes] if kept or axes else ())


def _gather(op: Operation, x: Arrays) -> Array:
    o = op.options("GatherOptions")
    axis = o.Axis() % x[0].ndim
    if o.BatchDims():
        raise Unsupported("it gathers from each of several tensors")
    _sized((*x[0].shape[:axis], *x[1].shape, *x[0].shape[axis + 1 :]))
    return np.asarray(np.take(x[0], x[1].astype(np.int64), axis))


def _tiled(op: Operation, x: Arrays) -> Array:
    _sized([d * r for d, r in zip(x[0].shape, x[1].tolist(), strict=True)])
    return np.tile(x[0], x[1])


def _spread(op: Operation, x: Arrays) -> Array:
    shape = _sized(np.broadcast_shapes(x[0].shape, tuple(x[1].tolist())))
    return np.broadcast_to(x[0], shape).copy()


def _range(op: Operation, x: Arrays) -> Array:
    start, limit, step = (a.item() for a in x)
    if not step:
        raise Unsupported("its step is zero")
    _sized([max(0, math.ceil((limit - start) / step))])
    return np.arange(start, limit, step, dtype=x[0].dtype)


def _cut(op: Operation, x: Arrays) -> Array:
    starts, sizes = x[1].tolist(), x[2].tolist()
    return np.asarray(x[0][tuple(slice(b, None if n == -1 else b + n) for b, n in zip(starts, sizes, strict=True))])


def _expanded(op: Operation, x: Arrays) -> Array:
    return np.expand_dims(x[0], int(x[1].reshape(-1)[0]))


def _squeezed(op: Operation, x: Arrays) -> Array:
    o = op.options("SqueezeOptions")
    return np.asarray(np.squeeze(x[0], tuple(o.SqueezeDimsAsNumpy().tolist()) if o.SqueezeDimsLength() else None))


def _reduced(function: Callable[..., Any]) -> Callable[[Any, Arrays], Any]:
    def apply(op: Any, x: Arrays) -> Any:
        axes = tuple(int(a) for a in x[1].reshape(-1))
        return np.asarray(function(x[0], axis=axes, keepdims=bool(op.options("ReducerOptions").KeepDims())))

    return apply


def _selected(op: Operation, x: Arrays) -> Array:
    _sized(np.broadcast_shapes(*(a.shape for a in x)))
    return np.asarray(np.where(x[0], x[1], x[2]))


fold = _Fold(
    {
        **dict.fromkeys(("DEQUANTIZE", "DENSIFY", "QUANTIZE"), lambda op, x: np.asarray(x[0], np.float32)),
        "CAST": lambda op, x: x[0].astype(_DTYPES[op.options("CastOptions").OutDataType()]),
        "ADD": _broadcasting(np.add),
        "SUB": _broadcasting(np.subtract),
        "MUL": _broadcasting(np.multiply),
        "DIV": _broadcasting(_divided),
        "MAXIMUM": _broadcasting(np.maximum),
        "MINIMUM": _broadcasting(np.minimum),
        "FLOOR_DIV": _broadcasting(np.floor_divide),
        "EQUAL": _broadcasting(np.equal),
        "LESS": _broadcasting(np.less),
        "GREATER": _broadcasting(np.greater),
        **dict.fromkeys(("SELECT", "SELECT_V2"), _selected),
        "NEG": lambda op, x: -x[0],
        "SQRT": lambda op, x: np.sqrt(x[0]),
        "RSQRT": lambda op, x: 1 / np.sqrt(x[0]),
        "PACK": lambda op, x: np.stack(x, op.options("PackOptions").Axis()),
        "CONCATENATION": lambda op, x: np.concatenate(x, op.options("ConcatenationOptions").Axis()),
        "STRIDED_SLICE": _strided_slice,
        "SLICE": _cut,
        "GATHER": _gather,
        "RESHAPE": lambda op, x: x[0].reshape(x[1].reshape(-1).tolist()),
        "EXPAND_DIMS": _expanded,
        "SQUEEZE": _squeezed,
        "TRANSPOSE": lambda op, x: x[0].transpose(x[1].reshape(-1).tolist()),
        "TILE": _tiled,
        "BROADCAST_TO": _spread,
        "FILL": lambda op, x: np.full(_sized(x[0].reshape(-1).tolist()), x[1]),
        "RANGE": _range,
        "REDUCE_PROD": _reduced(np.prod),
        "SUM": _reduced(np.sum),
        "REDUCE_MAX": _reduced(np.max),
        "REDUCE_MIN": _reduced(np.min),
    }
)
