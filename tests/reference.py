"""NumPy in float64, written for clarity: what every operator means. Predictors and kernels are held against it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from homespun.graph import Array, Graph
from homespun.graph.operator import attributes
from homespun.ops.convolution import padding_of

_erf = np.vectorize(__import__("math").erf, otypes=[np.float64])

FUNCTIONS: dict[str, Any] = {
    "none": lambda x, a, b: x,
    "relu": lambda x, a, b: np.maximum(x, 0),
    "relu6": lambda x, a, b: np.clip(x, 0, 6),
    "clip": lambda x, a, b: np.clip(x, a, b),
    "leaky_relu": lambda x, a, b: np.where(x > 0, x, a * x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "hard_swish": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "silu": lambda x, a, b: x / (1 + np.exp(-x)),
    "tanh": lambda x, a, b: np.tanh(x),
    "gelu": lambda x, a, b: 0.5 * x * (1 + _erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x, a, b: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x, a, b: np.where(x > 0, x, a * np.expm1(x)),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: np.log(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "neg": lambda x, a, b: -x,
    "abs": lambda x, a, b: np.abs(x),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
    "mish": lambda x, a, b: x * np.tanh(np.logaddexp(0, x)),
    "reciprocal": lambda x, a, b: 1 / x,
    "square": lambda x, a, b: x * x,
    "erf": lambda x, a, b: _erf(x),
}

BINARY: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def windows(x: Array, a: dict[str, Any], kernel: tuple[int, int], out: tuple[int, int], fill: float) -> Array:
    """(N, OH, OW, C, kh, kw): what each output pixel of a sliding window sees."""
    (kh, kw), (dh, dw), (sh, sw) = kernel, a["dilation"], a["stride"]
    top, left, _, _ = padding_of(a, (x.shape[1], x.shape[2]), kernel)
    height, width = (out[0] - 1) * sh + (kh - 1) * dh + 1, (out[1] - 1) * sw + (kw - 1) * dw + 1
    padded = np.full((x.shape[0], max(height, top + x.shape[1]), max(width, left + x.shape[2]), x.shape[3]), fill)
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    view = sliding_window_view(padded[:, :height, :width], ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(1, 2))
    return view[:, ::sh, ::sw, :, ::dh, ::dw]


def conv2d(x: Array, w: Array, a: dict[str, Any], out: tuple[int, int]) -> Array:
    groups = a["groups"]
    seen = windows(x, a, w.shape[:2], out, 0.0)
    per_group, m = w.shape[2], w.shape[3] // groups
    parts = [
        np.einsum(
            "nhwcij,ijcm->nhwm",
            seen[:, :, :, g * per_group : (g + 1) * per_group],
            w[..., g * m : (g + 1) * m],
            optimize=True,
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=-1)


def pool(op: str, x: Array, a: dict[str, Any], out: tuple[int, int]) -> Array:
    if op == "max_pool":
        return windows(x, a, a["kernel"], out, -np.inf).max(axis=(-1, -2))
    total = windows(x, a, a["kernel"], out, 0.0).sum(axis=(-1, -2))
    if a["count_include_pad"]:
        # a window may reach past the padding where sizes are rounded up; such places never count
        top, left, bottom, right = padding_of(a, x.shape[1:3], a["kernel"])
        inside = np.ones((1, x.shape[1] + top + bottom, x.shape[2] + left + right, 1))
        count = windows(inside, {**a, "padding": (0, 0, 0, 0)}, a["kernel"], out, 0.0).sum(axis=(-1, -2))
    else:
        count = windows(np.ones((1, *x.shape[1:3], 1)), a, a["kernel"], out, 0.0).sum(axis=(-1, -2))
    return total / count


def local_response_norm(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    before = (size - 1) // 2
    squares = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(before, size - 1 - before)])
    total = sliding_window_view(squares, size, axis=-1).sum(axis=-1)
    return x / (bias + alpha / size * total) ** beta


def resize(x: Array, a: dict[str, Any]) -> Array:
    """Each output pixel by itself, with the coordinates that ONNX defines for `Resize`."""

    def source(at: int, size: int, out: int, scale: float) -> float:
        if a["coordinates"] == "align_corners":
            return at * (size - 1) / (out - 1) if out > 1 else 0.0
        middle = 0.5 if a["coordinates"] == "half_pixel" else 0.0
        if scale:  # in float32, as runtimes do
            return float((np.float32(at) + np.float32(middle)) / np.float32(scale) - np.float32(middle))
        return round((at + middle) * size / out - middle, 9)

    def along(x: Array, axis: int) -> Array:
        size, out = x.shape[axis], a["size"][axis - 1]
        lines = []
        for at in range(out):
            place = source(at, size, out, a["scale"][axis - 1])
            if a["mode"] == "nearest":
                lower, upper = math.floor(place), math.ceil(place)
                middle = place - lower == 0.5
                nearest = {
                    "floor": lower,
                    "ceil": upper,
                    "round_prefer_floor": lower if middle else round(place),
                    "round_prefer_ceil": upper if middle else round(place),
                }[a["rounding"]]
                lines.append(x.take(min(max(nearest, 0), size - 1), axis))
            else:
                place = min(max(place, 0.0), size - 1.0)
                lower = math.floor(place)
                part = place - lower
                lines.append(x.take(lower, axis) * (1 - part) + x.take(min(lower + 1, size - 1), axis) * part)
        return np.stack(lines, axis)

    return along(along(x, 1), 2)


def conv2d_transpose(x: Array, w: Array, a: dict[str, Any]) -> Array:
    """Every pixel of x puts the window, times its values, on the result."""
    n, height, width, channels = x.shape
    kh, kw, per_group, _ = w.shape
    groups, (top, left, bottom, right) = a["groups"], a["padding"]
    full = np.zeros((n, a["size"][0] + top + bottom, a["size"][1] + left + right, per_group * groups))
    (sh, sw), (dh, dw), inner = a["stride"], a["dilation"], channels // groups
    for i, j, k, m, g in np.ndindex(height, width, kh, kw, groups):
        window, mine = w[k, m, :, g * inner : (g + 1) * inner], x[:, i, j, g * inner : (g + 1) * inner]
        full[:, i * sh + k * dh, j * sw + m * dw, g * per_group : (g + 1) * per_group] += mine @ window.T
    return full[:, top : top + a["size"][0], left : left + a["size"][1]]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def attention(q: Array, k: Array, v: Array, mask: Array | None, a: dict[str, Any]) -> Array:
    """(N, T, C) with heads side by side; a query that sees no key gives zeros."""

    def heads(x: Array) -> Array:
        return x.reshape(*x.shape[:2], a["heads"], -1).transpose(0, 2, 1, 3)

    scale = a["scale"] or (q.shape[-1] // a["heads"]) ** -0.5
    e = np.exp(scale * heads(q) @ heads(k).swapaxes(-1, -2))
    if mask is not None:
        e = e * (mask != 0)[:, None, None, :]
    total = e.sum(axis=-1, keepdims=True)
    y = (e / np.where(total == 0, 1, total)) @ heads(v)
    return y.transpose(0, 2, 1, 3).reshape(q.shape)


def run_node(op: str, a: dict[str, Any], x: list[Array], out_shape: tuple[int, ...]) -> Any:
    """The output of one operator; a list where there are several."""
    size = (out_shape[1], out_shape[2]) if len(out_shape) == 4 else (0, 0)
    if op in ("conv2d", "linear"):
        y = conv2d(x[0], x[1], a, size) if op == "conv2d" else x[0] @ x[1]
        y = y + x[2] if len(x) > 2 and x[2] is not None else y
        y = y + x[3] if len(x) > 3 and x[3] is not None else y
        return FUNCTIONS[a["activation"]](y, a["alpha"], a["beta"])
    if op in FUNCTIONS:
        return FUNCTIONS[op](x[0], a.get("low", a.get("alpha", 0.0)), a.get("high", a.get("beta", 0.0)))
    if op in BINARY:
        return FUNCTIONS[a["activation"]](BINARY[op](x[0], x[1]), a["alpha"], a["beta"])
    match op:
        case "batch_norm":
            return (x[0] - x[3]) / np.sqrt(x[4] + a["eps"]) * x[1] + x[2]
        case "layer_norm":
            return layer_norm(x[0], x[1], x[2], a["eps"])
        case "embedding":
            return x[1][x[0].astype(np.int64)]
        case "attention":
            return attention(x[0], x[1], x[2], x[3] if len(x) > 3 else None, a)
        case "matmul":
            left = x[0].swapaxes(-1, -2) if a["transpose_a"] else x[0]
            return left @ (x[1].swapaxes(-1, -2) if a["transpose_b"] else x[1])
        case "max_pool" | "average_pool":
            return pool(op, x[0], a, size)
        case "global_average_pool":
            return x[0].mean(axis=(1, 2), keepdims=True)
        case "softmax":
            return softmax(x[0])
        case "log_softmax":
            return np.log(softmax(x[0]))
        case "reshape" | "flatten" | "identity" | "dropout":
            return x[0].reshape(out_shape)
        case "transpose":
            return x[0].transpose(a["axes"])
        case "concat":
            return np.concatenate(x, axis=a["axis"])
        case "split":
            return list(np.split(x[0], np.cumsum(a["sizes"])[:-1], axis=a["axis"]))
        case "channel_shuffle":
            groups = x[0].reshape(*x[0].shape[:-1], a["groups"], -1)
            return groups.swapaxes(-1, -2).reshape(x[0].shape)
        case "upsample":
            return x[0].repeat(a["factor"][0], axis=1).repeat(a["factor"][1], axis=2)
        case "resize":
            return resize(x[0], a)
        case "conv2d_transpose":
            return conv2d_transpose(x[0], x[1], a)
        case "local_response_norm":
            return local_response_norm(x[0], **a)
        case "slice":
            return np.take(x[0], range(a["start"], min(a["stop"], x[0].shape[a["axis"]])), axis=a["axis"])
        case "pad":
            widths = list(zip(a["before"], a["after"], strict=True))
            return np.pad(x[0], widths, constant_values=a["value"])
        case "reduce_sum" | "reduce_mean" | "reduce_max":
            function = {"reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max}[op]
            return function(x[0], axis=tuple(a["axes"]), keepdims=a["keep_axes"])
    raise NotImplementedError(op)


def evaluate(graph: Graph, *inputs: Array) -> list[Array]:
    """Outputs of a graph for the given inputs, in float64."""
    from homespun.graph import infer

    types = infer(graph, inputs[0].shape[0])
    values: dict[str, Array] = {
        t.name: np.asarray(t.data, np.float64) for t in graph.tensors.values() if t.data is not None
    }
    values |= {name: np.asarray(x, np.float64) for name, x in zip(graph.inputs, inputs, strict=True)}
    for node in graph.nodes:
        args = [values[n] if n else None for n in node.inputs]
        made = run_node(node.op, attributes(node), args, types[node.outputs[0]].shape)
        values |= zip(node.outputs, made if len(node.outputs) > 1 else [made], strict=True)
    return [values[name] for name in graph.outputs]
