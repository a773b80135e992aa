"""Networks that TensorFlow wrote, float and quantised: outputs as LiteRT's, trainable, and out again as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.numpy_helper import to_array

import homespun as hs
from tests.formats.onnx.made import first_last, run_onnx
from tests.formats.tflite import recorded

#: Largest error of a number from 0 to 1: rounding where all is float32, a few codes of 8 bits where LiteRT rounds
#: what goes from layer to layer.
WITHIN = {
    "classifier": 1e-6,
    "classifier_float16": 1e-6,
    "classifier_int16": 1e-4,
    "classifier_int8": 4e-3,
    "classifier_int8_per_tensor": 4e-3,
    "classifier_uint8": 4e-3,
    "detector": 1e-6,
    "detector_int8": 0.03,
    "detector_int8_weights": 0.012,
    "encoder": 2e-6,
    "operators": 2e-5,
}
BOUNDED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(name: str) -> hs.Graph:
    return hs.load(recorded.FOLDER / f"{name}.tflite")


def predict(graph: hs.Graph, x: np.ndarray) -> list[np.ndarray]:
    result = hs.Predictor(graph, batch=x.shape[0])(x)
    return list(result) if isinstance(result, tuple) else [result]


def test_there_is_a_bound_for_every_recording() -> None:
    assert {p.stem for p in recorded.FOLDER.glob("*.tflite")} == set(WITHIN)


@pytest.mark.parametrize("name", WITHIN)
def test_outputs_are_litert_s(name: str) -> None:
    for mine, want in zip(predict(read(name), recorded.given(name)), recorded.wanted(name), strict=True):
        np.testing.assert_allclose(mine, want, atol=WITHIN[name])


@pytest.mark.parametrize("name", WITHIN)
def test_it_trains_and_computes_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    graph, x = read(name), recorded.given(name)
    if name == "operators":  # it has no parameters; that gradients flow through its operators, others show
        x = x[:1]
    else:
        trainer = hs.Trainer(graph, hs.losses.MSE(), hs.optim.Adam(1e-3), batch=len(x))
        target = np.zeros(recorded.wanted(name)[0].shape, np.float32)
        assert len(trainer.parameters()) > 5
        losses = [trainer.step(x, target).loss for _ in range(4)]
        assert losses[-1] < losses[0]
        graph = trainer.model()
    hs.save(graph, tmp_path / "net.onnx")
    feed = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
    found = run_onnx(str(tmp_path / "net.onnx"), {graph.inputs[0]: feed})
    for mine, theirs in zip(predict(graph, x), found, strict=True):
        np.testing.assert_allclose(mine, first_last(theirs) if theirs.ndim == 4 else theirs, atol=2e-5)


def test_quantised_pixels_say_how_they_become_numbers() -> None:
    """The file's own input is a code; a pixel from 0 to 255 stands for what that code does."""
    for name in ("classifier_uint8", "classifier_int8"):
        metadata = read(name).metadata
        mean, scale = float(metadata["input_mean"]), float(metadata["input_scale"])
        low, high = (0 - mean) / scale, (255 - mean) / scale
        x = recorded.given(name)
        assert low < -3 and high > 3  # calibrated on normally distributed numbers
        assert (high - low) / 255 < 0.05 < np.abs(x).max() / 50


#: What the largest code stands for behind the first three layers, by TensorFlow's own reading of the file.
ENDS = {
    "classifier_int8": [4.44899, 3.84607, 1.69096],
    "classifier_int8_per_tensor": [4.44899, 3.84607, 1.69096],
    "classifier_uint8": [4.44899, 3.84607, 1.69096],
    "classifier_int16": [5.19573, 4.78142, 1.90376],
}


@pytest.mark.parametrize(("name", "ends"), ENDS.items())
def test_ranges_of_activations_are_kept_for_8_bit_programs(name: str, ends: list[float], tmp_path: Path) -> None:
    """8-bit programs and files spread codes over the file's ranges, with no calibration, also after saving."""
    graph, x = read(name), recorded.given(name)
    bounded = [n.outputs[0] for n in graph.nodes if n.op == "relu6"][: len(ends)]
    for tensor, end in zip(bounded, ends, strict=True):
        limit = graph.tensors[tensor].limit
        assert limit is not None and limit.ndim == 1
        np.testing.assert_allclose(limit, end, rtol=1e-3)
    hs.save(graph, tmp_path / "net.hsp", weights="int8")
    codes = hs.Predictor(hs.load(tmp_path / "net.hsp"), batch=len(x), weights="int8")(x)
    np.testing.assert_allclose(codes, recorded.wanted(name)[0], atol=0.02)
    hs.save(graph, tmp_path / "net.onnx", weights="int8", activations="int8")
    scales = {
        float(to_array(w)) * 255
        for w in onnx.load(tmp_path / "net.onnx").graph.initializer
        if w.data_type == onnx.TensorProto.FLOAT and not w.dims
    }
    assert any(abs(end - scale) < 1e-3 * end for end in ends for scale in scales)


def test_a_float_network_brings_no_ranges() -> None:
    assert all(t.limit is None for t in read("classifier").tensors.values())


def test_layers_are_put_together_again() -> None:
    """A dilated convolution that was written between blocks of pixels, a gelu, ids that might have been negative."""
    (dilated,) = (n for n in read("detector").nodes if n.attributes.get("dilation", (1, 1)) != (1, 1))
    assert dilated.attributes["dilation"] == (2, 2)
    ops = [n.op for n in read("encoder").nodes]
    assert ops.count("gelu") == 2 and "embedding" in ops


@BOUNDED
@given(
    name=st.sampled_from(["operators", "detector_int8", "encoder", "classifier_float16"]),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), max_size=12),
)
def test_damaged_files_are_refused_or_read(
    tmp_path: Path, name: str, cut: float | None, changes: list[tuple[float, int]]
) -> None:
    raw = bytearray((recorded.FOLDER / f"{name}.tflite").read_bytes())
    for at, value in changes:
        raw[int(at * len(raw))] = value
    path = tmp_path / "damaged.tflite"
    path.write_bytes(raw[: None if cut is None else int(cut * len(raw))])
    try:
        hs.load(path)
    except hs.FormatError as e:
        assert str(path) in str(e)
