"""Strided copies and fill: every permutation, slices, concatenation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import KernelRunner


def copy_ints(
    dims: list[int], source: list[int], target: list[int], size: int, start: int = 0, to: int = 0
) -> dict[str, int]:
    lead = 6 - len(dims)
    ints = {"element_bytes": size, "input_offset": start, "output_offset": to}
    rows = (("d", [1] * lead + dims), ("s", [0] * lead + source), ("o", [0] * lead + target))
    return ints | {f"{name}{i}": n for name, values in rows for i, n in enumerate(values)}


def strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permute(kernel: KernelRunner, rng: np.random.Generator, order: tuple[int, ...], dtype: type) -> None:
    x = rng.integers(0, 200, (5, 6, 70)).astype(dtype)
    expected = x.transpose(order)
    source = [strides(x.shape)[a] for a in order]
    ints = copy_ints(list(expected.shape), source, strides(expected.shape), x.itemsize)
    got = kernel("strided_copy", {"input": x, "output": np.zeros(expected.shape, dtype)}, ints)["output"]
    np.testing.assert_array_equal(got, expected)


def test_slice_into_the_middle(kernel: KernelRunner, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 8), np.float32)
    ints = copy_ints([2, 4, 8], strides(x.shape), [12 * 8, 8, 1], 4, start=3 * 8, to=5 * 8)
    got = kernel("strided_copy", {"input": x, "output": np.zeros((2, 12, 8), np.float32)}, ints)["output"]
    np.testing.assert_array_equal(got[:, 5:9], x[:, 3:7])


@pytest.mark.parametrize("count", [1, 100, 1001])
def test_fill(kernel: KernelRunner, count: int) -> None:
    got = kernel("fill", {"output": np.zeros(count, np.float32)}, {"count": count}, {"value": 2.5})["output"]
    assert (got == 2.5).all()
