"""Batch norm in training, taken apart into steps that the compiler can move into the convolutions around it.

`channel_sums` -> `batch_norm_coefficients` -> `normalize` forward; `normalize_gradient` ->
`batch_norm_gradient_coefficients` -> `normalize_input_gradient` backward; `update_statistics` at the end of a step.
Coefficients are (4, C): scale, shift, mean, inverse deviation. Source: Ioffe & Szegedy 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homespun.errors import ShapeError
from homespun.graph.graph import Node, TensorType
from homespun.graph.operator import REQUIRED, Attributes, Cost, Gradients, Operator

#: How training kernels are told in what activations are stored.
_STORAGE = {"float32": 0, "bfloat16": 1, "float16": 2}


def is_half(t: TensorType) -> int:
    """The kernels' number for a tensor's storage: 0 float32, 1 bfloat16, 2 float16."""
    if t.dtype not in _STORAGE:
        raise ShapeError(f"training kernels store {', '.join(_STORAGE)}, not {t.dtype}")
    return _STORAGE[t.dtype]


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


def _free(a: Attributes, ins: Sequence[TensorType | None], outs: Sequence[TensorType]) -> Cost:
    return Cost(0)


def _rows_ints(t: TensorType) -> dict[str, int]:
    return {"rows": rows_of(t), "channels": t.shape[-1], "half": is_half(t)}


def _lower_sums(low: Any, node: Node) -> None:
    low.emit("channel_sums", {"x": node.inputs[0], "sums": node.outputs[0]}, _rows_ints(low.type(node.inputs[0])))


CHANNEL_SUMS = Operator("channel_sums", ("x",), lambda a, ins: [_sums(_first(ins))], cost=_passes(2), lower=_lower_sums)


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


#: From the batch's sums, or from the running statistics where `frozen`; what is not used is absent.
BATCH_NORM_COEFFICIENTS = Operator(
    "batch_norm_coefficients",
    ("sums?", "weight", "bias", "mean?", "variance?"),
    lambda a, ins: [_coefficients(ins[1])],  # type: ignore[arg-type]
    {"eps": 1e-5, "count": REQUIRED, "frozen": False},
    cost=_free,
    lower=_lower_coefficients,
)


def _lower_statistics(low: Any, node: Node) -> None:
    a = low.attributes(node)
    sums, control, mean, variance = node.inputs
    operands = {"sums": sums, "go": control, "running_mean": mean, "running_variance": variance}
    ints = {"channels": low.type(mean).shape[0], "count": a["count"]}
    low.emit("update_statistics", operands, ints, {"momentum": a["momentum"]})


UPDATE_STATISTICS = Operator(
    "update_statistics",
    ("sums", "control", "mean", "variance"),
    lambda a, ins: [t for t in ins[2:] if t is not None],
    {"momentum": 0.1, "count": REQUIRED},
    cost=_free,
    lower=_lower_statistics,
)


def _lower_normalize(low: Any, node: Node) -> None:
    x, coefficients, _, _, residual = (*node.inputs, "")[:5]
    code, floats = low.activation(node)
    operands = {"z": x, "coefficients": coefficients, "residual": residual, "y": node.outputs[0]}
    low.emit("normalize", operands, {**_rows_ints(low.type(x)), "activation": code}, floats)


def _normalize_gradient(build: Gradients, node: Node, grads: Sequence[str | None]) -> Sequence[str | None]:
    """Through the statistics too: the coefficients are functions of x, and that is accounted for here."""
    x, coefficients, weight, bias, residual = (*node.inputs, "")[:5]
    (dy,) = grads
    assert dy is not None
    a = node.attributes
    if not any(build.wanted(n) for n in (x, weight, bias)):
        return [None, None, None, None, dy if residual else None]
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
)


def _lower_normalize_gradient(low: Any, node: Node) -> None:
    dy, x, coefficients = node.inputs
    code, floats = low.activation(node)
    g, sums = node.outputs
    operands = {"dy": dy, "z": x, "coefficients": coefficients, "g": g, "sums": sums}
    low.emit("normalize_gradient", operands, {**_rows_ints(low.type(x)), "activation": code}, floats)


NORMALIZE_GRADIENT = Operator(
    "normalize_gradient",
    ("dy", "x", "coefficients"),
    lambda a, ins: [_first(ins), _sums(_first(ins))],
    {"activation": "none", "alpha": 0.0, "beta": 0.0},
    cost=_passes(5),
    lower=_lower_normalize_gradient,
    in_place=(0,),
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
    ints = {"channels": low.type(node.inputs[0]).shape[1], "count": a["count"], "frozen": int(a["frozen"])}
    low.emit("batch_norm_gradient_coefficients", operands, ints)


def _gradient_coefficients_shape(a: Attributes, ins: Sequence[TensorType | None]) -> list[TensorType]:
    channels = _first(ins).shape[1]
    return [TensorType((3, channels)), TensorType((channels,)), TensorType((channels,))]


BATCH_NORM_GRADIENT_COEFFICIENTS = Operator(
    "batch_norm_gradient_coefficients",
    ("sums", "coefficients"),
    _gradient_coefficients_shape,
    {"count": REQUIRED, "frozen": False},
    cost=_free,
    lower=_lower_gradient_coefficients,
)


def _lower_input_gradient(low: Any, node: Node) -> None:
    g, x, coefficients = node.inputs
    operands = {"g": g, "z": x, "gradient_coefficients": coefficients, "dz": node.outputs[0]}
    low.emit("normalize_input_gradient", operands, _rows_ints(low.type(x)))


NORMALIZE_INPUT_GRADIENT = Operator(
    "normalize_input_gradient",
    ("g", "x", "gradient_coefficients"),
    lambda a, ins: [_first(ins)],
    cost=_passes(3),
    lower=_lower_input_gradient,
    in_place=(0, 1),
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
