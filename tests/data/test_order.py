"""Orders and splits: permutations, the same for the same seed, stable when samples are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import homespun as hs
from homespun.data.order import chance, shuffled, split_by_class


@given(st.integers(0, 300), st.integers(0, 10), st.integers(0, 10))
def test_an_order_has_every_sample_once(count: int, seed: int, epoch: int) -> None:
    order = shuffled(count, seed, epoch)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, shuffled(count, seed, epoch))


def test_orders_are_those_of_every_release() -> None:
    """A checkpoint of another machine, or an older release, relies on these."""
    assert shuffled(8, 0, 0).tolist() == FIRST
    assert shuffled(8, 0, 1).tolist() == SECOND


FIRST = [3, 2, 1, 6, 0, 7, 4, 5]
SECOND = [7, 4, 5, 1, 6, 2, 0, 3]


def test_chance_differs_in_everything_that_names_it() -> None:
    draws = {float(chance(*names).random()) for names in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)]}
    assert len(draws) == 5


@given(st.lists(st.sampled_from("abc"), min_size=4, max_size=60), st.floats(0.05, 0.6), st.integers(0, 5))
def test_a_split_takes_its_share_of_each_class(classes: list[str], share: float, seed: int) -> None:
    keys = [f"{name}/{i}" for i, name in enumerate(classes)]
    train, held = split_by_class(keys, classes, share, seed)
    assert sorted([*train, *held]) == list(range(len(keys)))
    for name in set(classes):
        total = classes.count(name)
        validating = sum(classes[i] == name for i in held)
        assert validating < total
        if total > 1:
            assert validating >= 1
            assert abs(validating - share * total) <= 1


def test_samples_that_come_later_hardly_move_the_others() -> None:
    keys = [f"{i:04d}.jpg" for i in range(300)]
    few = keys[::2]
    before = {few[i] for i in split_by_class(few, ["a"] * len(few), 0.2, 0)[1]}
    after = {keys[i] for i in split_by_class(keys, ["a"] * len(keys), 0.2, 0)[1]}
    assert len(before & after) > 0.7 * len(before)


def test_nothing_to_split_is_said() -> None:
    with pytest.raises(hs.OptionError, match="more than one sample"):
        split_by_class(["a", "b"], ["a", "b"], 0.2, 0)
    with pytest.raises(hs.OptionError, match="between 0 and 1"):
        split_by_class(["a", "b"], ["a", "a"], 1.0, 0)
