"""Rows that nobody reads are not computed, and what is read is the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.compile import training
from homespun.compile.passes import for_inference, select_rows_early
from homespun.graph import Array, Graph, infer
from homespun.graph.infer import flops
from homespun.training import Trainer
from homespun.zoo.tinybert import Size

TOKENS, WIDTH = 6, 10


def encoder(head: str = "classification", dropout: float = 0.0) -> Graph:
    size = Size(width=24, heads=2, hidden=40)
    return hs.zoo.tinybert(3, layers=2, head=head, sequence=TOKENS, dropout=dropout, vocabulary=50, size=size, seed=3)


def texts(batch: int = 4) -> tuple[list[Array], Array]:
    random = np.random.default_rng(1)
    mask = np.ones((batch, TOKENS), np.int32)
    mask[1, 4:] = 0
    ids = random.integers(0, 50, (batch, TOKENS)).astype(np.int32)
    return [ids, mask, np.zeros_like(ids)], random.integers(0, 3, batch)


def first(build: hs.GraphBuilder, x: str, stop: int = 1, start: int = 0) -> str:
    return build.op("slice", x, axis=1, start=start, stop=stop)


def table_of_positions(build: hs.GraphBuilder, x: str) -> list[str]:
    positions = build.parameter("positions", np.random.default_rng(2).standard_normal((TOKENS, WIDTH)))
    bias = build.parameter("bias", np.arange(WIDTH, dtype=np.float32))
    return [first(build, build.op("mul", build.op("add", x, positions), bias), 4, 2)]


def attention_to_itself(build: hs.GraphBuilder, x: str) -> list[str]:
    return [build.op("relu", first(build, build.op("attention", x, x, x, heads=2), 2))]


def one_slice_twice(build: hs.GraphBuilder, x: str) -> list[str]:
    y = build.layer_norm(build.linear(x, "layer", WIDTH, WIDTH), "norm", WIDTH)
    return [build.op("add", first(build, y), first(build, y)), first(build, y)]


def of_what_is_read_whole(build: hs.GraphBuilder, x: str) -> list[str]:
    y = build.linear(x, "layer", WIDTH, WIDTH)
    return [first(build, build.op("gelu", y)), y]


def of_a_shortcut(build: hs.GraphBuilder, x: str) -> list[str]:
    y = build.op("tanh", x)
    z = build.linear(build.op("gelu", build.linear(y, "a", WIDTH, 16)), "b", 16, WIDTH)
    return [build.op("sigmoid", first(build, build.op("add", z, y), 3))]


def two_slices(build: hs.GraphBuilder, x: str) -> list[str]:
    y = build.linear(x, "layer", WIDTH, WIDTH)
    return [first(build, y), first(build, y, 2, 1)]


def most_of_it(build: hs.GraphBuilder, x: str) -> list[str]:
    return [first(build, build.linear(x, "layer", WIDTH, WIDTH), 4)]


def of_an_output(build: hs.GraphBuilder, x: str) -> list[str]:
    y = build.linear(x, "layer", WIDTH, WIDTH)
    return [y, first(build, y)]


def of_channels(build: hs.GraphBuilder, x: str) -> list[str]:
    return [build.op("slice", build.linear(x, "layer", WIDTH, WIDTH), axis=2, start=0, stop=2)]


Make = Callable[[hs.GraphBuilder, str], list[str]]
MOVE: list[Make] = [
    table_of_positions, attention_to_itself, one_slice_twice, of_what_is_read_whole, of_a_shortcut
]  # fmt: skip
STAY: list[Make] = [two_slices, most_of_it, of_an_output, of_channels]


def built(make: Make) -> Graph:
    build = hs.GraphBuilder("rows", 0)
    return build.build(*make(build, build.input("x", (TOKENS, WIDTH))))


def run(graph: Graph, monkeypatch: pytest.MonkeyPatch, *inputs: Array) -> list[Array]:
    """The graph as it is, without the pass."""
    with monkeypatch.context() as patch:
        patch.setattr("homespun.compile.passes.inference.select_rows_early", lambda graph, types: False)
        found = hs.Predictor(graph, batch=inputs[0].shape[0])(*inputs)
    return list(found) if isinstance(found, (list, tuple)) else [found]


@pytest.mark.parametrize("make", MOVE, ids=lambda f: f.__name__)
def test_what_is_read_is_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = built(make)
    x = np.random.default_rng(0).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    wanted = run(graph, monkeypatch, x)
    small = graph.copy()
    assert select_rows_early(small, infer(small))
    assert small.outputs == graph.outputs
    assert flops(small) < flops(graph)
    for ours, theirs in zip(run(small, monkeypatch, x), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not select_rows_early(small, infer(small))


@pytest.mark.parametrize("make", STAY, ids=lambda f: f.__name__)
def test_what_is_read_otherwise_stays(make: Make) -> None:
    graph = built(make)
    before = [str(n) + str(n.inputs) for n in graph.nodes]
    assert not select_rows_early(graph, infer(graph))
    assert [str(n) + str(n.inputs) for n in graph.nodes] == before


def test_an_encoder_predicts_from_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, (x, _) = encoder(), texts()
    small = for_inference(graph)
    assert flops(small) < 0.7 * flops(graph)
    (wanted,) = run(graph, monkeypatch, *x)
    np.testing.assert_allclose(hs.Predictor(graph, batch=4)(*x), wanted, atol=1e-5)
    assert not select_rows_early(encoder("none"), infer(encoder("none")))  # all tokens are an output


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed", 3e-2)])
def test_an_encoder_learns_the_same(precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> tuple[dict[str, Array], int]:
        trainer = Trainer(encoder(), losses.CrossEntropy(), optim.SGD(0.1), batch=4, precision=precision)
        (x, y) = texts()
        return trainer.compute_gradients(x, y), trainer.memory.arena

    ours, arena = gradients()
    monkeypatch.setattr(training, "select_rows_early", lambda graph, types: False)
    wanted, whole = gradients()
    assert arena < whole
    least = 1e-4 * max(np.abs(v).max() for v in wanted.values())  # biases of keys have none but rounding
    for name, value in wanted.items():
        largest = max(np.abs(value).max(), least)
        np.testing.assert_allclose(ours[name], value, atol=tolerance * largest, err_msg=name)


def test_dropout_of_the_rows_that_are_left_drops_its_share() -> None:
    trainer = Trainer(encoder(dropout=0.5), losses.CrossEntropy(), optim.SGD(0.1), batch=4)
    (x, y), found = texts(), set()
    for _ in range(8):
        found.add(trainer.step(x, y).loss)
    assert len(found) == 8
