"""What the kernels should compute, in NumPy and float64, written for clarity and not for speed."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray

_erf = np.vectorize(math.erf)


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def activate(kind: str, x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        match kind:
            case "none":
                return x
            case "relu":
                return np.maximum(x, 0)
            case "relu6":
                return np.clip(x, 0, 6)
            case "clip":
                return np.clip(x, alpha, beta)
            case "leaky_relu":
                return np.where(x < 0, alpha * x, x)
            case "hard_sigmoid":
                return np.clip(alpha * x + beta, 0, 1)
            case "hard_swish":
                return x * np.clip(x / 6 + 0.5, 0, 1)
            case "sigmoid":
                return sigmoid(x)
            case "silu":
                return x * sigmoid(x)
            case "tanh":
                return np.tanh(x)
            case "gelu":
                return x * 0.5 * (1 + _erf(x / math.sqrt(2)))
            case "gelu_tanh":
                return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            case "elu":
                return np.where(x < 0, alpha * np.expm1(x), x)
            case "exp":
                return np.exp(x)
            case "log":
                return np.log(x)
            case "sqrt":
                return np.sqrt(x)
            case "neg":
                return -x
            case "abs":
                return np.abs(x)
            case "softplus":
                return np.logaddexp(x, 0)
            case "mish":
                return x * np.tanh(np.logaddexp(x, 0))
            case "reciprocal":
                return 1 / x
            case "square":
                return x * x
            case "erf":
                return _erf(x)
            case "floor":
                return np.floor(x)
    raise ValueError(kind)


def pad(x: Array, top: int, left: int, height: int, width: int, value: float = 0.0) -> Array:
    """`x` (N, H, W, C) set into a canvas of (N, height, width, C)."""
    canvas = np.full((x.shape[0], height, width, x.shape[3]), value, np.float64)
    rows = min(x.shape[1], height - top)
    columns = min(x.shape[2], width - left)
    canvas[:, top : top + rows, left : left + columns] = x[:, :rows, :columns]
    return canvas


def windows(
    x: Array, out: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1), pads: tuple[int, int] = (0, 0), value: float = 0.0,
) -> Array:  # fmt: skip
    """(N, out_h, out_w, kernel_h, kernel_w, C): what lies under the window of each output pixel."""
    reach = [(out[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in range(2)]
    canvas = pad(x, *pads, *reach, value)
    result = np.empty((x.shape[0], *out, *kernel, x.shape[3]), np.float64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y0, x0 = i * dilation[0], j * dilation[1]
            result[:, :, :, i, j] = canvas[
                :,
                y0 : y0 + (out[0] - 1) * stride[0] + 1 : stride[0],
                x0 : x0 + (out[1] - 1) * stride[1] + 1 : stride[1],
            ]
    return result


def conv2d(x: Array, weights: Array, out: tuple[int, int], groups: int = 1, **window: tuple[int, int]) -> Array:
    """Weights (kernel_h, kernel_w, channels / groups, out_channels)."""
    patches = windows(x, out, weights.shape[:2], **window)
    per_in, per_out = weights.shape[2], weights.shape[3] // groups
    parts = [
        np.einsum(
            "nyxijc,ijco->nyxo",
            patches[..., g * per_in : (g + 1) * per_in],
            weights[..., g * per_out : (g + 1) * per_out].astype(np.float64),
            optimize=True,
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, -1)


def finish(
    y: Array, bias: Array | None, residual: Array | None, activation: str, residual_after: bool,
    alpha: float = 0.0, beta: float = 0.0,
) -> Array:  # fmt: skip
    """The epilogue of convolutions and linear layers."""
    if bias is not None:
        y = y + bias
    if residual is not None and not residual_after:
        y = y + residual
    y = activate(activation, y, alpha, beta)
    if residual is not None and residual_after:
        y = y + residual
    return y
