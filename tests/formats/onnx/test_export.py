"""What goes out to ONNX computes the same in onnxruntime, and comes back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import homespun as hs
from homespun.graph import BATCH, Array, Graph, Tensor
from homespun.graph.operator import OPERATORS
from homespun.zoo.tinybert import Size
from tests.formats.networks import small_network
from tests.formats.onnx.made import close, first_last, predict, run_onnx
from tests.ops.test_gradients import CASES, Case, apart, graph_of
from tests.reference import evaluate
from tests.runtime.test_predictor import residual_network


def channels_first(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def exported(graph: Graph, folder: Path, weights: str = "float32") -> str:
    path = folder / "out.onnx"
    hs.save(graph, path, weights=weights)
    return str(path)


def agree(graph: Graph, folder: Path, *inputs: Array, weights: str = "float32", tolerance: float = 2e-5) -> None:
    """The file in onnxruntime against the network here, then the file loaded here."""
    path = exported(graph, folder, weights)
    feeds = {n: channels_first(x) for n, x in zip(graph.inputs, inputs, strict=True)}
    reference = graph
    if weights == "int8":  # what an int8 .hsp holds
        hs.save(graph, folder / "reference.hsp", weights="int8")
        reference = hs.load(folder / "reference.hsp")
    want = predict(reference, *inputs)
    for optimised in (False, True):
        for a, b in zip(run_onnx(path, feeds, optimised), want, strict=True):
            close(first_last(a), b, tolerance)
    back = hs.load(path)
    for a, b in zip(predict(back, *inputs), want, strict=True):
        close(a, b, tolerance)


#: What only training graphs hold, or what the compiler makes, is written with the training step or not at all.
ROWS = [c for c in CASES if OPERATORS[c.op].to_onnx is not None]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_operator(case: Case, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    values = [random.uniform(case.low, case.high, s).astype(np.float32) for s in case.shapes]
    graph = graph_of(case, [apart(v, 1e-3, (0, 6, -3, 3)).astype(np.float32) for v in values])
    unused = np.zeros((1, 1), np.float32)
    (got,) = run_onnx(exported(graph, tmp_path), {"unused": unused})
    close(first_last(got), evaluate(graph, unused)[0].astype(np.float32))


def test_every_operator_that_a_model_can_hold_is_written() -> None:
    made_by_the_compiler = {n for n in OPERATORS if n.startswith("quantized_") or n == "inverted_residual"}
    only_in_training = {n for n, o in OPERATORS.items() if o.gradient is None} - {
        "conv2d",
        "linear",
        "batch_norm",
        "dropout",
    }
    only_in_training |= {n for n in OPERATORS if n.startswith("train_")} | {"normalize", "cast", "constant_like"}
    without = {n for n, o in OPERATORS.items() if o.to_onnx is None}
    assert without - made_by_the_compiler - only_in_training == set()


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("activation", ["relu6", "hard_swish", "silu", "gelu", "leaky_relu"])
def test_a_network_with_residuals_and_two_outputs(weights: str, activation: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 13, 11, 3)).astype(np.float32)
    agree(residual_network(activation), tmp_path, x, weights=weights, tolerance=1e-4)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("build", [hs.zoo.mobilenet_v1, hs.zoo.mobilenet_v2, hs.zoo.efficientnet_lite0])
def test_zoo_networks_go_out_and_come_back(build: object, weights: str, tmp_path: Path) -> None:
    graph = build(classes=10, image_size=64)  # type: ignore[operator]
    random = np.random.default_rng(1)
    for t in graph.with_role("state"):
        t.data = random.uniform(0.5, 1.5, t.shape).astype(np.float32)
    x = random.standard_normal((2, 64, 64, 3)).astype(np.float32)
    agree(graph, tmp_path, x, weights=weights, tolerance=1e-4)


def test_a_transformer_goes_out(tmp_path: Path) -> None:
    graph = hs.zoo.tinybert(3, 2, sequence=6, vocabulary=50, size=Size(width=16, heads=2, hidden=32))
    random = np.random.default_rng(0)
    ids = random.integers(1, 50, (3, 6)).astype(np.int32)
    mask = (np.arange(6) < np.array([[6], [4], [1]])).astype(np.int32)
    inputs = (ids, mask, np.zeros_like(ids))
    (got,) = run_onnx(exported(graph, tmp_path), dict(zip(graph.inputs, inputs, strict=True)))
    close(got, predict(graph, *inputs)[0], 1e-4)


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    graph = hs.zoo.mobilenet_v2(classes=10, width=0.5, image_size=32)
    back = hs.load(exported(graph, tmp_path))
    assert [n.op for n in back.nodes] == [n.op for n in graph.nodes]
    assert list(back.parameters()) == list(graph.parameters())
    for name, data in graph.parameters().items():
        np.testing.assert_array_equal(back.data(name), data)
    assert back.inputs == graph.inputs and back.outputs == graph.outputs
    assert graph.metadata.items() <= back.metadata.items()


def test_the_file_has_no_transposes_between_layers_and_a_free_batch(tmp_path: Path) -> None:
    graph = hs.zoo.mobilenet_v2(classes=10, width=0.5, image_size=32)
    model = onnx.load(exported(graph, tmp_path))
    assert not [n for n in model.graph.node if n.op_type == "Transpose"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 32, 32]


def test_8_bit_weights_are_codes_with_a_scale_for_each_channel(tmp_path: Path) -> None:
    graph = small_network()
    path = exported(graph, tmp_path, "int8")
    model = onnx.load(path)
    assert [n.op_type for n in model.graph.node].count("DequantizeLinear") == 4
    assert sum(i.data_type == onnx.TensorProto.INT8 for i in model.graph.initializer) == 8
    x = np.random.default_rng(5).standard_normal((3, 9, 9, 3)).astype(np.float32)
    agree(graph, tmp_path, x, weights="int8", tolerance=1e-4)


def test_an_exported_trainer_runs_in_onnxruntime(tmp_path: Path) -> None:
    graph = hs.zoo.mobilenet_v1(classes=4, width=0.25, image_size=32)
    trainer = hs.Trainer(graph, hs.losses.CrossEntropy(), hs.optim.SGD(0.05), batch=4)
    random = np.random.default_rng(0)
    x, y = random.standard_normal((4, 32, 32, 3)).astype(np.float32), random.integers(0, 4, 4)
    for _ in range(3):
        trainer.step(x, y)
    trainer.export(tmp_path / "trained.onnx")
    (got,) = run_onnx(str(tmp_path / "trained.onnx"), {"image": channels_first(x)})
    close(got, predict(trainer.model(), x)[0], 1e-4)


def test_what_onnx_has_no_form_for_is_named(tmp_path: Path) -> None:
    graph = Graph("narrow")
    graph.add_tensor(Tensor("x", "input", (BATCH, 3)))
    graph.inputs = ["x"]
    for i, dtype in enumerate(["bfloat16", "float32"] * 6):
        graph.add_node("cast", [f"x{i - 1}" if i else "x"], [f"x{i}"], {"dtype": dtype}, f"c{i}")
    graph.outputs = ["x11"]
    with pytest.raises(hs.ModelError) as error:
        hs.save(graph, tmp_path / "out.onnx")
    assert all(f"c{i} (cast)" in str(error.value) for i in range(12))
    assert not list(tmp_path.iterdir())
    with pytest.raises(hs.OptionError, match="float16"):
        hs.save(small_network(), tmp_path / "out.onnx", weights="float16")
