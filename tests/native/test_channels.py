"""Channel shuffle, gates, local response normalisation and upsampling alone: odd shapes, in place, outputs left out."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import KernelRunner


@pytest.mark.parametrize(("rows", "groups", "per_group"), [(1, 2, 1), (7, 3, 80), (5, 116, 2), (3, 5, 7), (2, 1, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_channel_shuffle(kernel: KernelRunner, rows: int, groups: int, per_group: int, dtype: type) -> None:
    x = np.arange(rows * groups * per_group).reshape(rows, groups, per_group).astype(dtype)
    ints = {"rows": rows, "groups": groups, "per_group": per_group, "element_bytes": x.itemsize}
    got = kernel("channel_shuffle", {"x": x, "y": np.zeros_like(x)}, ints, outputs=("y",))["y"]
    np.testing.assert_array_equal(got.reshape(rows, per_group, groups), x.swapaxes(1, 2))


@pytest.mark.parametrize(("batch", "rows", "channels"), [(1, 1, 1), (2, 150, 67), (3, 64, 128), (1, 5, 16)])
@pytest.mark.parametrize("wanted", ["dx dgate", "dx", "dgate"])
@pytest.mark.parametrize("in_place", [{}, {"dx": "dy"}])
def test_gate_gradient(
    kernel: KernelRunner,
    rng: np.random.Generator,
    batch: int,
    rows: int,
    channels: int,
    wanted: str,
    in_place: dict[str, str],
) -> None:
    x, dy = (rng.standard_normal((batch, rows, channels), np.float32) for _ in range(2))
    gate = rng.standard_normal((batch, 1, channels), np.float32)
    outputs = {"dx": np.zeros_like(x), "dgate": np.zeros_like(gate)}
    outputs = {name: outputs[name] for name in wanted.split()}
    ints = {"batch": batch, "rows": rows, "channels": channels, "half": 0}
    shared = {k: v for k, v in in_place.items() if k in outputs}
    got = kernel("gate_gradient", {"x": x, "gate": gate, "dy": dy, **outputs}, ints, None, tuple(outputs), shared)
    if "dx" in got:
        np.testing.assert_array_equal(got["dx"], dy * gate)
    if "dgate" in got:
        np.testing.assert_allclose(got["dgate"], (dy * x).sum(1, keepdims=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (5, 3), (4, 64), (3, 101)])
def test_local_response_norm(
    kernel: KernelRunner, rng: np.random.Generator, size: int, rows: int, channels: int
) -> None:
    x = rng.standard_normal((rows, channels), np.float32)
    ints = {"rows": rows, "channels": channels, "size": size, "half": 0}
    floats = {"alpha": 0.3, "beta": 0.75, "bias": 2.0}
    operands = {"x": x, "y": np.zeros_like(x)}
    before = (size - 1) // 2
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (before, size - 1 - before)))
    total = np.stack([squares[:, c : c + size].sum(1) for c in range(channels)], axis=1)
    for in_place in ({}, {"y": "x"}):
        got = kernel("local_response_norm", operands, ints, floats, ("y",), in_place)["y"]
        np.testing.assert_allclose(got, x / (2 + 0.3 / size * total) ** 0.75, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 3, 4, 33)])
def test_upsample_there_and_back(
    kernel: KernelRunner, rng: np.random.Generator, factor: tuple[int, int], size: tuple[int, int, int, int]
) -> None:
    n, h, w, c = size
    x = rng.standard_normal(size, np.float32)
    large = x.repeat(factor[0], 1).repeat(factor[1], 2)
    ints = {"batch": n, "height": h, "width": w, "channels": c, "factor_h": factor[0], "factor_w": factor[1], "half": 0}
    got = kernel("upsample_nearest", {"x": x, "y": np.zeros_like(large)}, ints, outputs=("y",))["y"]
    np.testing.assert_array_equal(got, large)
    dy = rng.standard_normal(large.shape, np.float32)
    got = kernel("upsample_nearest_gradient", {"dy": dy, "dx": np.zeros_like(x)}, ints, outputs=("dx",))["dx"]
    want = dy.reshape(n, h, factor[0], w, factor[1], c).sum((2, 4))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
