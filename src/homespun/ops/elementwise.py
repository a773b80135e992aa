"""Element-wise arithmetic of two tensors, with the broadcasting rules of NumPy and a fused activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import Attributes, Channels, Gradients, Operator
from homespun.ops.channels import is_gate
from homespun.ops.storage import is_half

CODES = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}
_SAVES = {"mul": ("a", "b"), "div": ("b", "output"), "maximum": ("a", "b"), "minimum": ("a", "b")}
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
    ints = {"operation": CODES[node.op], "half": is_half(low.type(node.outputs[0]))}
    for i in range(5):
        ints |= {f"d{i}": dims[i], f"a{i}": sx[i], f"b{i}": sy[i]}
    code, floats = low.activation(node)
    operands = {"a": node.inputs[0], "b": node.inputs[1], "output": node.outputs[0]}
    low.emit("binary", operands, {**ints, "activation": code}, floats)


def sum_to(build: Gradients, grad: str, like: str) -> str:
    """The gradient of a tensor that was broadcast: `grad` summed over the axes along which `like` was repeated."""
    target, shape = build.type(like).shape, build.type(grad).shape
    if shape == target:
        return grad
    padded = (1,) * (len(shape) - len(target)) + target
    repeated = [i for i, (n, m) in enumerate(zip(shape, padded, strict=True)) if n != m]
    while repeated:
        run = [repeated.pop()]
        while repeated and repeated[-1] == run[0] - 1:
            run.insert(0, repeated.pop())
        grad = build.add("reduce_sum", [grad], like, axes=tuple(run), keep_axes=True)
    return grad if build.type(grad).shape == target else build.add("reshape", [grad], like, shape=target)


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    (dy,) = grads
    assert dy is not None
    a, b = node.inputs[:2]
    if node.op == "mul":
        for x, gate in ((a, b), (b, a)):
            if is_gate(build.type(x), build.type(gate)):
                stems = [n if build.wanted(n) else "" for n in (x, gate)]
                found = [g or None for g in build.add_many("gate_gradient", [x, gate, dy], stems)]
                return found if gate == b else found[::-1]
    one: str | None = None
    other: str | None = None
    if node.op in ("maximum", "minimum"):
        # To the larger (smaller) of the two; to b where they are equal.
        ahead = [a, b] if node.op == "maximum" else [b, a]
        one = build.add("unary_gradient", [build.add("sub", ahead, a), dy], a, function="relu")
        other = build.add("sub", [dy, one], b)
        return [sum_to(build, one, a), sum_to(build, other, b)]
    if build.wanted(a):
        one = {"mul": lambda: build.add("mul", [dy, b], a), "div": lambda: build.add("div", [dy, b], a)}.get(
            node.op, lambda: dy
        )()
        one = sum_to(build, one, a)
    if build.wanted(b):
        if node.op == "mul":
            other = build.add("mul", [dy, a], b)
        elif node.op == "div":
            ratio = build.add("div", [node.outputs[0], b], b)
            other = build.add("neg", [build.add("mul", [dy, ratio], b)], b)
        else:
            other = build.add("neg", [dy], b) if node.op == "sub" else dy
        other = sum_to(build, other, b)
    return [one, other]


def _to_onnx(write: Any, node: Node) -> None:
    operands, first = write.together(*node.inputs[:2])
    write.give(node.outputs[0], write.activated(node, write(_ONNX[node.op], *operands)), first)


def _channels(channels: Channels, node: Node) -> None:
    """Channels of the same place go together; one that is spread over all of the other's stays."""
    a, b = (channels.of(name) for name in node.inputs[:2])
    if a.size == b.size:
        channels.couple(a, b)
    else:
        channels.freeze(min(a, b, key=len))
    channels.give(node.outputs[0], max(a, b, key=len))


def _binary(name: str) -> Operator:
    return Operator(
        name=name,
        inputs=("a", "b"),
        attributes={"activation": "none", "alpha": 0.0, "beta": 0.0},
        shape=_shape,
        lower=_lower,
        gradient=_gradient,
        saves=_SAVES.get(name, ()),
        in_place=(0, 1),
        rows=("a", "b"),
        onnx=_ONNX[name],
        to_onnx=_to_onnx,
        channels=_channels,
    )


OPERATORS = tuple(_binary(name) for name in CODES)
