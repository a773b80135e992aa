"""The memory plan: one arena, offsets known before the program runs.

A buffer lives from the call that first writes it to the last that reads it. Two buffers may share bytes when their
lives do not meet. Finding the smallest arena is NP-hard (it is dynamic storage allocation); placing buffers greedily at
the lowest offset that fits, under several orders, comes within a few percent of the lower bound, which is the largest
sum of sizes alive at one moment. Pure functions over integers; nothing here knows of graphs or kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
#: Arenas so much larger than their lower bound are improved, in at most so many rounds.
CLOSE, _ROUNDS = 1.02, 24


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
    sizes = [aligned(b.size) for b in buffers]
    neighbours = _neighbours(buffers)
    best: tuple[int, list[int]] | None = None
    best_order: list[int] = []
    for key in _ORDERS:
        order = sorted(range(len(buffers)), key=lambda i: key(buffers[i]))
        offsets, size = _place(sizes, neighbours, order)
        if best is None or size < best[0]:
            best, best_order = (size, offsets), order
        if size == bound:
            break
    size, offsets = best if best is not None else (0, [])
    if size > CLOSE * bound:
        size, offsets = _improve(sizes, neighbours, best_order, offsets, size, bound)
    return Plan(tuple(offsets), size, bound)


def _improve(
    sizes: Sequence[int], neighbours: Sequence[list[int]], order: list[int], offsets: list[int], size: int, bound: int
) -> tuple[int, list[int]]:
    """The best of some rounds. Each places earlier what was at the top in the one before: first of all, or, every other
    time, just before the neighbour that it lies on; one alone often runs in circles."""
    best = (size, offsets)
    for turn in range(_ROUNDS):
        for i in [i for i in order if offsets[i] + sizes[i] == size and sizes[i]]:
            at = order.index(i)
            below = set(neighbours[i])
            earlier = [k for k in range(at) if order[k] in below]
            order.insert(earlier[-1] if earlier and turn % 2 else 0, order.pop(at))
        offsets, size = _place(sizes, neighbours, order)
        best = min(best, (size, offsets))
        if best[0] <= CLOSE * bound:
            break
    return best


# The order that most often meets the bound comes first: a plan is made each time that a program is compiled.
_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size * (b.last - b.first + 1), b.first),
    lambda b: (b.first - b.last, -b.size),
    lambda b: (-b.size, b.first),
    lambda b: (b.first, -b.size),
    lambda b: (-b.last, -b.size),
)


def _neighbours(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer, the others that are alive at some moment of its life: all that it must not overlap."""
    neighbours: list[list[int]] = [[] for _ in buffers]
    alive: list[int] = []
    for i in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        alive = [j for j in alive if buffers[j].last >= buffers[i].first]
        for j in alive:
            neighbours[j].append(i)
        neighbours[i].extend(alive)
        alive.append(i)
    return neighbours


def _place(sizes: Sequence[int], neighbours: Sequence[list[int]], order: Sequence[int]) -> tuple[list[int], int]:
    """Place buffers one by one, each into the tightest gap between those placed that live at the same time."""
    offsets = [-1] * len(sizes)
    end = 0
    for i in order:
        size = sizes[i]
        cursor, best_offset, best_gap = 0, -1, 0
        for start, length in sorted([(offsets[j], sizes[j]) for j in neighbours[i] if offsets[j] >= 0]):
            gap = start - cursor
            if gap >= size and (best_offset < 0 or gap < best_gap):
                best_offset, best_gap = cursor, gap
            if start + length > cursor:
                cursor = start + length
        offsets[i] = best_offset if best_offset >= 0 else cursor
        end = max(end, offsets[i] + size)
    return offsets, end
