"""Caffe networks against recordings from OpenCV, which reads them by itself (tools/record_caffe_goldens.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph

GOLDENS = Path(__file__).parent / "goldens" / "caffe"
NAMES = sorted(p.stem for p in GOLDENS.glob("*.prototxt"))


def first_last(x: np.ndarray) -> np.ndarray:
    """An image (N, C, H, W) as (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def predict(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    result = hs.Predictor(graph, batch=x.shape[0])(x)
    return dict(zip(graph.outputs, result if isinstance(result, tuple) else (result,), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_opencv_s(name: str) -> None:
    graph = hs.load(GOLDENS / f"{name}.prototxt")
    recorded = dict(np.load(GOLDENS / f"{name}.npz"))
    x = recorded.pop("data")
    assert graph.tensors["data"].shape == (-1, *first_last(x).shape[1:])
    kept = graph.metadata.get("onnx.channels_last", "").split(",")
    for batch in (2, 3):  # the batch is free, whatever the file says
        got = predict(graph, first_last(np.resize(x, (batch, *x.shape[1:]))))
        assert set(got) == set(recorded)
        for output, want in recorded.items():
            want = np.resize(want, (batch, *want.shape[1:]))
            want = want if output in kept else first_last(want)
            atol = 2e-6 * float(np.abs(want).max())
            np.testing.assert_allclose(got[output], want, rtol=1e-5, atol=atol, err_msg=output)
