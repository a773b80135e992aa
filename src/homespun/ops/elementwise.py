"""Element-wise arithmetic of two tensors, with the broadcasting rules of NumPy and a fused activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Operator

CODES = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}
_ONNX = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min"}


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of `a op b`. Raises `ShapeError` where the two do not fit."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    for m, n in zip(a, b, strict=True):
        if m != n and m != 1 and n != 1:
            raise ShapeError(f"shapes {list(a)} and {list(b)} can't be broadcast to each other")
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    x, y = ins[0], ins[1]
    assert x is not None and y is not None
    if x.dtype != y.dtype:
        raise ShapeError(f"dtypes differ: {x.dtype} and {y.dtype}")
    return [TensorType(broadcast(x.shape, y.shape), x.dtype)]


def collapse(a: tuple[int, ...], b: tuple[int, ...], out: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    """Merge neighbouring axes that both operands walk alike: (dims, strides of a, of b); a stride of 0 broadcasts."""
    rank = len(out)
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    axes: list[tuple[int, bool, bool]] = []
    for n, m, k in zip(out, a, b, strict=True):
        if n == 1:
            continue
        kind = (m != 1, k != 1)
        if axes and axes[-1][1:] == kind:
            axes[-1] = (axes[-1][0] * n, *kind)
        else:
            axes.append((n, *kind))
    axes = axes or [(1, True, True)]
    dims, sa, sb = [n for n, _, _ in axes], [0] * len(axes), [0] * len(axes)
    pa = pb = 1
    for i in range(len(axes) - 1, -1, -1):
        n, in_a, in_b = axes[i]
        if in_a:
            sa[i], pa = pa, pa * n
        if in_b:
            sb[i], pb = pb, pb * n
    return dims, sa, sb


def _lower(low: Any, node: Node) -> None:
    x, y, out = (low.type(n).shape for n in (*node.inputs[:2], node.outputs[0]))
    dims, sx, sy = collapse(x, y, out)
    if len(dims) > 5:
        raise ShapeError(f"node {node}: broadcasting {list(x)} with {list(y)} mixes more than five axes")
    pad = 5 - len(dims)
    dims, sx, sy = [1] * pad + dims, [0] * pad + sx, [0] * pad + sy
    ints = {"operation": CODES[node.op]}
    for i in range(5):
        ints |= {f"d{i}": dims[i], f"a{i}": sx[i], f"b{i}": sy[i]}
    code, floats = low.activation(node)
    operands = {"a": node.inputs[0], "b": node.inputs[1], "output": node.outputs[0]}
    low.emit("binary", operands, {**ints, "activation": code}, floats)


def _binary(name: str) -> Operator:
    return Operator(
        name=name,
        inputs=("a", "b"),
        attributes={"activation": "none", "alpha": 0.0, "beta": 0.0},
        shape=_shape,
        lower=_lower,
        in_place=(0, 1),
        onnx=_ONNX[name],
    )


OPERATORS = tuple(_binary(name) for name in CODES)
