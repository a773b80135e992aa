"""Conversions between storage types, against NumPy: every value of 16 bits, and every way of rounding to them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import KernelRunner

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2


def cast(kernel: KernelRunner, x: np.ndarray, source: int, target: int) -> np.ndarray:
    y = np.zeros(x.shape, np.float32 if target == FLOAT32 else np.uint16)
    ints = {"count": x.size, "from_half": source, "to_half": target}
    return kernel("cast", {"x": x, "y": y}, ints, outputs=("y",))["y"]


def test_every_float16_is_widened_exactly(kernel: KernelRunner) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(cast(kernel, bits, FLOAT16, FLOAT32), bits.view(np.float16).astype(np.float32))


def test_every_bfloat16_is_widened_exactly(kernel: KernelRunner) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(cast(kernel, bits, BFLOAT16, FLOAT32).view(np.uint32), bits.astype(np.uint32) << 16)


def hard_to_round() -> np.ndarray:
    """Every float16, halfway to the next, a little to either side of that; and what is large, tiny or not finite."""
    exact = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    halves = (exact[:-1].astype(np.float64) + exact[1:]) / 2
    beside = [np.nextafter(halves.astype(np.float32), np.float32(to)) for to in (-np.inf, np.inf)]
    extremes = np.array([65519.996, 65520, 65536, 1e6, 3e38, np.inf, np.nan, 1e-8, 2.9e-8, 3e-8, 1e-40], np.float32)
    values = np.concatenate([exact, halves.astype(np.float32), *beside, extremes])
    return np.concatenate([values, -values])


def test_float16_is_rounded_to_nearest_even(kernel: KernelRunner) -> None:
    x = hard_to_round()
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(cast(kernel, x, FLOAT32, FLOAT16).view(np.float16), expected)


@pytest.mark.parametrize("count", [1, 7, 17, 131])
def test_the_last_few_values_are_like_all_others(kernel: KernelRunner, rng: np.random.Generator, count: int) -> None:
    x = rng.standard_normal(count).astype(np.float32)
    np.testing.assert_array_equal(cast(kernel, x, FLOAT32, FLOAT16).view(np.float16), x.astype(np.float16))
    half = x.astype(np.float16)
    np.testing.assert_array_equal(cast(kernel, half.view(np.uint16), FLOAT16, FLOAT32), half.astype(np.float32))


def test_one_half_becomes_the_other_through_float32(kernel: KernelRunner, rng: np.random.Generator) -> None:
    half = rng.standard_normal(99).astype(np.float16)
    found = cast(kernel, half.view(np.uint16), FLOAT16, BFLOAT16)
    expected = cast(kernel, half.astype(np.float32), FLOAT32, BFLOAT16)
    np.testing.assert_array_equal(found, expected)
