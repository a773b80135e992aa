"""TinyBERT against the paper's sizes and a recording of the `transformers` package
(tools/record_transformer_goldens.py), its heads, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.graph import Graph, infer
from homespun.graph.operator import attributes, operator
from homespun.zoo.tinybert import Size
from tests.zoo.made import made_weights, samples

GOLDEN = Path(__file__).parent / "goldens" / "tinybert.npz"
SMALL: dict[str, Any] = {"layers": 2, "size": Size(12, 3, 20), "sequence": 7, "vocabulary": 50}
WIDE: dict[str, Any] = {"sequence": 16, "vocabulary": 200}


def words(count: int = 2, length: int = 7, vocabulary: int = 50) -> list[np.ndarray]:
    """(ids, mask, types): every other sample ends in padding."""
    random = np.random.default_rng(3)
    ids = random.integers(0, vocabulary, (count, length)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[1::2, -2:] = 0
    return [ids, mask, (np.arange(length) >= length // 2).astype(np.int32) * np.ones_like(ids)]


def operations(graph: Graph) -> int:
    """Floating-point operations of linear layers and attention, for one sample."""
    types = infer(graph)
    found = 0
    for node in graph.nodes:
        if node.op in ("linear", "attention"):
            ins = [types[n] if n else None for n in node.inputs]
            found += operator(node).cost(attributes(node), ins, [types[node.outputs[0]]]).flops
    return found


# The paper's table 1: 14.5 million parameters and 1.2 billion operations, 67.0 million and 11.3 billion, 128 tokens.
# Exactly, as `sum(p.numel() for p in transformers.BertModel(config).parameters())`: 14,350,248 and 66,955,008.
@pytest.mark.parametrize(("layers", "parameters", "billions"), [(4, 14_350_248, 1.2), (6, 66_955_008, 11.3)])
def test_sizes_are_those_of_the_paper(layers: int, parameters: int, billions: float) -> None:
    graph = hs.zoo.tinybert(layers=layers, head="none")
    assert sum(p.size for p in graph.parameters().values()) == parameters
    assert operations(graph) / 1e9 == pytest.approx(billions, rel=0.05)


# Section 4.2 of the paper: 4 layers, 312 channels, 1200 in between; 6 layers, 768, 3072; 12 heads.
@pytest.mark.parametrize(("layers", "width", "hidden"), [(4, 312, 1200), (6, 768, 3072)])
def test_shapes_are_those_of_the_paper(layers: int, width: int, hidden: int) -> None:
    graph = hs.zoo.tinybert(layers=layers, head="masked_lm")
    types = infer(graph)
    assert types["embeddings.norm"].shape == (1, 128, width)
    assert len([n for n in graph.nodes if n.op == "attention"]) == layers
    for i in range(layers):
        assert types[f"layers.{i}.attention"].shape == types[f"layers.{i}.norm"].shape == (1, 128, width)
        assert types[f"layers.{i}.gelu"].shape == (1, 128, hidden)
    assert {n.attributes["heads"] for n in graph.nodes if n.op == "attention"} == {12}
    assert types["logits"].shape == (1, 128, 30522)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def state_of(golden: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return made_weights({n: tuple(s) for n, s in json.loads(str(golden[f"{part}/shapes"])).items()})


@pytest.mark.parametrize("head", ["none", "classification", "masked_lm"])
def test_outputs_are_those_of_the_reference(head: str, golden: dict[str, np.ndarray]) -> None:
    graph = hs.zoo.tinybert(**SMALL, head=head, classes=3, weights=state_of(golden, head))
    found = hs.Predictor(graph, batch=2)(*words())
    for i, out in enumerate(found if isinstance(found, tuple) else (found,)):
        np.testing.assert_allclose(out, golden[f"{head}/{i}"], rtol=1e-4, atol=1e-4, err_msg=graph.outputs[i])


@pytest.mark.parametrize("layers", [4, 6])
def test_every_layer_in_full_width_is_the_reference_s(layers: int, golden: dict[str, np.ndarray]) -> None:
    graph = hs.zoo.tinybert(**WIDE, layers=layers, head="none", weights=state_of(golden, f"wide {layers}"))
    graph.outputs = ["embeddings.norm", *(f"layers.{i}.norm" for i in range(layers)), "features"]
    *found, features = hs.Predictor(graph, batch=2)(*words(2, WIDE["sequence"], WIDE["vocabulary"]))
    for made, want, name in zip(found, golden[f"wide {layers}/layers"], graph.outputs, strict=False):
        np.testing.assert_allclose(samples(made), want, rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(features, golden[f"wide {layers}/features"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("trainable", ["all", "head", "last:2"])
@pytest.mark.parametrize("layers", [4, 6])
def test_its_whole_its_head_and_its_last_layers_learn(layers: int, trainable: str, precision: str) -> None:
    options = SMALL | {"layers": layers, "dropout": 0.0}
    model = hs.zoo.tinybert(**options, classes=2, seed=2, weights=acquainted(layers))
    x, y = words(32), np.arange(32) % 2
    rate = {"all": 0.003, "head": 0.1, "last:2": 0.01}[trainable]
    trainer = hs.Trainer(
        model, hs.losses.CrossEntropy(), hs.optim.AdamW(rate), batch=32, precision=precision, trainable=trainable
    )
    before = trainer.parameters()
    losses = [trainer.step(x, y).loss for _ in range(40)]
    assert losses[-1] < losses[0] * {"all": 0.05, "head": 0.9, "last:2": 0.5}[trainable]
    moved = {n for n, v in trainer.parameters().items() if not np.array_equal(v, before[n])}
    first = {"all": "embeddings.", "head": "classifier.", "last:2": f"layers.{layers - 2}."}[trainable]
    names = list(before)
    assert moved == set(trainer.trainable) == set(names[next(i for i, n in enumerate(names) if n.startswith(first)) :])


def acquainted(layers: int) -> dict[str, np.ndarray]:
    """Weights that tell words apart, as trained ones do: those that the network begins with are all but nothing."""
    golden = dict(np.load(GOLDEN))
    of = {n: tuple(s) for n, s in json.loads(str(golden["classification/shapes"])).items()}
    made: dict[str, tuple[int, ...]] = {}
    for name, shape in of.items():
        for i in range(layers) if "layer.0." in name else [0]:
            if "layer.1." not in name:
                made[name.replace("layer.0.", f"layer.{i}.")] = (2, *shape[1:]) if "classifier" in name else shape
    return made_weights(made)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_classifier_learns_its_samples_by_heart(precision: str) -> None:
    model = hs.zoo.tinybert(**SMALL, classes=2, seed=2)
    x, y = words(32), np.arange(32) % 2
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.AdamW(0.01), batch=32, precision=precision)
    losses = [trainer.step(x, y).loss for _ in range(40)]
    assert np.median(losses[-10:]) < 0.1 < losses[0]  # in any one step dropout may take what decides


def test_a_masked_language_model_learns_what_is_not_ignored() -> None:
    x = words(16)
    labels = np.where(np.random.default_rng(0).random(x[0].shape) < 0.3, x[0], -100)
    model = hs.zoo.tinybert(**SMALL, head="masked_lm", dropout=0.0)
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(ignore=-100), hs.optim.Adam(0.01), batch=16)
    losses = [trainer.step(x, labels).loss for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(50), rel=0.05)
    assert losses[-1] < 0.3
    table = trainer.parameters()["embeddings.words.weight"]
    assert (table != model.data("embeddings.words.weight")).any(axis=1).all()  # every word is a candidate


def test_the_loss_of_guessed_words_is_a_mean_over_those_that_are_masked() -> None:
    """Without a single weight every word is as likely: ln 50. Two words of eight are asked; a bias decides them."""
    model = hs.zoo.tinybert(**SMALL, head="masked_lm", dropout=0.0)
    for name, value in model.parameters().items():
        model.tensors[name].data = np.zeros_like(value)
    model.tensors["masked_lm.bias"].data[7] = np.log(3.0)  # word 7: 3 in 52, all others 1 in 52
    x, labels = words(2), np.full((2, 7), -100)
    labels[0, 1], labels[1, 3] = 7, 8
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(ignore=-100), hs.optim.SGD(1.0), batch=2)
    gradient = trainer.compute_gradients(x, labels)["masked_lm.bias"]
    np.testing.assert_allclose(gradient[[7, 8, 9]], [3 / 52 - 1 / 2, 1 / 52 - 1 / 2, 1 / 52], rtol=1e-5)
    assert trainer.step(x, labels).loss == pytest.approx((np.log(52 / 3) + np.log(52)) / 2)
    nothing = trainer.step(x, np.full((2, 7), -100))
    assert nothing.loss == 0.0


def test_a_spliced_head_trains_alone() -> None:
    model = hs.splice(hs.zoo.tinybert(**SMALL, head="none"), ["bad", "good"])
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.5), batch=8, trainable="head")
    before = trainer.parameters()
    losses = [trainer.step(words(8), np.arange(8) % 2).loss for _ in range(20)]
    assert losses[-1] < losses[0]
    changed = [n for n, v in trainer.parameters().items() if (v != before[n]).any()]
    assert changed and all(n.startswith("head.") for n in changed)


def test_padding_changes_nothing() -> None:
    predict = hs.Predictor(hs.zoo.tinybert(**SMALL), batch=2)
    ids, mask, types = words()
    other = np.where(mask == 0, (ids + 1) % 50, ids).astype(np.int32)
    np.testing.assert_array_equal(predict(ids, mask, types), predict(other, mask, types))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 5, "size": None}, "published are 4, 6"),
        ({"head": "regression"}, "'classification', 'masked_lm', 'none'"),
        ({"sequence": 513}, "1 to 512"),
        ({"classes": 0}, "classes"),
    ],
)
def test_wrong_options_say_what_is_possible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(hs.OptionError, match=message):
        hs.zoo.tinybert(**{**SMALL, **options})


@pytest.mark.parametrize("bad", [-1, 50])
def test_a_word_that_is_not_in_the_table_is_named(bad: int) -> None:
    ids, mask, types = words()
    ids[1, 2] = bad
    with pytest.raises(hs.ShapeError, match=rf"'ids': id {bad} is out of range, ids are 0 to 49"):
        hs.Predictor(hs.zoo.tinybert(**SMALL))(ids, mask, types)
