"""Calibration: 8-bit programs use ranges measured on data; ranges live as long as what they were measured with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Array, Graph, GraphBuilder
from homespun.training.export import inference_model
from tests.training.small import convolutional, images


def faint(seed: int = 0) -> Graph:
    """A network without batch norm whose activations stay far below the bound of `relu6`: only data can tell."""
    build = GraphBuilder("faint", seed)
    x = build.input("image", (10, 10, 3))
    for i, width in enumerate((16, 16, 24)):
        x = build.conv(x, f"conv{i}", inputs=(3, 16, 16)[i], outputs=width, kernel=3)
        x = build.op("clip" if i == 1 else "relu6", x, name=f"act{i}")
    x = build.op("flatten", build.op("global_average_pool", x), name="features")
    graph = build.build(build.linear(x, "classifier", 24, 5))
    random, scale = np.random.default_rng(seed), {"conv0.weight": 0.005, "classifier.bias": 0.0}
    for name in graph.parameters():
        t = graph.tensors[name]
        t.data = (random.standard_normal(t.shape) * scale.get(name, 0.15)).astype(np.float32)
    return graph


def noise(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 10, 10, 3)).astype(np.float32)


def error(model: Graph, exact: Array, x: Array) -> float:
    found = hs.Predictor(model, batch=4, weights="int8")(x)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def measured(model: Graph) -> dict[str, Array]:
    return {t.name: t.limit for t in model.tensors.values() if t.limit is not None}


def test_measured_ranges_keep_what_a_fixed_range_rounds_away() -> None:
    model, x = faint(), noise(16, seed=1)
    exact = hs.Predictor(model, batch=4)(x)
    calibrated = hs.calibrate(model, noise(16))
    assert not measured(model)
    assert set(measured(calibrated)) == {"act0", "act1", "act2"}
    assert error(calibrated, exact, x) < 0.2 * error(model, exact, x)
    np.testing.assert_array_equal(hs.Predictor(calibrated, batch=4)(x), exact)


def test_a_limit_is_twice_the_largest_value_of_each_channel() -> None:
    model, data = faint(), noise(5)
    probe = model.copy()
    probe.outputs = ["act0"]
    largest = hs.Predictor(probe, batch=5)(data).max(axis=(0, 1, 2))
    limit = measured(hs.calibrate(model, data))["act0"]
    np.testing.assert_allclose(limit, np.maximum(2 * largest, 0.02), rtol=2e-3)


@pytest.mark.parametrize(
    "data", [[noise(6)[:4], noise(6)[4:]], (noise(6),), iter([noise(6)]), hs.data.Arrays(noise(6), np.zeros(6))]
)
def test_data_in_any_form(data: Any) -> None:
    want, found = measured(hs.calibrate(faint(), noise(6))), measured(hs.calibrate(faint(), data))
    assert want.keys() == found.keys()
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])


def test_wrong_data() -> None:
    with pytest.raises(hs.OptionError, match="not one sample"):
        hs.calibrate(faint(), noise(0))
    with pytest.raises(hs.OptionError, match="int"):
        hs.calibrate(faint(), 3)
    with pytest.raises(hs.ShapeError, match="image"):
        hs.calibrate(faint(), noise(2)[:, :5])
    broken = noise(3)
    broken[1, 4, 4, 0] = np.inf
    with pytest.raises(hs.OptionError, match="not finite"):
        hs.calibrate(faint(), broken)


def test_a_saved_model_predicts_the_same_in_another_process(tmp_path: Path) -> None:
    model, x = faint(), noise(4, seed=2)
    hs.save(model, tmp_path / "net.hsp", weights="int8", calibrate=noise(8))
    script = """if True:
        import sys
        import numpy as np
        import homespun as hs
        x = np.load(sys.argv[2])
        np.save(sys.argv[3], hs.Predictor(hs.load(sys.argv[1]), batch=4, weights="int8")(x))
    """
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / n) for n in ("net.hsp", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", script, *files], check=True, env=os.environ)
    want = hs.Predictor(hs.calibrate(model, noise(8)), batch=4, weights="int8")(x)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


def test_saving_again_keeps_ranges(tmp_path: Path) -> None:
    hs.save(faint(), tmp_path / "a.hsp", weights="int8", calibrate=noise(8))
    hs.save(hs.load(tmp_path / "a.hsp"), tmp_path / "b.hsp", weights="int8")
    assert (tmp_path / "a.hsp").read_bytes() == (tmp_path / "b.hsp").read_bytes()


def trainer_of(model: Graph, **options: Any) -> hs.Trainer:
    return hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.1, momentum=0.9), **options)


def test_training_forgets_the_ranges_of_what_it_trains_only() -> None:
    x, y = images(8)
    calibrated = hs.calibrate(convolutional(), x)
    assert len(measured(calibrated)) == 5
    assert not measured(trainer_of(calibrated).model())
    head = trainer_of(calibrated, trainable="head", backbone_weights="int8")
    head.step(x, y)
    assert measured(head.model()).keys() == measured(calibrated).keys()
    last = trainer_of(calibrated, trainable=["b.project*", "classifier*"])
    assert "b.depthwise.act" in measured(last.model()) and "b.project.act" not in measured(last.model())
    head.load_parameters(calibrated.parameters())
    assert measured(head.model())
    head.load_parameters({"stem.conv.weight": calibrated.data("stem.conv.weight") * 2})
    assert not measured(head.model())
    assert len(measured(calibrated)) == 5


def shifted(seed: int = 3) -> Graph:
    """A network whose batch norms have learnt something."""
    model = convolutional(size=12, dropout=0.2)
    random = np.random.default_rng(seed)
    for name, value in model.parameters().items():
        if ".norm." in name:
            model.tensors[name].data = (value * 0.4 + random.uniform(0, 0.3, value.shape)).astype(np.float32)
    return model


def test_an_exported_model_is_rounded_as_well_as_the_model_with_its_batch_norms(tmp_path: Path) -> None:
    trainer = trainer_of(shifted())
    x, y = images(16)
    for _ in range(5):
        trainer.step(x[:8], y[:8])
    trainer.export(tmp_path / "exported.hsp", weights="int8")
    hs.save(trainer.model(), tmp_path / "saved.hsp", weights="int8")
    exported, saved = hs.load(tmp_path / "exported.hsp"), hs.load(tmp_path / "saved.hsp")
    assert not {n.op for n in exported.nodes} & {"batch_norm", "dropout"}
    for weights, tolerance in (("float32", 1e-4), ("int8", 1e-2)):  # scales have 17 bits, limits 11
        a, b = (hs.Predictor(m, batch=16, weights=weights)(x) for m in (exported, saved))
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_export_calibrates(tmp_path: Path) -> None:
    x, _ = images(8)
    trainer = trainer_of(convolutional(), trainable="head")
    trainer.export(tmp_path / "net.hsp", weights="int8", calibrate=x)
    found = measured(hs.load(tmp_path / "net.hsp"))
    want = measured(inference_model(hs.calibrate(trainer.model(), x), "int8"))
    assert found.keys() == want.keys() and len(found) == 5
    assert any((found[n] < 6).any() for n in found)
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])


@pytest.mark.parametrize("kind", ["saved", "saved calibrated", "exported", "exported calibrated"])
def test_training_goes_on_from_8_bit_files(tmp_path: Path, kind: str) -> None:
    x, y = images(8)
    trainer = trainer_of(convolutional())
    for _ in range(10):
        trainer.step(x, y)
    data = x if "calibrated" in kind else None
    if kind.startswith("saved"):
        hs.save(trainer.model(), tmp_path / "net.hsp", weights="int8", calibrate=data)
    else:
        trainer.export(tmp_path / "net.hsp", weights="int8", calibrate=data)
    loaded = hs.load(tmp_path / "net.hsp")
    exact = hs.Predictor(trainer.model(), batch=8)(x)
    assert error(loaded, exact, x) < 0.1
    again = trainer_of(loaded)
    first = again.step(x, y).loss
    for _ in range(25):
        last = again.step(x, y).loss
    assert last < 0.7 * first
    hs.save(again.model(), tmp_path / "later.hsp", weights="int8")
    later = hs.Predictor(hs.load(tmp_path / "later.hsp"), batch=8, weights="int8")(x)
    assert (later.argmax(1) == y).mean() >= (exact.argmax(1) == y).mean()
