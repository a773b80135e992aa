"""The memory plan: properties over random lifetimes, and hand-made cases whose best plan is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homespun import _native
from homespun.compile.memory import ALIGNMENT, Buffer, aligned, lower_bound, plan

spans = st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 5000))
buffers = st.lists(spans.map(lambda s: Buffer(s[2], s[0], s[0] + s[1])), max_size=40)


def brute_force_bound(items: list[Buffer]) -> int:
    return max((sum(aligned(b.size) for b in items if b.first <= t <= b.last) for t in range(50)), default=0)


@given(buffers)
def test_buffers_that_live_together_never_overlap(items: list[Buffer]) -> None:
    layout = plan(items)
    for i, a in enumerate(items):
        assert layout.offsets[i] % ALIGNMENT == 0
        assert layout.offsets[i] + a.size <= layout.size
        for j in range(i):
            b = items[j]
            together = a.first <= b.last and b.first <= a.last
            apart = layout.offsets[i] + a.size <= layout.offsets[j] or layout.offsets[j] + b.size <= layout.offsets[i]
            assert apart or not together or a.size == 0 or b.size == 0


@given(buffers)
def test_the_lower_bound_is_the_largest_sum_alive(items: list[Buffer]) -> None:
    assert lower_bound(items) == brute_force_bound(items)
    assert plan(items).size >= plan(items).lower_bound


def test_a_chain_needs_only_two_neighbours() -> None:
    sizes = [640, 1280, 640, 2560, 64]
    chain = [Buffer(size, i, i + 1) for i, size in enumerate(sizes)]
    layout = plan(chain)
    assert layout.size == layout.lower_bound == 640 + 2560


def test_a_hole_is_filled_by_the_tightest_fit() -> None:
    items = [
        Buffer(640, 0, 0),
        Buffer(64, 0, 9),
        Buffer(1280, 0, 0),
        Buffer(64, 0, 9),
        Buffer(640, 1, 9),
        Buffer(1280, 1, 9),
    ]
    layout = plan(items)
    assert layout.size == layout.lower_bound


def test_nothing_to_plan() -> None:
    assert plan([]).size == 0


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [1, -1], [0, 1, 1]])
def test_an_order_that_leaves_buffers_out_or_names_one_twice_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="every buffer once"):
        _native.place([(64, 0, 1), (64, 0, 1)], order)
