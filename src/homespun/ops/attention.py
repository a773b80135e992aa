"""`attention`: scaled dot-product attention of several heads, in one operator that never stores the probabilities.

In training it is `train_attention`, which keeps one number a row, the logarithm of its sum, from which the gradient
computes the probabilities again. Sources: Vaswani et al. 2017, section 3.2; Dao et al. 2022, "FlashAttention".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.storage import is_half


def _shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    q, k, v, mask = (*ins, None)[:4]
    assert q is not None and k is not None and v is not None
    if len(q.shape) != 3 or k.shape != (q.shape[0], *k.shape[1:2], q.shape[2]) or v.shape != k.shape:
        raise ShapeError("expected queries (N, T, C), keys and values (N, S, C)")
    if a["heads"] < 1 or q.shape[2] % a["heads"]:
        raise ShapeError(f"{q.shape[2]} channels can't be split into {a['heads']} heads")
    if not 0.0 <= a["dropout"] < 1.0:
        raise ShapeError(f"dropout is {a['dropout']}; it can be 0 up to but not 1")
    if mask is not None and (mask.shape != k.shape[:2] or mask.dtype != "int32"):
        raise ShapeError(f"expected a mask {list(k.shape[:2])} int32 for these keys: 1 where a key is seen, else 0")
    return [q]


def _train_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    (y,) = _shape(a, ins[:4])
    return [y, TensorType((y.shape[0], a["heads"], y.shape[1]))]


def _cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    q, k = ins[0], ins[1]
    assert q is not None and k is not None
    return Cost(4 * q.size * k.shape[1])


def _call(low: Any, node: Node) -> tuple[dict[str, int], dict[str, float]]:
    a, q, k = low.attributes(node), low.type(node.inputs[0]), low.type(node.inputs[1])
    width = q.shape[2] // a["heads"]
    ints = {
        "batch": q.shape[0],
        "heads": a["heads"],
        "queries": q.shape[1],
        "keys": k.shape[1],
        "width": width,
        "layer": a.get("layer", 0),
        "half": is_half(q),
    }
    return ints, {"scale": float(a["scale"] or width**-0.5), "rate": float(a["dropout"])}


def _lower(low: Any, node: Node) -> None:
    """In inference there is neither dropout, nor anything kept for a gradient."""
    q, k, v, mask = (*node.inputs, "")[:4]
    ints, floats = _call(low, node)
    low.emit("attention", {"q": q, "k": k, "v": v, "mask": mask, "y": node.outputs[0]}, ints, {**floats, "rate": 0.0})


def _lower_train(low: Any, node: Node) -> None:
    names = ("q", "k", "v", "mask", "random", "y", "log_sums")
    low.emit("attention", dict(zip(names, (*node.inputs, *node.outputs), strict=True)), *_call(low, node))


def _gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    dy = grads[0]
    assert dy is not None
    stems = [name if build.wanted(name) else "" for name in node.inputs[:3]]
    inputs = [*node.inputs, node.outputs[1], dy]
    found = build.add_many("attention_gradient", inputs, stems, **node.attributes)
    return [*(name or None for name in found), None, None]


def _heads_in_onnx(write: Any, node: Node, name: str) -> str:
    """(N, T, C) as (N, heads, T, C / heads)."""
    _, length, channels = write.type(name).shape
    heads = write.attributes(node)["heads"]
    split = write("Reshape", write.ours(name), np.asarray([0, length, heads, channels // heads], np.int64))
    return str(write("Transpose", split, perm=[0, 2, 1, 3]))


def _joined_in_onnx(write: Any, x: str, like: str) -> str:
    _, length, channels = write.type(like).shape
    return str(write("Reshape", write("Transpose", x, perm=[0, 2, 1, 3]), np.asarray([0, length, channels], np.int64)))


def _probabilities_in_onnx(write: Any, node: Node, q: str, k: str) -> tuple[str, float]:
    """(softmax of the scores, zero where a key is hidden; the scale of the scores)."""
    a, mask = write.attributes(node), (*node.inputs, "")[3]
    scale = float(a["scale"] or (write.type(node.inputs[0]).shape[2] // a["heads"]) ** -0.5)
    scores = write("Mul", write("MatMul", q, write("Transpose", k, perm=[0, 1, 3, 2])), scale)
    if not mask:
        return str(write("Softmax", scores, axis=-1)), scale
    seen = write("Unsqueeze", write("Cast", write.ours(mask), to=9), np.asarray([1, 2], np.int64))
    hidden = write("Where", seen, scores, -1e9)
    return str(write("Mul", write("Softmax", hidden, axis=-1), write("Cast", seen, to=1))), scale


def _to_onnx(write: Any, node: Node) -> None:
    """Dropout acts in training only; there its mask is kept for the gradient."""
    q, k, v = (_heads_in_onnx(write, node, n) for n in node.inputs[:3])
    p, _ = _probabilities_in_onnx(write, node, q, k)
    rate = float(write.attributes(node)["dropout"])
    if node.op == "train_attention" and rate > 0:
        p, mask = write("Dropout", p, rate, np.asarray(True), outputs=2, seed=1000 + write.attributes(node)["layer"])
        write.shared["attention", write.attributes(node)["layer"]] = mask
    write.give(node.outputs[0], _joined_in_onnx(write, write("MatMul", p, v), node.inputs[0]))


def _gradient_to_onnx(write: Any, node: Node) -> None:
    q, k, v, dy = (_heads_in_onnx(write, node, n) for n in (*node.inputs[:3], node.inputs[6]))
    a = write.attributes(node)
    p, scale = _probabilities_in_onnx(write, node, q, k)
    dropped, dp = p, write("MatMul", dy, write("Transpose", v, perm=[0, 1, 3, 2]))
    if a["dropout"] > 0:
        kept = write("Cast", write.shared["attention", a["layer"]], to=1)
        kept = write("Mul", kept, 1.0 / (1.0 - a["dropout"]))
        dropped, dp = write("Mul", p, kept), write("Mul", dp, kept)
    inside = write("ReduceSum", write("Mul", dp, p), np.asarray([-1], np.int64))
    ds = write("Mul", write("Mul", p, write("Sub", dp, inside)), scale)
    dq, dk, dv = node.outputs
    if dq:
        write.give(dq, _joined_in_onnx(write, write("MatMul", ds, k), node.inputs[0]))
    if dk:
        turned = write("Transpose", ds, perm=[0, 1, 3, 2])
        write.give(dk, _joined_in_onnx(write, write("MatMul", turned, q), node.inputs[1]))
    if dv:
        turned = write("Transpose", dropped, perm=[0, 1, 3, 2])
        write.give(dv, _joined_in_onnx(write, write("MatMul", turned, dy), node.inputs[2]))


_ATTRIBUTES: dict[str, Any] = {"heads": REQUIRED, "scale": 0.0, "dropout": 0.0}
#: y = softmax(q k^T * scale) v in each head; heads lie side by side in C. `mask` (N, S): 0 hides a key; a query that
#: sees none gives zeros. `scale` 0 means 1 / sqrt(C / heads); `dropout` drops probabilities in training.
ATTENTION = Operator(
    "attention",
    ("q", "k", "v", "mask?"),
    _shape,
    _ATTRIBUTES,
    cost=_cost,
    lower=_lower,
    rows=("q",),
    onnx="Attention",
    to_onnx=_to_onnx,
)
TRAIN_ATTENTION = Operator(
    "train_attention",
    ("q", "k", "v", "mask?", "random?"),
    _train_shape,
    {**_ATTRIBUTES, "layer": 0},
    cost=_cost,
    lower=_lower_train,
    gradient=_gradient,
    saves=("q", "k", "v", "mask"),
    to_onnx=_to_onnx,
)


def _gradient_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    return [t for t in ins[:3] if t is not None]


def _gradient_cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(5 * _cost(a, ins, outs).flops // 2)


def _lower_gradient(low: Any, node: Node) -> None:
    names = ("q", "k", "v", "mask", "random", "log_sums", "dy", "dq", "dk", "dv")
    low.emit("attention_gradient", dict(zip(names, (*node.inputs, *node.outputs), strict=True)), *_call(low, node))


ATTENTION_GRADIENT = Operator(
    "attention_gradient",
    ("q", "k", "v", "mask?", "random?", "log_sums", "dy"),
    _gradient_shape,
    {**_ATTRIBUTES, "layer": 0},
    cost=_gradient_cost,
    lower=_lower_gradient,
    in_place=(0,),
    to_onnx=_gradient_to_onnx,
)

OPERATORS = (ATTENTION, TRAIN_ATTENTION, ATTENTION_GRADIENT)
