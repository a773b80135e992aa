"""Unary, binary and affine kernels against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import references
from conftest import KernelRunner

from homespun import _native

ACTIVATIONS = _native.activations()
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-40, 88.0, -88.0, 100.0, -100.0, 0.5, -0.5, 3.0, -3.0], np.float32
)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("count", [1, 15, 16, 100, 1037])
def test_unary(kernel: KernelRunner, rng: np.random.Generator, name: str, count: int) -> None:
    x = (rng.standard_normal(count) * 4).astype(np.float32)
    if name in ("log", "sqrt"):
        x = np.abs(x)
    alpha, beta = (-1.0, 2.5) if name == "clip" else (0.25, 0.5)
    ints = {"count": count, "activation": ACTIVATIONS[name], "half": 0}
    operands = {"input": x, "output": np.zeros_like(x)}
    expected = references.activate(name, x, alpha, beta)
    for in_place in ({}, {"output": "input"}):
        got = kernel("unary", operands, ints, {"alpha": alpha, "beta": beta}, in_place=in_place)["output"]
        np.testing.assert_allclose(got, expected, rtol=3e-6, atol=3e-6 if name in ("log", "elu", "mish") else 1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values(kernel: KernelRunner, name: str) -> None:
    """Infinities, zeros, denormals and large arguments give limits, not garbage; NaN stays NaN."""
    x = np.concatenate([SPECIAL, [np.float32(np.nan)]]).astype(np.float32)
    ints = {"count": x.size, "activation": ACTIVATIONS[name], "half": 0}
    got = kernel("unary", {"input": x, "output": np.zeros_like(x)}, ints, {"alpha": 0.25, "beta": 0.5})["output"]
    with np.errstate(over="ignore"):
        expected = references.activate(name, x, 0.25, 0.5).astype(np.float32)
    undefined = ~np.isfinite(x) & (name in ("silu", "gelu", "gelu_tanh", "mish", "hard_swish"))  # inf * 0
    exact = name in ("none", "neg", "abs", "floor", "square")
    if name == "log":
        undefined |= np.abs(x) < 1e-38
    np.testing.assert_allclose(
        got[~undefined], expected[~undefined], rtol=0 if exact else 2e-5, atol=0 if exact else 1e-6
    )


OPERATIONS = {"add": (0, np.add), "sub": (1, np.subtract), "mul": (2, np.multiply), "div": (3, np.divide),
              "max": (4, np.maximum), "min": (5, np.minimum)}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((1, 1, 1, 1, 37), (1, 1, 1, 1, 37)),
        ((1, 2, 5, 4, 33), (1, 1, 1, 1, 33)),
        ((1, 2, 5, 4, 33), (1, 2, 1, 1, 33)),
        ((1, 2, 5, 4, 20), (1, 2, 5, 4, 1)),
        ((1, 1, 1, 1, 1), (1, 3, 2, 2, 9)),
        ((2, 1, 3, 1, 5), (1, 4, 1, 6, 5)),
        ((1, 1, 1, 2, 1000), (1, 1, 1, 1, 1)),
    ],
)
def test_binary(
    kernel: KernelRunner, rng: np.random.Generator, name: str, a_shape: tuple[int, ...], b_shape: tuple[int, ...]
) -> None:
    a = rng.standard_normal(a_shape, np.float32)
    b = rng.standard_normal(b_shape, np.float32) + np.float32(3)
    shape = np.broadcast_shapes(a_shape, b_shape)
    code, function = OPERATIONS[name]
    ints = {"operation": code, "activation": ACTIVATIONS["relu"], "half": 0} | {f"d{i}": n for i, n in enumerate(shape)}
    for label, array in (("a", a), ("b", b)):
        strides = np.broadcast_to(array, shape).strides
        ints |= {f"{label}{i}": s // 4 if array.shape[i] > 1 else 0 for i, s in enumerate(strides)}
    got = kernel("binary", {"a": a, "b": b, "output": np.zeros(shape, np.float32)}, ints)["output"]
    np.testing.assert_allclose(got, np.maximum(function(a, b), 0), rtol=1e-6)


@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (7, 5), (10, 16), (33, 50)])
def test_affine(kernel: KernelRunner, rng: np.random.Generator, rows: int, channels: int) -> None:
    x = rng.standard_normal((rows, channels), np.float32)
    scale, shift = rng.standard_normal((2, channels), np.float32)
    ints = {"rows": rows, "channels": channels, "activation": ACTIVATIONS["relu6"]}
    operands = {"input": x, "scale": scale, "shift": shift, "output": np.zeros_like(x)}
    for in_place in ({}, {"output": "input"}):
        got = kernel("affine", operands, ints, in_place=in_place)["output"]
        np.testing.assert_allclose(got, np.clip(x * scale + shift, 0, 6), rtol=1e-5, atol=1e-6)
