"""Activations in 8 bits go out as QDQ with the ranges of our 8-bit programs, and those ranges come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import homespun as hs
from homespun.compile.passes import steps_of_activations
from homespun.graph import Array, Graph
from tests.formats.onnx.made import Made, load


def network(activation: str = "relu6", classes: int = 0, joined: bool = False, **given: Any) -> Graph:
    """Codes between all layers, unless two are `joined` or there is a head: a wide one, a depthwise one."""
    b = hs.GraphBuilder("network", seed=5)
    x = b.input("image", (11, 10, 3))

    def block(y: str, name: str, **conv: Any) -> str:
        y = b.batch_norm(b.conv(y, name, **conv), f"{name}.norm", conv["outputs"])
        return str(b.op(activation, y, name=f"{name}.act", **given))

    y = block(x, "stem", inputs=3, outputs=8, kernel=3, stride=2, padding="same_upper")
    y = block(y, "depthwise", inputs=8, outputs=8, kernel=3, groups=8)
    y = block(y, "wide", inputs=8, outputs=24)
    parts = [block(y, name, inputs=24, outputs=8, kernel=3) for name in ("one", "two")[: 1 + joined]]
    y = block(b.op("concat", *parts) if joined else parts[0], "last", inputs=8 * len(parts), outputs=12)
    y = b.op("flatten", b.op("global_average_pool", y, name="mean"))
    graph = b.build(b.linear(y, "head", 12, classes) if classes else y)
    random = np.random.default_rng(3)
    for t in graph.with_role("state"):
        mean = t.name.endswith("mean")
        t.data = random.uniform(-0.3 if mean else 0.02, 0.1, t.shape).astype(np.float32)
    return graph


def pictures(count: int = 4) -> Array:
    """Of -1, 0 and 1 only: what a layer that quantises each row on its own range keeps exactly."""
    return np.random.default_rng(2).integers(-1, 2, (count, 11, 10, 3)).astype(np.float32)


def quantised(path: Path) -> dict[str, tuple[Array, Array]]:
    """Scale and zero point of each tensor that a file quantises, by the name of the node."""
    model = onnx.load(str(path))
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    return {n.input[0].split("/")[0]: (arrays[n.input[1]], arrays[n.input[2]]) for n in nodes}


def outputs(path: Path, x: Array, optimised: bool = False) -> Array:
    """onnxruntime's, which multiplies codes where it optimises: without VNNI its sums overflow unless told not to."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": x.transpose(0, 3, 1, 2)})[0])


def in_8_bits(graph: Graph, x: Array) -> Array:
    result = hs.Predictor(graph, batch=len(x), weights="int8")(x)
    assert isinstance(result, np.ndarray)
    return result


CASES: dict[str, dict[str, Any]] = {"relu6": {}, "clip": {"activation": "clip", "low": 0.0, "high": 2.5}}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("optimised", [False, True])
def test_onnxruntime_computes_what_our_8_bit_program_does(
    case: dict[str, Any], optimised: bool, tmp_path: Path
) -> None:
    graph, x = hs.calibrate(network(**case), pictures(16)), pictures()
    path = tmp_path / "net.onnx"
    hs.save(graph, path, weights="int8", activations="int8")
    hs.save(graph, tmp_path / "weights.onnx", weights="int8")
    ours, theirs = in_8_bits(graph, x), outputs(path, x, optimised)
    only_weights = outputs(tmp_path / "weights.onnx", x)
    # What is left are values between two codes that round the other way.
    assert np.abs(theirs - ours).max() < 1e-3 * np.abs(ours).max()
    assert np.abs(only_weights - ours).max() > 5 * np.abs(theirs - ours).max()


def test_the_file_has_the_ranges_that_the_program_uses(tmp_path: Path) -> None:
    graph = hs.calibrate(network(joined=True), pictures(16))
    hs.save(graph, tmp_path / "net.onnx", weights="int8", activations="int8")
    found, want = quantised(tmp_path / "net.onnx"), steps_of_activations(graph)
    assert set(want) == {f"{n}.act" for n in ("stem", "depthwise", "wide", "last")}  # a concatenation reads the others
    assert set(found) == set(want)
    for name, (scale, zero) in found.items():
        np.testing.assert_allclose(scale, want[name], rtol=1e-6)
        assert zero.dtype == np.uint8 and not zero.any() and zero.shape == scale.shape
    assert found["stem.act"][0].shape == (8,) and found["wide.act"][0].shape == ()  # a depthwise layer reads channels


