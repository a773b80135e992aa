"""Pooling, reductions and softmax against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import references
from conftest import KernelRunner


@pytest.mark.parametrize("average", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize(
    ("size", "channels", "window", "stride", "pads", "dilation", "ceil"),
    [
        ((8, 8), 16, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((9, 7), 5, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
        ((9, 7), 33, (3, 2), (1, 2), (1, 0, 0, 1), (1, 1), False),
        ((8, 8), 20, (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
        ((9, 9), 4, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), False),
        ((1, 1), 3, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), False),
    ],
)
def test_pool(
    kernel: KernelRunner, rng: np.random.Generator, average: int, count_include_pad: int, size: tuple[int, int],
    channels: int, window: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int],
    dilation: tuple[int, int], ceil: bool,
) -> None:  # fmt: skip
    x = rng.standard_normal((2, *size, channels), np.float32)
    spans = [size[i] + pads[i] + pads[i + 2] - (window[i] - 1) * dilation[i] - 1 for i in range(2)]
    out = tuple((-(-s // stride[i]) if ceil else s // stride[i]) + 1 for i, s in enumerate(spans))
    ints = {
        "batch": 2, "height": size[0], "width": size[1], "channels": channels,
        "out_height": out[0], "out_width": out[1],
        "kernel_h": window[0], "kernel_w": window[1], "stride_h": stride[0], "stride_w": stride[1],
        "dilation_h": dilation[0], "dilation_w": dilation[1], "pad_top": pads[0], "pad_left": pads[1],
        "pad_bottom": pads[2], "pad_right": pads[3], "average": average,
        "count_include_pad": count_include_pad, "half": 0,
    }  # fmt: skip
    got = kernel("pool", {"input": x, "output": np.zeros((2, *out, channels), np.float32)}, ints)["output"]
    geometry = {"stride": stride, "dilation": dilation, "pads": pads[:2]}
    seen = references.windows(x, out, window, **geometry, value=np.nan)
    if average:
        # A cell counts where it is image or, if asked, padding; never where a window reaches beyond the padding.
        cells = np.ones((2, size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3], 1), np.float32)
        if not count_include_pad:
            cells = references.pad(np.ones((2, *size, 1)), pads[0], pads[1], *cells.shape[1:3])
        count = references.windows(cells, out, window, stride=stride, dilation=dilation).sum((3, 4))
        expected = np.nansum(seen, (3, 4)) / count
    else:
        expected = np.nanmax(seen, (3, 4))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch", "pixels", "channels"), [(1, 49, 1280), (3, 5, 17), (2, 1, 1)])
def test_global_average_pool(
    kernel: KernelRunner, rng: np.random.Generator, batch: int, pixels: int, channels: int
) -> None:
    x = rng.standard_normal((batch, pixels, channels), np.float32)
    ints = {"batch": batch, "pixels": pixels, "channels": channels}
    got = kernel("global_average_pool", {"input": x, "output": np.zeros((batch, channels), np.float32)}, ints)["output"]
    np.testing.assert_allclose(got, x.astype(np.float64).mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("function", "code"), [(np.sum, 0), (np.mean, 1), (np.max, 2), (np.min, 3)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 100, 1), (2, 1000, 1), (3, 7, 20), (1, 64, 33)])
def test_reduce(
    kernel: KernelRunner, rng: np.random.Generator, function: object, code: int, shape: tuple[int, int, int]
) -> None:
    x = rng.standard_normal(shape, np.float32)
    ints = dict(zip(("outer", "reduce", "inner"), shape, strict=True)) | {"function": code}
    got = kernel("reduce", {"input": x, "output": np.zeros((shape[0], shape[2]), np.float32)}, ints)["output"]
    np.testing.assert_allclose(got, function(x.astype(np.float64), axis=1), rtol=1e-5, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("log", [0, 1])
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (5, 10), (3, 1000), (16, 17)])
def test_softmax(kernel: KernelRunner, rng: np.random.Generator, log: int, rows: int, channels: int) -> None:
    x = (rng.standard_normal((rows, channels)) * 30).astype(np.float32)
    shifted = x.astype(np.float64) - x.max(1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = expected if log else np.exp(expected)
    for in_place in ({}, {"output": "input"}):
        ints = {"rows": rows, "channels": channels, "log": log}
        got = kernel("softmax", {"input": x, "output": np.zeros_like(x)}, ints, in_place=in_place)["output"]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
