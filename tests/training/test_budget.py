"""Memory budgets: what fits is kept to, what does not is refused with the least that would do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from homespun import BudgetError, OptionError, losses, optim, zoo
from homespun.training import Trainer
from homespun.training.budget import as_bytes
from homespun.zoo.tinybert import Size
from tests.training.small import convolutional, images, perceptron, rows


def make(budget: int | str | None, model: object = None, batch: int = 8) -> Trainer:
    return Trainer(
        model or convolutional(size=32),  # type: ignore[arg-type]
        losses.CrossEntropy(),
        optim.SGD(0.1),
        batch=batch,
        memory_budget=budget,
    )


def taken(trainer: Trainer) -> int:
    return trainer.memory.arena + trainer.state_bytes


@pytest.mark.parametrize("share", [0.95, 0.85, 0.75])
def test_recomputing_gives_the_same_gradients_bit_for_bit(share: float) -> None:
    model = zoo.mobilenet_v2(classes=4, image_size=64, width=0.35, dropout=0.0)
    plenty = make(None, model)
    budget = int(share * taken(plenty))
    tight = make(budget, model)
    assert taken(tight) <= budget
    assert "again" in tight.compromises
    x, y = images(size=64)
    for _ in range(2):
        plenty.step(x, y)
        tight.step(x, y)
    for name, value in plenty.parameters().items():
        np.testing.assert_array_equal(value, tight.parameters()[name], err_msg=name)


def test_queries_keys_and_values_are_computed_again_within_a_budget() -> None:
    model = zoo.tinybert(layers=3, sequence=64, vocabulary=50, size=Size(128, 4, 128), dropout=0.1)
    plenty = make(None, model)
    tight = make(int(0.78 * taken(plenty)), model)
    again = {o for n in tight._main_program().graph.nodes for o in n.outputs if o.endswith("/again")}
    assert {f"layers.0.{part}/again" for part in ("query", "key", "value")} <= again
    ids = np.arange(8 * 64).reshape(8, 64).astype(np.int32) % 50
    for _ in range(2):
        for trainer in (plenty, tight):
            trainer.step([ids, np.ones_like(ids), np.zeros_like(ids)], np.arange(8) % 2)
    for name, value in plenty.parameters().items():
        np.testing.assert_array_equal(value, tight.parameters()[name], err_msg=name)


def test_a_split_batch_gives_the_same_update() -> None:
    plenty = make(None, perceptron(), batch=64)
    tight = make(int(0.7 * taken(plenty)), perceptron(), batch=64)
    assert re.search(r"\d+ samples at a time", tight.compromises)
    x, y = rows(64)
    for _ in range(3):
        a, b = plenty.step(x, y), tight.step(x, y)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
    for name, value in plenty.parameters().items():
        np.testing.assert_allclose(value, tight.parameters()[name], atol=1e-6)


@pytest.mark.parametrize(("size", "unit"), [(32, "kB"), (128, "MB")])
def test_too_small_a_budget_says_the_least_that_would_do(size: int, unit: str) -> None:
    model = convolutional(size=size)
    with pytest.raises(BudgetError, match=rf"takes ([\d.]+) {unit}") as caught:
        make("2kB", model)
    least = str(caught.value).rpartition("takes ")[2]
    assert np.isfinite(make(least, model).step(*images(size=size)).loss)


def test_the_least_is_that_of_the_whole_batch_where_a_split_one_takes_more() -> None:
    """Parameters weigh most here, and a split batch needs the sum of their gradients."""
    model = perceptron(inputs=400, classes=400)
    with pytest.raises(BudgetError, match="the whole batch at a time") as caught:
        make(1000, model, batch=8)
    least = str(caught.value).rpartition("takes ")[2]
    trainer = make(least, model, batch=8)
    assert taken(trainer) <= as_bytes(least) < taken(make(None, model, batch=8)) + 100
    assert "at a time" not in trainer.compromises
    with pytest.raises(BudgetError, match="one sample at a time"):
        make(1000)
    with pytest.raises(BudgetError, match="too small"):
        make(as_bytes(least) - 200, model, batch=8)


@pytest.mark.parametrize(
    ("text", "expected"), [("96MB", 96_000_000), ("1 GiB", 2**30), (".5kb", 500), ("77", 77), (123, 123)]
)
def test_budgets_are_read(text: int | str, expected: int) -> None:
    assert as_bytes(text) == expected


@pytest.mark.parametrize("text", ["much", "-3MB", "0", "3 apples", ""])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        as_bytes(text)