def test_measured_ranges_are_taken_by_themselves_when_saving(tmp_path: Path) -> None:
    data = 0.1 * pictures(16)
    hs.save(network(), tmp_path / "net.onnx", weights="int8", calibrate=data)
    measured = steps_of_activations(hs.calibrate(network(), data))
    found = quantised(tmp_path / "net.onnx")
    assert found.keys() == measured.keys()
    for name, step in measured.items():
        np.testing.assert_allclose(found[name][0], step, rtol=1e-6)
    assert (measured["stem.act"] < steps_of_activations(network())["stem.act"]).any()
    for given in ({"weights": "int8"}, {"weights": "float32", "calibrate": data}):
        hs.save(network(), tmp_path / "plain.onnx", **given)
        assert not quantised(tmp_path / "plain.onnx")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_ranges_come_back(case: dict[str, Any], tmp_path: Path) -> None:
    graph, x = hs.calibrate(network(**case), pictures(16)), pictures()
    hs.save(graph, tmp_path / "net.onnx", weights="int8", activations="int8")
    back = hs.load(tmp_path / "net.onnx")
    assert [n.op for n in back.nodes] == [n.op for n in graph.nodes]
    ours, theirs = steps_of_activations(graph), steps_of_activations(back)
    for step, other in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_allclose(other, step, rtol=1e-3)
    np.testing.assert_allclose(in_8_bits(back, x), in_8_bits(graph, x), atol=1e-3 * np.abs(in_8_bits(graph, x)).max())
    again = tmp_path / "again.onnx"
    hs.save(back, again, weights="int8", activations="int8")
    for (scale, _), step in zip(quantised(again).values(), ours.values(), strict=True):
        np.testing.assert_allclose(scale, step, rtol=1e-3)


def test_a_trainer_exports_them_with_norms_folded(tmp_path: Path) -> None:
    trainer = hs.Trainer(network(classes=4), hs.losses.CrossEntropy(), hs.optim.SGD(0.01), batch=4)
    x = pictures()
    for _ in range(3):
        trainer.step(x, np.arange(4))
    trainer.export(tmp_path / "net.onnx", weights="int8", calibrate=pictures(16))
    trainer.export(tmp_path / "net.hsp", weights="int8", calibrate=pictures(16))
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(str(tmp_path / "net.onnx")).graph.node}
    ours = in_8_bits(hs.load(tmp_path / "net.hsp"), x)
    # The head reads float32, which our program quantises each row of.
    assert np.abs(outputs(tmp_path / "net.onnx", x, True) - ours).max() < 0.01 * np.abs(ours).max()
    trainer.export(tmp_path / "weights.onnx", weights="int8")
    assert not quantised(tmp_path / "weights.onnx")


def test_layers_in_16_bits_read_and_write_no_codes(tmp_path: Path) -> None:
    graph = network()
    graph.tensors["wide.weight"].half = True
    hs.save(graph, tmp_path / "net.onnx", weights="int8", activations="int8")
    assert "wide.act" not in quantised(tmp_path / "net.onnx")


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(hs.OptionError, match="weights='int8' too"):
        hs.save(network(), tmp_path / "net.onnx", activations="int8")
    with pytest.raises(hs.OptionError, match="int4"):
        hs.save(network(), tmp_path / "net.onnx", weights="int8", activations="int4")
    with pytest.raises(hs.OptionError, match=r"is for \.onnx"):
        hs.save(network(), tmp_path / "net.hsp", weights="int8", activations="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("axis", [1, -3])
def test_scales_for_each_channel_come_in_wherever_they_are_from(axis: int, tmp_path: Path) -> None:
    m = Made(["N", 3, 6, 6])
    low, high = m.number(0.0), m.number(6.0)
    y = m.op("Clip", m.op("Conv", "x", m.weight(4, 3, 1, 1)), low, high)
    scale, zero = m.array(np.float32([1, 2, 3, 4]) / 255), m.array(np.zeros(4, np.uint8))
    codes = m.op("QuantizeLinear", y, scale, zero, axis=axis)
    y = m.op("DequantizeLinear", codes, scale, zero, axis=axis)
    graph = load(m.model(m.op("GlobalAveragePool", y)), tmp_path)
    (limit,) = [t.limit for t in graph.tensors.values() if t.limit is not None]
    np.testing.assert_allclose(limit, [1, 2, 3, 4], rtol=1e-3)


@pytest.mark.parametrize(
    "scale", [np.float32([1, 2, 3]), np.float32(np.nan), np.float32(0), np.float32(-1), np.float32(np.inf)], ids=str
)
def test_scales_that_make_no_sense_are_refused(scale: Array, tmp_path: Path) -> None:
    m = Made(["N", 4, 6, 6])
    y = m.op("Clip", m.op("Conv", "x", m.weight(4, 4, 1, 1)), m.number(0.0), m.number(6.0))
    zero = m.array(np.zeros(scale.shape, np.uint8))
    y = m.op("DequantizeLinear", m.op("QuantizeLinear", y, m.array(scale), zero), m.array(scale), zero)
    with pytest.raises(hs.FormatError, match="QuantizeLinear_"):
        load(m.model(y), tmp_path)
