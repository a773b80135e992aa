"""The memory plan: one arena, offsets known before the program runs.

A buffer lives from the call that first writes it to the last that reads it. Two buffers may share bytes when their
lives do not meet. Finding the smallest arena is NP-hard (it is dynamic storage allocation); placing buffers greedily at
the lowest offset that fits, under several orders, comes within a few percent of the lower bound, which is the largest
sum of sizes alive at one moment. Pure functions over integers; nothing here knows of graphs or kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homespun import _native

ALIGNMENT = 64
#: Arenas so much larger than their lower bound are improved, in at most so many rounds.
CLOSE, _ROUNDS = 1.02, 24

Life = tuple[int, int, int]  # size, first and last call of a buffer


@dataclass(frozen=True)
class Buffer:
    """Bytes that are needed from call `first` to call `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offsets of the buffers, in the order given; `size` of the arena; `lower_bound` that no plan can beat."""

    offsets: tuple[int, ...]
    size: int
    lower_bound: int


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of the arena."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest number of bytes alive during one call."""
    change: dict[int, int] = {}
    for b in buffers:
        change[b.first] = change.get(b.first, 0) + aligned(b.size)
        change[b.last + 1] = change.get(b.last + 1, 0) - aligned(b.size)
    peak = live = 0
    for at in sorted(change):
        live += change[at]
        peak = max(peak, live)
    return peak


def plan(buffers: Sequence[Buffer]) -> Plan:
    """Offsets for all buffers: the best of several greedy orders, the first that meets the lower bound. Where none
    comes close, the buffers at the top of the arena are placed earlier, again and again."""
    bound = lower_bound(buffers)
    lives = [(aligned(b.size), b.first, b.last) for b in buffers]
    largest = max((b.size for b in buffers), default=0)
    best: tuple[int, list[int]] = (0, [])
    best_order: list[int] = []
    for key in _ORDERS if buffers else ():
        order = sorted(range(len(buffers)), key=lambda i: key(buffers[i], largest))
        offsets, size = _place(lives, order)
        if not best_order or size < best[0]:
            best, best_order = (size, offsets), order
        if size == bound:
            break
    if best[0] > CLOSE * bound:
        best = _improve(lives, best_order, best, bound)
    return Plan(tuple(best[1]), best[0], bound)


def _improve(lives: Sequence[Life], order: list[int], best: tuple[int, list[int]], bound: int) -> tuple[int, list[int]]:
    """The best of some rounds. Each places earlier what was at the top in the one before: first of all, or, every other
    time, just before the neighbour that it lies on; one alone often runs in circles."""
    size, offsets = best
    for turn in range(_ROUNDS):
        for i in [i for i in order if offsets[i] + lives[i][0] == size and lives[i][0]]:
            at = order.index(i)
            earlier = [k for k in range(at) if _meet(lives[order[k]], lives[i])]
            order.insert(earlier[-1] if earlier and turn % 2 else 0, order.pop(at))
        offsets, size = _place(lives, order)
        best = min(best, (size, offsets))
        if best[0] <= CLOSE * bound:
            break
    return best


def _meet(a: Life, b: Life) -> bool:
    return a[1] <= b[2] and b[1] <= a[2]


def _area(b: Buffer) -> int:
    return b.size * (b.last - b.first + 1)


#: By the buffer and the size of the largest. The order that most often meets the bound comes first, since a plan is
#: made each time that a program is compiled: what is small and lives long first of all, or it splits others' gaps.
_ORDERS: tuple[Callable[[Buffer, int], tuple[int, ...]], ...] = (
    lambda b, largest: (b.size * 64 >= largest or b.last - b.first <= 20, -_area(b), b.first),
    lambda b, _: (-_area(b), b.first),
    lambda b, _: (b.first - b.last, -b.size),
    lambda b, _: (-b.size, b.first),
    lambda b, largest: (b.size * 64 >= largest, -_area(b), b.first),
    lambda b, _: (b.first, -b.size),
    lambda b, _: (-b.last, -b.size),
)


def _place(lives: Sequence[Life], order: Sequence[int]) -> tuple[list[int], int]:
    """Place buffers one by one, each into the tightest gap between those placed that live at the same time: (offsets,
    where the last ends)."""
    offsets = _native.place(lives, order)
    return offsets, max(o + life[0] for o, life in zip(offsets, lives, strict=True))
