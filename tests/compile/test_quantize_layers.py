"""8-bit predictors: close to float32, the codes of the file, nothing larger kept, and every model runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import GraphBuilder, Predictor, _native
from homespun.compile.passes import for_inference
from homespun.compile.ranges import SMALLEST_LIMIT, expected_limits
from homespun.compression import quantize_weights
from homespun.graph import Graph

ISAS = _native.isas()


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blocks(activation: str = "relu6", kernel: int = 3, groups: int = 1) -> Graph:
    """Stem, two inverted residuals, head, pooled features and a classifier, with plausible batch norms."""
    b = GraphBuilder("blocks", seed=1)
    x = b.input("image", (16, 12, 3))

    def layer(y: str, name: str, act: bool = True, **conv: int) -> str:
        y = b.batch_norm(b.conv(y, name, **conv), f"{name}.norm", conv["outputs"])
        return b.op(activation, y, name=f"{name}.act") if act else y

    y = layer(x, "stem", inputs=3, outputs=16, kernel=3, stride=2)
    for i in range(2):
        start = y
        y = layer(y, f"{i}.expand", inputs=16, outputs=96)
        y = layer(y, f"{i}.depthwise", inputs=96, outputs=96, kernel=kernel, groups=96)
        y = layer(y, f"{i}.project", act=False, inputs=96, outputs=16)
        y = b.op("add", y, start, name=f"{i}.add")
    y = layer(y, "head", inputs=16, outputs=64, kernel=1 if groups == 1 else 3, groups=groups)
    y = b.op("flatten", b.op("global_average_pool", y, name="pool"), name="features")
    graph = b.build(b.linear(y, "classifier", 64, 10), "features")
    random = np.random.default_rng(2)
    types = {t.name: t for t in graph.tensors.values()}
    for name, tensor in types.items():
        if name.endswith("norm.bias"):
            tensor.data = random.normal(0.5, 0.5, tensor.shape).astype(np.float32)
        if name.endswith("norm.weight"):
            tensor.data = random.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
    return with_true_statistics(graph)


def with_true_statistics(graph: Graph) -> Graph:
    """Running mean and variance as the values before each batch norm really have them."""
    x = image(16, 16, 12, 3, seed=9)
    for node in graph.nodes:
        if node.op == "batch_norm":
            probe = graph.copy()
            probe.outputs = [node.inputs[0]]
            values = np.asarray(Predictor(probe, batch=16)(x)).reshape(-1, graph.tensors[node.inputs[3]].shape[0])
            graph.tensors[node.inputs[3]].data = values.mean(0)
            graph.tensors[node.inputs[4]].data = values.var(0) + np.float32(1e-3)
    return graph


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def agree(graph: Graph, least: float = 0.995, isa: str | None = None, **options: int) -> None:
    x = image(4, *graph.tensors[graph.inputs[0]].shape[1:])
    want = Predictor(graph, batch=4)(x)
    got = Predictor(graph, batch=4, weights="int8", isa=isa, **options)(x)
    for a, b in zip(
        want if isinstance(want, tuple) else (want,), got if isinstance(got, tuple) else (got,), strict=True
    ):
        assert a.shape == b.shape and b.dtype == np.float32
        assert cosine(a, b) > least


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["relu6", "relu", "hard_swish", "silu", "leaky_relu", "gelu", "clip"])
def test_close_to_float32_whatever_the_activation(activation: str, isa: str) -> None:
    agree(blocks(activation), isa=isa)


@pytest.mark.parametrize(("kernel", "groups"), [(5, 1), (7, 1), (3, 4)])
def test_windows_and_groups_with_and_without_an_8_bit_kernel(kernel: int, groups: int) -> None:
    agree(blocks(kernel=kernel, groups=groups))


def test_relu6_networks_store_their_wide_tensors_in_bytes() -> None:
    graph = for_inference(blocks(), int8=True)
    kinds = {node.name: (node.op, node.attributes.get("output")) for node in graph.nodes}
    bytes_out = {name for name, (_, output) in kinds.items() if output == "uint8"}
    assert bytes_out == {"0.expand", "0.depthwise", "1.expand", "1.depthwise", "head"}
    assert kinds["pool"][0] == "quantized_global_average_pool"
    assert not any(op in ("conv2d", "linear") for op, _ in kinds.values())


@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_activations_without_a_bound_stay_float32(activation: str) -> None:
    graph = for_inference(blocks(activation), int8=True)
    assert all(node.attributes.get("output") != "uint8" for node in graph.nodes)
    assert sum(node.op == "quantized_conv2d" for node in graph.nodes) == 6
    assert sum(node.op == "conv2d" for node in graph.nodes) == 2  # the depthwise ones


def test_a_tensor_that_is_an_output_stays_float32() -> None:
    graph = blocks()
    graph.outputs.append("0.expand.act")
    agree(graph)


def test_codes_are_those_of_the_file(tmp_path: Path) -> None:
    graph = blocks()
    stored = {name: codes for name, (codes, _) in quantize_weights(graph).items()}
    prepared = for_inference(graph, int8=True)
    for node in prepared.nodes:
        if node.op in ("quantized_conv2d", "quantized_linear"):
            codes = prepared.data(node.inputs[1])
            want = stored[f"{node.name}.weight"]
            signs = np.sign((codes.astype(int) * want).reshape(-1, want.shape[-1]).sum(0))  # norms may turn a channel
            np.testing.assert_array_equal(codes, want * signs.astype(np.int8))
    hs.save(graph, tmp_path / "small.hsp", weights="int8")
    x = image(3, 16, 12, 3)
    for a, b in zip(
        Predictor(graph, batch=3, weights="int8")(x),
        Predictor(hs.load(tmp_path / "small.hsp"), batch=3, weights="int8")(x),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_weights_are_kept_in_a_quarter_of_the_bytes() -> None:
    model = hs.zoo.mobilenet_v2(classes=1000, image_size=32)
    large, small = (Predictor(model, weights=w).memory.parameters for w in ("float32", "int8"))
    assert small < 0.28 * large


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads_or_batch(threads: int) -> None:
    graph, x = blocks(), image(5, 16, 12, 3)
    want = Predictor(graph, batch=5, weights="int8", threads=1)(x)[0]
    got = Predictor(graph, batch=2, weights="int8", threads=threads)(x)[0]
    np.testing.assert_array_equal(got, want)


def test_rows_of_very_different_size_keep_their_precision() -> None:
    """One range for all rows would round the small ones to nothing."""
    b = GraphBuilder("rows", seed=4)
    graph = b.build(b.linear(b.input("x", (6, 32)), "layer", 32, 16))
    x = image(2, 6, 32) * np.float32(10.0) ** np.arange(-6, 6, 2, dtype=np.float32)[:, None]
    want, got = Predictor(graph, batch=2)(x), Predictor(graph, batch=2, weights="int8")(x)
    error = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
    assert error.max() < 0.02


def test_rows_of_zeros_and_of_tiny_numbers() -> None:
    b = GraphBuilder("zeros", seed=4)
    graph = b.build(b.linear(b.input("x", (32,)), "layer", 32, 16))
    x = np.zeros((2, 32), np.float32)
    x[1] = 1e-39
    np.testing.assert_array_equal(Predictor(graph, batch=2, weights="int8")(x), np.zeros((2, 16), np.float32))


def test_limits_come_from_batch_norm() -> None:
    b = GraphBuilder("limits")
    y = b.batch_norm(b.input("x", (4, 4, 2)), "norm", 2)
    graph = b.build(b.op("relu6", y, name="act"))
    graph.tensors["norm.weight"].data = np.array([0.25, 1e-6], np.float32)
    graph.tensors["norm.bias"].data = np.array([1.0, -3.0], np.float32)
    np.testing.assert_allclose(expected_limits(graph)["act"], [3.0, SMALLEST_LIMIT], rtol=1e-5)
