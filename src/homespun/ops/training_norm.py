"""Batch norm in training, taken apart into steps that the compiler can move into the convolutions around it.

`channel_sums` -> `batch_norm_coefficients` -> `normalize` forward; `normalize_gradient` ->
`batch_norm_gradient_coefficients` -> `normalize_input_gradient` backward; `update_statistics` at the end of a step.
Coefficients are (4, C): scale, shift, mean, inverse deviation. Source: Ioffe & Szegedy 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator
from homespun.ops.activation import onnx_slope
from homespun.ops.shape import free
from homespun.ops.storage import is_half


def rows_of(t: TensorType) -> int:
    """Elements of a tensor that belong to one channel."""
    return t.size // t.shape[-1]


def _sums(t: TensorType) -> TensorType:
    return TensorType((2, t.shape[-1]), "float64")


def _coefficients(t: TensorType) -> TensorType:
    return TensorType((4, t.shape[-1]))


def _first(ins: Sequence[TensorType | None]) -> TensorType:
    assert ins[0] is not None
    return ins[0]


def _passes(count: int) -> Any:
    def cost(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
        return Cost(count * _first(ins).size)

    return cost


def _rows_ints(t: TensorType) -> dict[str, int]:
    return {"rows": rows_of(t), "channels": t.shape[-1], "half": is_half(t)}


def _lower_sums(low: Any, node: Node) -> None:
    low.emit("channel_sums", {"x": node.inputs[0], "sums": node.outputs[0]}, _rows_ints(low.type(node.inputs[0])))


# In ONNX, sums and coefficients are kept as their parts, by the tensor's name: vectors of one value a channel.


def _sum_of(write: Any, x: str, first: bool, rank: int) -> Any:
    axes = (0, 2, 3) if first else range(rank - 1)
    return write("ReduceSum", write("Cast", x, to=11), np.asarray(axes, np.int64), keepdims=0)


def _sums_to_onnx(write: Any, node: Node) -> None:
    (x,), first = write.together(node.inputs[0])
    wide = write("Cast", x, to=11)
    rank = len(write.type(node.inputs[0]).shape)
    write.shared[node.outputs[0]] = (
        _sum_of(write, x, first, rank),
        _sum_of(write, write("Mul", wide, wide), first, rank),
    )


CHANNEL_SUMS = Operator(
    "channel_sums",
    ("x",),
    lambda a, ins: [_sums(_first(ins))],
    cost=_passes(2),
    lower=_lower_sums,
    to_onnx=_sums_to_onnx,
)


def _lower_coefficients(low: Any, node: Node) -> None:
    a = low.attributes(node)
    sums, weight, bias, mean, variance = node.inputs
    operands = {
        "sums": sums,
        "weight": weight,
        "bias": bias,
        "running_mean": mean,
        "running_variance": variance,
        "coefficients": node.outputs[0],
    }
    channels = low.type(weight).shape[0]
    ints = {"channels": channels, "count": a["count"], "frozen": int(a["frozen"])}
    low.emit("batch_norm_coefficients", operands, ints, {"epsilon": a["eps"]})


def _mean_and_variance(write: Any, sums: str, count: int) -> tuple[Any, Any]:
    total, squares = write.shared[sums]
    mean = write("Div", total, np.float64(count))
    spread = write("Sub", write("Div", squares, np.float64(count)), write("Mul", mean, mean))
    return mean, write("Max", spread, np.float64(0))


def _coefficients_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    sums, weight, bias, mean, variance = node.inputs
    if a["frozen"]:
        average, spread = (write("Cast", write.ours(n), to=11) for n in (mean, variance))
    else:
        average, spread = _mean_and_variance(write, sums, a["count"])
    inverse = write("Reciprocal", write("Sqrt", write("Add", spread, np.float64(a["eps"]))))
    scale = write("Mul", write("Cast", write.ours(weight), to=11), inverse)
    shift = write("Sub", write("Cast", write.ours(bias), to=11), write("Mul", average, scale))
    write.shared[node.outputs[0]] = tuple(write("Cast", v, to=1) for v in (scale, shift, average, inverse))


#: From the batch's sums, or from the running statistics where `frozen`; what is not used is absent.
BATCH_NORM_COEFFICIENTS = Operator(
    "batch_norm_coefficients",
    ("sums?", "weight", "bias", "mean?", "variance?"),
    lambda a, ins: [_coefficients(ins[1])],  # type: ignore[arg-type]
    {"eps": 1e-5, "count": REQUIRED, "frozen": False},
    cost=free,
    lower=_lower_coefficients,
    to_onnx=_coefficients_to_onnx,
)


def _lower_statistics(low: Any, node: Node) -> None:
    a = low.attributes(node)
    sums, control, mean, variance = node.inputs
    operands = {"sums": sums, "go": control, "running_mean": mean, "running_variance": variance}
    ints = {"channels": low.type(mean).shape[0], "count": a["count"]}
    low.emit("update_statistics", operands, ints, {"momentum": a["momentum"]})


def _statistics_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    sums, control, mean, variance = node.inputs
    average, spread = _mean_and_variance(write, sums, a["count"])
    if a["count"] > 1:
        spread = write("Mul", spread, np.float64(a["count"] / (a["count"] - 1)))
    for name, now in ((mean, average), (variance, spread)):
        old = write("Mul", write("Cast", write.ours(name), to=11), np.float64(1.0 - a["momentum"]))
        new = write("Add", old, write("Mul", now, np.float64(a["momentum"])))
        write.update(name, write("Cast", new, to=1), control)


UPDATE_STATISTICS = Operator(
    "update_statistics",
    ("sums", "control", "mean", "variance"),
    lambda a, ins: [t for t in ins[2:] if t is not None],
    {"momentum": 0.1, "count": REQUIRED},
    cost=free,
    lower=_lower_statistics,
    to_onnx=_statistics_to_onnx,
)


def _lower_normalize(low: Any, node: Node) -> None:
    x, coefficients, _, _, residual = (*node.inputs, "")[:5]
    code, floats = low.activation(node)
    operands = {"z": x, "coefficients": coefficients, "residual": residual, "y": node.outputs[0]}
    low.emit("normalize", operands, {**_rows_ints(low.type(x)), "activation": code}, floats)


def _normalize_to_onnx(write: Any, node: Node) -> None:
    x, coefficients, _, _, residual = (*node.inputs, "")[:5]
    (*operands,), first = write.together(x, *([residual] if residual else []))
    scale, shift = (write.spread(v, first) for v in write.shared[coefficients][:2])
    y = write.activated(node, write("Add", write("Mul", operands[0], scale), shift))
    write.give(node.outputs[0], write("Add", y, operands[1]) if residual else y, first)


def _normalize_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    """Through the statistics too: the coefficients are functions of x, and that is accounted for here."""
    x, coefficients, weight, bias, residual = (*node.inputs, "")[:5]
    (dy,) = grads
    assert dy is not None
    a = node.attributes
    if not any(build.wanted(n) for n in (x, weight, bias)):
        return [None, None, None, None, dy if residual else None]
    if (
        a.get("frozen", False)
        and a.get("activation", "none") == "none"
        and not (build.wanted(weight) or build.wanted(bias))
    ):
        # A multiple of dy: x is not read, and need not be kept. It would be multiplied by zero: dy stands in for it.
        multiple = build.add(
            "batch_norm_gradient_coefficients", ["", coefficients], f"{x}/coefficients", count=1, frozen=True
        )
        return [
            build.add("normalize_input_gradient", [dy, dy, multiple], x),
            None,
            None,
            None,
            dy if residual else None,
        ]
    g, sums = build.add_many(
        "normalize_gradient",
        [dy, x, coefficients],
        [f"{node.outputs[0]}/normalised", f"{node.outputs[0]}/sums"],
        activation=a.get("activation", "none"),
        alpha=a.get("alpha", 0.0),
        beta=a.get("beta", 0.0),
    )
    t = build.type(x)
    stems = [f"{node.outputs[0]}/coefficients"]
    stems += [name if build.wanted(name) else "" for name in (weight, bias)]
    coefficients_of, dw, db = build.add_many(
        "batch_norm_gradient_coefficients",
        [sums, coefficients],
        stems,
        count=rows_of(t),
        frozen=a.get("frozen", False),
    )
    dx = None
    if build.wanted(x):
        dx = build.add("normalize_input_gradient", [g, x, coefficients_of], x)
    return [dx, None, dw or None, db or None, dy if residual else None]


#: y = activation((x - mean) / deviation * weight + bias) + residual
NORMALIZE = Operator(
    "normalize",
    ("x", "coefficients", "weight", "bias", "residual?"),
    lambda a, ins: [_first(ins)],
    {"activation": "none", "alpha": 0.0, "beta": 0.0, "frozen": False},
    cost=_passes(2),
    lower=_lower_normalize,
    gradient=_normalize_gradient,
    saves=("x", "coefficients"),
    in_place=(0, 4),
    to_onnx=_normalize_to_onnx,
)


def _lower_normalize_gradient(low: Any, node: Node) -> None:
    dy, x, coefficients = node.inputs
    code, floats = low.activation(node)
    g, sums = node.outputs
    operands = {"dy": dy, "z": x, "coefficients": coefficients, "g": g, "sums": sums}
    low.emit("normalize_gradient", operands, {**_rows_ints(low.type(x)), "activation": code}, floats)


def _normalize_gradient_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    dy, x, coefficients = node.inputs
    (g, z), first = write.together(dy, x)
    scale, shift, mean, inverse = (write.spread(v, first) for v in write.shared[coefficients])
    if a["activation"] != "none":
        before = write("Add", write("Mul", z, scale), shift)
        g = write("Mul", g, onnx_slope(write, a["activation"], before, float(a["alpha"]), float(a["beta"])))
    rank = len(write.type(x).shape)
    product = write("Mul", g, write("Mul", write("Sub", z, mean), inverse))
    write.give(node.outputs[0], g, first)
    write.shared[node.outputs[1]] = (_sum_of(write, g, first, rank), _sum_of(write, product, first, rank))


NORMALIZE_GRADIENT = Operator(
    "normalize_gradient",
    ("dy", "x", "coefficients"),
    lambda a, ins: [_first(ins), _sums(_first(ins))],
    {"activation": "none", "alpha": 0.0, "beta": 0.0},
    cost=_passes(5),
    lower=_lower_normalize_gradient,
    in_place=(0,),
    to_onnx=_normalize_gradient_to_onnx,
)


def _lower_gradient_coefficients(low: Any, node: Node) -> None:
    a = low.attributes(node)
    outs = (*node.outputs, "", "")[:3]
    operands = dict(
        zip(
            ("sums", "coefficients", "gradient_coefficients", "weight_gradient", "bias_gradient"),
            (*node.inputs, *outs),
            strict=True,
        )
    )
    ints = {"channels": low.type(node.inputs[1]).shape[1], "count": a["count"], "frozen": int(a["frozen"])}
    low.emit("batch_norm_gradient_coefficients", operands, ints)


def _gradient_coefficients_to_onnx(write: Any, node: Node) -> None:
    a = write.attributes(node)
    sums, coefficients = node.inputs
    target, dw, db = (*node.outputs, "", "")[:3]
    scale, _, mean, inverse = write.shared[coefficients]
    if not sums:
        write.shared[target] = (scale,)
        return
    total, product = write.shared[sums]
    if dw:
        write.give(dw, write("Cast", product, to=1))
    if db:
        write.give(db, write("Cast", total, to=1))
    if a["frozen"]:
        write.shared[target] = (scale,)
        return
    wide, middle, inverse = (write("Cast", v, to=11) for v in (scale, mean, inverse))
    step = write("Div", wide, np.float64(-a["count"]))
    b = write("Mul", write("Mul", step, inverse), product)
    c = write("Sub", write("Mul", step, total), write("Mul", b, middle))
    write.shared[target] = (scale, write("Cast", b, to=1), write("Cast", c, to=1))


def _gradient_coefficients_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    assert ins[1] is not None
    channels = ins[1].shape[1]
    return [TensorType((3, channels)), TensorType((channels,)), TensorType((channels,))]


BATCH_NORM_GRADIENT_COEFFICIENTS = Operator(
    "batch_norm_gradient_coefficients",
    ("sums?", "coefficients"),
    _gradient_coefficients_shape,
    {"count": REQUIRED, "frozen": False},
    cost=free,
    lower=_lower_gradient_coefficients,
    to_onnx=_gradient_coefficients_to_onnx,
)


def _lower_input_gradient(low: Any, node: Node) -> None:
    g, x, coefficients = node.inputs
    operands = {"g": g, "z": x, "gradient_coefficients": coefficients, "dz": node.outputs[0]}
    low.emit("normalize_input_gradient", operands, _rows_ints(low.type(x)))


def _input_gradient_to_onnx(write: Any, node: Node) -> None:
    (g, z), first = write.together(*node.inputs[:2])
    a, *rest = (write.spread(v, first) for v in write.shared[node.inputs[2]])
    dz = write("Mul", g, a)
    if rest:
        dz = write("Add", dz, write("Add", write("Mul", z, rest[0]), rest[1]))
    write.give(node.outputs[0], dz, first)


NORMALIZE_INPUT_GRADIENT = Operator(
    "normalize_input_gradient",
    ("g", "x", "gradient_coefficients"),
    lambda a, ins: [_first(ins)],
    cost=_passes(3),
    lower=_lower_input_gradient,
    in_place=(0, 1),
    to_onnx=_input_gradient_to_onnx,
)

OPERATORS = (
    CHANNEL_SUMS,
    BATCH_NORM_COEFFICIENTS,
    UPDATE_STATISTICS,
    NORMALIZE,
    NORMALIZE_GRADIENT,
    BATCH_NORM_GRADIENT_COEFFICIENTS,
    NORMALIZE_INPUT_GRADIENT,
)
