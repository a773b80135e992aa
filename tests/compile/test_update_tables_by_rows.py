"""Tables of embeddings that are updated by rows: the same bit for bit as with their whole gradient, less memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim
from homespun.compile import training
from homespun.compile.autodiff import GraphExtension
from homespun.graph import Array, Graph
from homespun.training import Trainer
from homespun.zoo.tinybert import Size
from tests.compile.optimizers import OPTIMIZERS

VOCABULARY, WIDTH, WORDS = 203, 37, 6
TABLE = np.random.default_rng(1).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)


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


LARGE = 40_000  # words, of 64 channels: 10 MB for each state


def resident(states: list[Array]) -> int:
    """Bytes of these arrays that are in memory: of whose pages somebody has written to."""
    pages, found = Path("/proc/self/pagemap"), 0
    size = 4096
    with pages.open("rb") as file:
        for state in states:
            first, last = state.ctypes.data // size, (state.ctypes.data + state.nbytes - 1) // size
            file.seek(first * 8)
            entries = np.frombuffer(file.read((last - first + 1) * 8), np.uint64)
            exclusive = (entries >> np.uint64(56)) & np.uint64(1)  # the page of zeros is everybody's
            found += int(((entries >> np.uint64(63)) & exclusive).sum()) * size
    return found


def large(optimizer: optim.Optimizer) -> Trainer:
    build = hs.GraphBuilder("words")
    x = build.embedding(build.input("ids", (WORDS,), "int32"), "words", LARGE, 64)
    model = build.build(build.linear(build.op("flatten", x), "classifier", WORDS * 64, 3))
    return Trainer(model, losses.CrossEntropy(), optimizer, batch=8)


def states_of(trainer: Trainer) -> list[Array]:
    return [v for n, v in trainer.optimizer_state(copy=False).items() if "/words.weight/" in n]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the system's page tables")
def test_words_that_never_came_have_states_that_take_no_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    trainer = large(optim.AdamW(1e-3, weight_decay=0.1))
    for _ in range(3):
        trainer.step(random.integers(0, LARGE, (8, WORDS)).astype(np.int32), random.integers(0, 3, 8))
    states = states_of(trainer)
    most = 2 * 3 * 8 * WORDS * 2 * 4096  # two states, three batches, up to two pages a word
    assert sum(int(np.abs(s).any(axis=1).sum()) for s in states) > 200
    assert 0 < resident(states) <= most < sum(s.nbytes for s in states) / 8

    trainer.save_checkpoint(tmp_path / "checkpoint.hsp")
    restored = Trainer.from_checkpoint(tmp_path / "checkpoint.hsp")
    again = states_of(restored)
    for ours, theirs in zip(again, states, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 0 < resident(again) <= most

    everywhere = large(optim.Adam(1e-3, weight_decay=0.1))  # decay that is part of the gradient moves all rows
    everywhere.step(np.zeros((8, WORDS), np.int32), random.integers(0, 3, 8))
    assert all(s.any(axis=1).all() for s in states_of(everywhere))


def test_states_go_back_to_zero_where_a_checkpoint_has_zeros() -> None:
    trainer = trained(optim.AdamW(0.01))
    before = trainer.optimizer_state()
    trainer.step(*words(9))
    trainer.load_optimizer_state({n: np.zeros_like(v) for n, v in before.items()})
    assert not any(v.any() for v in trainer.optimizer_state().values())
    trainer.load_optimizer_state(before)
    for name, value in trainer.optimizer_state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
