"""What a TFLite model computes from constants alone, computed on import: shapes, ranges, halves that become floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.folding import (
    Arrays,
    Rule,
    broadcasting,
    counted,
    divided,
    each,
    selected,
    sized,
    taken,
    tiled,
)
from homespun.graph import Array

if TYPE_CHECKING:
    from homespun.formats.tflite.importer import Operation

#: By the schema's number; whole numbers are wide, for the free batch is a large one.
_DTYPES: dict[int, Any] = {0: np.float32, 1: np.float32, 2: np.int64, 3: np.uint8, 4: np.int64, 6: np.bool_}


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
    if o.BatchDims():
        raise Unsupported("it gathers from each of several tensors")
    return taken(x[0], x[1], o.Axis())


def _spread(op: Operation, x: Arrays) -> Array:
    shape = sized(np.broadcast_shapes(x[0].shape, tuple(x[1].tolist())))
    return np.broadcast_to(x[0], shape).copy()


def _cut(op: Operation, x: Arrays) -> Array:
    starts, sizes = x[1].tolist(), x[2].tolist()
    return np.asarray(x[0][tuple(slice(b, None if n == -1 else b + n) for b, n in zip(starts, sizes, strict=True))])


def _expanded(op: Operation, x: Arrays) -> Array:
    return np.expand_dims(x[0], int(x[1].reshape(-1)[0]))


def _squeezed(op: Operation, x: Arrays) -> Array:
    o = op.options("SqueezeOptions")
    return np.asarray(np.squeeze(x[0], tuple(o.SqueezeDimsAsNumpy().tolist()) if o.SqueezeDimsLength() else None))


def _reduced(function: Callable[..., Any]) -> Rule:
    def apply(op: Any, x: Arrays) -> Any:
        axes = tuple(int(a) for a in x[1].reshape(-1))
        return np.asarray(function(x[0], axis=axes, keepdims=bool(op.options("ReducerOptions").KeepDims())))

    return apply


RULES: dict[str, Rule] = {
    **dict.fromkeys(("DEQUANTIZE", "DENSIFY", "QUANTIZE"), lambda op, x: np.asarray(x[0], np.float32)),
    "CAST": lambda op, x: x[0].astype(_DTYPES[op.options("CastOptions").OutDataType()]),
    "ADD": broadcasting(np.add),
    "SUB": broadcasting(np.subtract),
    "MUL": broadcasting(np.multiply),
    "DIV": broadcasting(divided),
    "MAXIMUM": broadcasting(np.maximum),
    "MINIMUM": broadcasting(np.minimum),
    "FLOOR_DIV": broadcasting(np.floor_divide),
    "EQUAL": broadcasting(np.equal),
    "LESS": broadcasting(np.less),
    "GREATER": broadcasting(np.greater),
    **dict.fromkeys(("SELECT", "SELECT_V2"), selected),
    "NEG": each(np.negative),
    "SQRT": each(np.sqrt),
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
    "TILE": tiled,
    "BROADCAST_TO": _spread,
    "FILL": lambda op, x: np.full(sized(x[0].reshape(-1).tolist()), x[1]),
    "RANGE": counted,
    "REDUCE_PROD": _reduced(np.prod),
    "SUM": _reduced(np.sum),
    "REDUCE_MAX": _reduced(np.max),
    "REDUCE_MIN": _reduced(np.min),
}
