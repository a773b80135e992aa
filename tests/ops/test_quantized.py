"""8-bit operators: shapes, what they refuse, and what codes mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from homespun import Predictor, ShapeError
from homespun.graph import BATCH, Graph, Tensor, infer


def layer(dtype: str = "uint8", residual: bool = False, **attributes: Any) -> Graph:
    """A 1x1 `quantized_conv2d` of 4 to 3 channels whose input is an input of the graph."""
    graph = Graph("layer")
    graph.add_tensor(Tensor("x", "input", (BATCH, 2, 2, 4), dtype))
    graph.inputs = ["x"]
    graph.add_array("codes", np.arange(-6, 6, dtype=np.int8).reshape(1, 1, 4, 3))
    graph.add_array("scale", np.array([0.5, 1.0, 2.0], np.float32))
    graph.add_array("shift", np.array([0.0, 10.0, -10.0], np.float32))
    names = ["x", "codes", "scale", "shift"]
    if residual:
        graph.add_tensor(Tensor("r", "input", (BATCH, 2, 2, 3)))
        graph.inputs.append("r")
        names.append("r")
    graph.add_node("quantized_conv2d", names, ["y"], attributes)
    graph.outputs = ["y"]
    return graph


def sums(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ np.arange(-6, 6).reshape(4, 3)


CODES = np.random.default_rng(0).integers(0, 256, (2, 2, 2, 4), np.uint8)


def test_codes_to_floats() -> None:
    y = Predictor(layer(), batch=2)(CODES)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32
    np.testing.assert_array_equal(y, sums(CODES) * [0.5, 1, 2] + [0, 10, -10])


def test_codes_to_codes() -> None:
    y = Predictor(layer(output="uint8"), batch=2)(CODES)
    assert isinstance(y, np.ndarray) and y.dtype == np.uint8
    np.testing.assert_array_equal(y, np.clip(np.rint(sums(CODES) * [0.5, 1, 2] + [0, 10, -10]), 0, 255))


def test_residual_and_activation() -> None:
    r = np.random.default_rng(1).standard_normal((2, 2, 2, 3)).astype(np.float32) * 100
    y = Predictor(layer(residual=True, activation="relu"), batch=2)(CODES, r)
    np.testing.assert_allclose(y, np.maximum(sums(CODES) * [0.5, 1, 2] + [0, 10, -10] + r, 0), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("non_negative", [False, True])
def test_floats_whose_range_is_the_codes(non_negative: bool) -> None:
    """Rows whose largest magnitude is 127 (255) are their own codes, so nothing is lost."""
    random = np.random.default_rng(2)
    x = random.integers(0 if non_negative else -127, 256 if non_negative else 128, (2, 2, 2, 4)).astype(np.float32)
    x[..., 0] = 255 if non_negative else 127
    y = Predictor(layer("float32", non_negative=non_negative), batch=2)(x)
    np.testing.assert_allclose(y, sums(x) * [0.5, 1, 2] + [0, 10, -10], rtol=1e-6)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (layer("int8"), "float32 or uint8 inputs"),
        (layer(output="int8"), "float32 or uint8 inputs and outputs"),
        (layer(output="uint8", activation="relu"), "no residual"),
        (layer(residual=True, output="uint8"), "no residual"),
    ],
)
def test_what_can_not_be_is_refused(graph: Graph, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        infer(graph, 1)


def test_pooling_wants_a_scale_for_each_channel() -> None:
    graph = Graph("pool")
    graph.add_tensor(Tensor("x", "input", (BATCH, 2, 2, 4), "uint8"))
    graph.add_array("scale", np.ones(3, np.float32))
    graph.inputs = ["x"]
    graph.add_node("quantized_global_average_pool", ["x", "scale"], ["y"])
    graph.outputs = ["y"]
    with pytest.raises(ShapeError, match="a scale for each channel"):
        infer(graph, 1)
