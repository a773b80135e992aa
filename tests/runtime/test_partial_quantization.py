"""8 or 16 bits, layer by layer: which layer hurts, a budget that is kept, and a choice that files keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.compile.passes import for_inference
from homespun.graph import Graph
from homespun.runtime.partial_quantization import with_half


def network(seed: int = 0) -> Graph:
    """Five layers; one of them, `bad`, has a weight so large that 8 bits know little of the others."""
    b = hs.GraphBuilder("small", seed)
    x = b.conv(b.input("image", (8, 8, 3)), "stem", inputs=3, outputs=16, kernel=3)
    x = b.op("relu6", b.batch_norm(x, "norm", 16))
    x = b.op("relu6", b.conv(x, "depthwise", inputs=16, outputs=16, kernel=3, groups=16))
    x = b.op("relu6", b.conv(x, "bad", inputs=16, outputs=16))
    x = b.op("relu6", b.conv(x, "project", inputs=16, outputs=16))
    x = b.op("flatten", b.op("global_average_pool", x))
    model = b.build(b.linear(x, "classifier", 16, 6, std=1.0))
    weights = model.data("bad.weight").copy()
    weights[0, 0, 0] = 30.0
    model.tensors["bad.weight"].data = weights
    return model


def photos(count: int = 256) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 8, 8, 3)).astype(np.float32)


def answers(model: Graph, x: np.ndarray) -> np.ndarray:
    return hs.Predictor(model, 8)(x).argmax(axis=1)


def test_the_layer_that_hurts_most_comes_first() -> None:
    model = network()
    found = hs.sensitivity(model, photos(32))
    names = ("stem", "depthwise", "bad", "project", "classifier")
    assert set(found) == {f"{name}.weight" for name in names}
    assert next(iter(found)) == "bad.weight"
    assert found["bad.weight"] > 0.5
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert not any(t.half for t in model.tensors.values())


def test_the_budget_is_kept_with_as_few_layers_as_that_takes() -> None:
    model, x = network(), photos()
    y = answers(model, x)

    def agreement(candidate: Graph) -> float:
        return float((hs.Predictor(candidate, 8, "int8")(x).argmax(axis=1) == y).mean())

    found = hs.mixed_precision(model, (x, y), budget=0.02)
    assert found.float32 == 1.0
    assert found.int8 == pytest.approx(agreement(model))
    assert found.int8 < 0.98 <= found.score
    assert found.score == pytest.approx(agreement(found.model))
    assert 2 <= len(found.half) < 5
    assert found.half[0] == "bad.weight"
    assert agreement(with_half(model, found.half[:-1])) < 0.98
    generous = hs.mixed_precision(model, (x, y), budget=1.0)
    assert generous.half == ()
    assert generous.score == generous.int8


def test_what_stays_in_16_bits_runs_in_float32_and_the_rest_in_8() -> None:
    ops = {n.name: n.op for n in for_inference(with_half(network(), ["bad.weight"]), int8=True).nodes}
    assert ops["bad"] == "conv2d"
    assert ops["stem"] == "quantized_conv2d"
    assert ops["project"] == "quantized_conv2d"
    folded = for_inference(with_half(network(), ["stem.weight"]), int8=True)
    assert next(n.op for n in folded.nodes if n.name == "stem") == "conv2d"


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_files_keep_the_choice(stored: str, tmp_path: Path) -> None:
    model = with_half(network(), ["bad.weight", "classifier.weight"])
    x = photos(16)
    hs.save(model, tmp_path / "mixed.hsp", weights=stored)
    loaded = hs.load(tmp_path / "mixed.hsp")
    assert [t.name for t in loaded.tensors.values() if t.half] == ["bad.weight", "classifier.weight"]
    want = hs.Predictor(model, 8, "int8")(x)
    np.testing.assert_array_equal(hs.Predictor(loaded, 8, "int8")(x), want)
    exact = model.data("bad.weight")
    if stored == "int8":
        np.testing.assert_array_equal(loaded.data("bad.weight"), exact.astype(np.float16).astype(np.float32))
        hs.save(network(), tmp_path / "int8.hsp", weights="int8")
        assert (tmp_path / "mixed.hsp").stat().st_size > (tmp_path / "int8.hsp").stat().st_size
    else:
        np.testing.assert_array_equal(loaded.data("bad.weight"), exact)


def test_export_and_training_keep_the_choice(tmp_path: Path) -> None:
    model = with_half(network(), ["stem.weight"])
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.0), batch=8)
    trainer.export(tmp_path / "mixed.hsp", weights="int8")
    loaded = hs.load(tmp_path / "mixed.hsp")
    assert sum(t.half for t in loaded.tensors.values()) == 1
    want = hs.Predictor(trainer.model(), 8, "int8")(photos(8))
    np.testing.assert_allclose(hs.Predictor(loaded, 8, "int8")(photos(8)), want, rtol=0.02, atol=0.02)


def test_onnx_files_keep_those_layers_out_of_8_bits(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    sizes = []
    for half in ((), ("bad.weight",)):
        hs.save(with_half(network(), half), tmp_path / "net.onnx", weights="int8")
        nodes = onnx.load(tmp_path / "net.onnx").graph.node
        sizes.append(sum(n.op_type == "DequantizeLinear" for n in nodes))
    assert sizes == [5, 4]


def test_data_may_be_batches_or_a_set() -> None:
    model, x = network(), photos(40)
    y = answers(model, x)
    batches = [(x[:16], y[:16]), (x[16:], y[16:])]
    sets = [(x, y), batches, hs.data.Arrays(x, y, shuffle=False)]
    found = [hs.mixed_precision(model, data, 0.05, order=["bad.weight", "project.weight"]) for data in sets]
    assert len({(f.float32, f.int8) for f in found}) == 1


def test_what_can_t_be_is_refused() -> None:
    model, x = network(), photos(8)
    y = answers(model, x)
    with pytest.raises(hs.OptionError, match="budget"):
        hs.mixed_precision(model, (x, y), budget=-0.1)
    with pytest.raises(hs.OptionError, match="names no weights"):
        hs.mixed_precision(model, (x, y), 0.0, order=["nothing.weight"])
    with pytest.raises(hs.OptionError, match="not one sample"):
        hs.mixed_precision(model, [], 0.1)
    with pytest.raises(hs.OptionError, match="it can be"):
        hs.mixed_precision(model, 3, 0.1)
    with pytest.raises(hs.OptionError, match="nothing to measure"):
        hs.sensitivity(model, x[:0])
    x = photos()
    with pytest.raises(hs.ModelError, match="16 bits in all 1 layers"):
        hs.mixed_precision(model, (x, answers(model, x)), 0.01, order=["stem.weight"])  # which is not to blame
