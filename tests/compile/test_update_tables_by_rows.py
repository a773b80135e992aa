"""Tables of embeddings that are updated by rows: the same bit for bit as with their whole gradient, less memory."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim
from homespun.compile import training
from homespun.compile.autodiff import GraphExtension
from homespun.graph import Array, Graph
from homespun.training import Trainer
from homespun.zoo.tinybert import Size

VOCABULARY, WIDTH, WORDS = 203, 37, 6
TABLE = np.random.default_rng(1).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
OPTIMIZERS = [
    optim.SGD(0.1),
    optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.Adam(0.01, weight_decay=0.01, clip_value=0.003),
    optim.AdamW(0.01, weight_decay=0.1),
    optim.RMSprop(0.01, momentum=0.5),
    optim.Adagrad(0.1),
    optim.Lion(0.01),
]


def bag_of_words() -> Graph:
    build = hs.GraphBuilder("words")
    ids = build.input("ids", (WORDS,), "int32")
    x = build.op("embedding", ids, build.parameter("table", TABLE))
    return build.build(build.linear(build.op("flatten", build.op("tanh", x)), "classifier", WORDS * WIDTH, 3))


def words(seed: int) -> tuple[Array, Array]:
    """Some words come often, most never; the table's first and last are among those that come."""
    random = np.random.default_rng(seed)
    ids = random.choice([0, 5, 6, 7, 100, VOCABULARY - 1], (8, WORDS)).astype(np.int32)
    return ids, random.integers(0, 3, 8)


def trained(optimizer: optim.Optimizer, **options: object) -> Trainer:
    trainer = Trainer(bag_of_words(), losses.CrossEntropy(), optimizer, batch=8, average=0.9, **options)  # type: ignore[arg-type]
    for seed in range(4):
        trainer.step(*words(seed))
    return trainer


def operators(trainer: Trainer) -> set[str]:
    return {n.op for n in trainer._main_program().graph.nodes}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("isa", _native.isas())
def test_the_update_is_that_of_the_whole_gradient(
    optimizer: optim.Optimizer, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_rows = {threads: trained(optimizer, isa=isa, threads=threads) for threads in (1, 3)}
    monkeypatch.setattr(training, "update_tables_by_rows", lambda graph: False)
    for threads, trainer in by_rows.items():
        whole = trained(optimizer, isa=isa, threads=threads)
        assert "embedding_gradient" in operators(whole)
        assert "embedding_gradient" not in operators(trainer)
        found = {**trainer.parameters(), **trainer.training_state()}
        for name, value in {**whole.parameters(), **whole.training_state()}.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_the_arena_does_not_hold_the_whole_gradient(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def arena() -> int:
        model = hs.zoo.tinybert(layers=2, sequence=8, vocabulary=5000, size=Size(width=24, heads=2, hidden=32))
        trainer = Trainer(model, losses.CrossEntropy(), optim.AdamW(1e-3), batch=2, precision=precision)
        return trainer.memory.arena

    by_rows = arena()
    monkeypatch.setattr(training, "update_tables_by_rows", lambda graph: False)
    assert by_rows < 0.25 * 5000 * 24 * 4 < 5000 * 24 * 4 <= arena()


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"optimizer": optim.SGD(0.1, clip_norm=1.0)}], ids=str)
def test_a_gradient_that_others_read_stays_whole(options: dict[str, object]) -> None:
    given = {"optimizer": optim.SGD(0.1), "batch": 8, **options}
    trainer = Trainer(bag_of_words(), losses.CrossEntropy(), **given)  # type: ignore[arg-type]
    expected = Trainer(bag_of_words(), losses.CrossEntropy(), batch=16, optimizer=given["optimizer"])  # type: ignore[arg-type]
    x, y = (np.concatenate([a, b]) for a, b in zip(words(0), words(1), strict=True))
    if "accumulate" not in options:
        x, y = words(0)
        assert "embedding_gradient" in operators(trainer)
    trainer.step(x, y)
    expected.step(x, y)
    for name, value in expected.parameters().items():
        np.testing.assert_allclose(trainer.parameters()[name], value, atol=1e-6, err_msg=name)


def test_a_row_that_is_not_finite_leaves_the_table_alone() -> None:
    def steep_at_ones(build: GraphExtension, outputs: list[str], targets: list[str]) -> str:
        return build.add("reduce_mean", [build.add("sqrt", [build.add("square", [outputs[0]])])], axes=(0, 1))

    build = hs.GraphBuilder("words")
    ids = build.input("ids", (WORDS,), "int32")
    table = np.ones((VOCABULARY, 4), np.float32)
    table[VOCABULARY - 1, 2] = 0
    model = build.build(build.op("flatten", build.op("embedding", ids, build.parameter("table", table))))
    trainer = Trainer(model, steep_at_ones, optim.Adam(0.1), batch=8, threads=3)
    x, _ = words(0)
    assert (x == VOCABULARY - 1).any()
    with pytest.raises(hs.TrainingError, match="nothing was updated"):
        trainer.step(x, np.zeros((8, WORDS * 4), np.float32))
    np.testing.assert_array_equal(trainer.parameters()["table"], table)
    assert not any(v.any() for v in trainer.optimizer_state().values())
