"""What an ONNX model computes from constants alone, computed on import: shapes, ranges, dequantised weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from homespun.formats.assembly import FREE, Unsupported
from homespun.formats.folding import (
    Arrays,
    Rule,
    broadcasting,
    counted,
    divided,
    each,
    product,
    selected,
    sized,
    taken,
    tiled,
)
from homespun.graph import Array

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
    return np.full(sized(_once_for_all_samples(x[0].tolist())), value.reshape(-1)[0], value.dtype)


def _reduced(function: Callable[..., Any]) -> Rule:
    def apply(node: Any, x: Arrays) -> Any:
        axes = tuple(_axes(node, x)) or None
        return function(x[0], axis=axes, keepdims=bool(node.get("keepdims", 1))).astype(x[0].dtype)

    return apply


def _cumulated(node: Any, x: Arrays) -> Array:
    axis, backwards = int(x[1].item()) % x[0].ndim, bool(node.get("reverse", 0))
    found = np.flip(x[0], axis) if backwards else x[0]
    sums = np.cumsum(found, axis, dtype=x[0].dtype)
    sums = sums - found if node.get("exclusive", 0) else sums
    return np.asarray(np.flip(sums, axis) if backwards else sums)


def _scattered(node: Any, x: Arrays) -> Array:
    """`ScatterND`: each index of the last axis of the second operand says where a part of the third one goes."""
    if node.get("reduction", "none") != "none":
        raise Unsupported("it adds up what it scatters")
    out, places = x[0].copy(), x[1]
    where = tuple(places[..., i] for i in range(places.shape[-1]))
    if x[2].shape != (*places.shape[:-1], *out.shape[places.shape[-1] :]):
        raise ValueError(f"updates {list(x[2].shape)} do not fit places {list(places.shape)}")
    out[where] = x[2]
    return np.asarray(out)


def _standardised(node: Any, x: Arrays) -> Array:
    """`BatchNormalization` by its own statistics, as weights are standardised with."""
    axes = tuple(i for i in range(x[0].ndim) if i != 1)
    spread = tuple(-1 if i == 1 else 1 for i in range(x[0].ndim))
    mean, variance = (x[3], x[4]) if not node.get("training_mode", 0) else (x[0].mean(axes), x[0].var(axes))
    scale = x[1] / np.sqrt(variance + np.float32(node.get("epsilon", 1e-5)))
    return np.asarray((x[0] - mean.reshape(spread)) * scale.reshape(spread) + x[2].reshape(spread), np.float32)


def _remainder(node: Any, x: Arrays) -> Array:
    if x[1].dtype.kind != "f" and (x[1] == 0).any():
        raise Unsupported("it divides whole numbers by zero")
    sized(np.broadcast_shapes(x[0].shape, x[1].shape))
    return np.asarray(np.fmod(x[0], x[1]) if node.get("fmod", 0) else np.mod(x[0], x[1]))


def _clipped(node: Any, x: Arrays) -> Array:
    low, high = (x[i].item() if len(x) > i and x[i] is not None else None for i in (1, 2))
    return np.asarray(x[0] if low is None and high is None else np.clip(x[0], low, high))


def _diagonal(node: Any, x: Arrays) -> Array:
    rows, columns = sized(x[0].shape)
    return np.asarray(np.eye(rows, columns, node.get("k", 0), _CASTS[node.get("dtype", 1)]))


def _triangle(node: Any, x: Arrays) -> Array:
    k = int(x[1].item()) if len(x) > 1 and x[1] is not None else 0
    return np.triu(x[0], k) if node.get("upper", 1) else np.tril(x[0], k)


RULES: dict[str, Rule] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Identity": lambda node, x: x[0],
    "Cast": lambda node, x: x[0].astype(_CASTS[node.get("to", 0)]),
    "Shape": lambda node, x: np.asarray(x[0].shape[node.get("start", 0) : node.attributes.get("end")], np.int64),
    "Size": lambda node, x: np.asarray(x[0].size, np.int64),
    "Add": broadcasting(np.add),
    "Sub": broadcasting(np.subtract),
    "Mul": broadcasting(np.multiply),
    "Div": broadcasting(divided),
    "Max": broadcasting(np.maximum),
    "Min": broadcasting(np.minimum),
    "Pow": broadcasting(lambda a, b: np.power(a, b.astype(a.dtype))),
    "Equal": broadcasting(np.equal),
    "Less": broadcasting(np.less),
    "Greater": broadcasting(np.greater),
    "And": broadcasting(np.logical_and),
    "Or": broadcasting(np.logical_or),
    "Not": each(np.logical_not),
    "Where": selected,
    "Neg": each(np.negative),
    "Abs": each(np.abs),
    "Sqrt": each(np.sqrt),
    "Reciprocal": lambda node, x: 1.0 / x[0],
    "Exp": each(np.exp),
    "Log": each(np.log),
    "Floor": each(np.floor),
    "Ceil": each(np.ceil),
    "Concat": lambda node, x: np.concatenate(x, node.get("axis", 0)),
    "Gather": lambda node, x: taken(x[0], x[1], node.get("axis", 0)),
    "Slice": _slice,
    "Split": _split,
    "Range": counted,
    "Reshape": lambda node, x: x[0].reshape(resolved(x[0].shape, x[1].tolist(), bool(node.get("allowzero", 0)))),
    "Flatten": lambda node, x: x[0].reshape(math.prod(x[0].shape[: node.get("axis", 1)]), -1),
    "Squeeze": lambda node, x: x[0].reshape(squeezed(x[0].shape, _axes(node, x))),
    "Unsqueeze": lambda node, x: x[0].reshape(unsqueezed(x[0].shape, _axes(node, x))),
    "Transpose": lambda node, x: x[0].transpose(node.attributes.get("perm")),
    "Expand": lambda node, x: np.broadcast_to(
        x[0], sized(np.broadcast_shapes(x[0].shape, tuple(_once_for_all_samples(x[1].tolist()))))
    ).copy(),
    "Tile": tiled,
    "ReduceSum": _reduced(np.sum),
    "ReduceProd": _reduced(np.prod),
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "DequantizeLinear": _dequantize,
    "CumSum": _cumulated,
    "ScatterND": _scattered,
    "BatchNormalization": _standardised,
    "Mod": _remainder,
    "Clip": _clipped,
    "Trilu": _triangle,
    "EyeLike": _diagonal,
    "MatMul": product,
    "Sin": each(np.sin),
    "Cos": each(np.cos),
    "Tanh": each(np.tanh),
    "Sign": each(np.sign),
    "Round": each(np.round),
    "Relu": lambda node, x: np.maximum(x[0], 0),
    "Sigmoid": lambda node, x: 1.0 / (1.0 + np.exp(-x[0])),
    "ReduceMean": _reduced(np.mean),
    "ReduceL2": _reduced(lambda a, **k: np.sqrt(np.sum(np.square(a), **k))),
    "GreaterOrEqual": broadcasting(np.greater_equal),
    "LessOrEqual": broadcasting(np.less_equal),
}
