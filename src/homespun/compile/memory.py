"""The memory plan: one arena, offsets known before the program runs.

A buffer lives from the call that first writes it to the last that reads it. Two buffers may share bytes when their
lives do not meet. Finding the smallest arena is NP-hard (it is dynamic storage allocation); placing buffers greedily at
the lowest offset that fits, under several orders, comes within a few percent of the lower bound, which is the largest
sum of sizes alive at one moment. Pure functions over integers; nothing here knows of graphs or kernels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homespun import _native

ALIGNMENT = 64
#: Arenas so much larger than their lower bound are improved, in at most so many rounds.
CLOSE, _ROUNDS = 1.02, 24
#: Where that leaves them further away than this, orders are tried at random, at most so many.
PROMISED, _TRIES = 1.05, 500

Life = tuple[int, int, int]  # size, first and last call of a buffer
Placed = tuple[int, list[int], list[int]]  # size of the arena, offsets, the order that gave them


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
    comes close, the buffers at the top of the arena are placed earlier, again and again, from the best order first; the
    few plans that are still not within `PROMISED` of the bound are improved by trial."""
    bound = lower_bound(buffers)
    lives = [(aligned(b.size), b.first, b.last) for b in buffers]
    largest = max((b.size for b in buffers), default=0)
    found: list[Placed] = []
    for key in _ORDERS if buffers else ():
        order = sorted(range(len(buffers)), key=lambda i: key(buffers[i], largest))
        offsets, size = _place(lives, order)
        found.append((size, offsets, order))
        if size == bound:
            break
    found.sort(key=lambda placed: placed[0])
    best = found[0] if found else (0, [], [])
    for start in found:
        if best[0] <= CLOSE * bound:
            break
        best = min(best, _improve(lives, start, bound), key=lambda placed: placed[0])
        if best[0] <= PROMISED * bound:
            break
    if best[0] > PROMISED * bound:
        best = _climb(lives, best, bound)
    return Plan(tuple(best[1]), best[0], bound)


def _improve(lives: Sequence[Life], start: Placed, bound: int) -> Placed:
    """The best of some rounds. Each places earlier what was at the top in the one before: first of all, or, every other
    time, just before the neighbour that it lies on; one alone often runs in circles."""
    size, offsets, order = start[0], start[1], list(start[2])
    best = start
    for turn in range(_ROUNDS):
        for i in [i for i in order if offsets[i] + lives[i][0] == size and lives[i][0]]:
            at = order.index(i)
            earlier = [k for k in range(at) if _meet(lives[order[k]], lives[i])]
            order.insert(earlier[-1] if earlier and turn % 2 else 0, order.pop(at))
        offsets, size = _place(lives, order)
        if size < best[0]:
            best = (size, offsets, list(order))
        if best[0] <= CLOSE * bound:
            break
    return best


def _climb(lives: Sequence[Life], start: Placed, bound: int) -> Placed:
    """Moves one buffer at a time to another place in the order, and keeps what makes the arena no larger, until it is
    as close to the bound as promised: mostly a large one that shares its life with the one at the top, or that one.
    The same buffers always get the same plan."""
    chance = random.Random(0)
    size, offsets, order = start
    large = max(life[0] for life in lives) // 32
    for _ in range(_TRIES):
        top = chance.choice([i for i in order if offsets[i] + lives[i][0] == size])
        beside = [i for i in order if lives[i][0] > large and _meet(lives[i], lives[top])]
        moved = chance.choice(beside) if beside and chance.random() < 0.7 else top
        tried = [i for i in order if i != moved]
        at = order.index(moved)
        tried.insert(chance.randrange(max(1, at) if chance.random() < 0.7 else len(order)), moved)
        placed, reached = _place(lives, tried)
        if reached <= size:
            size, offsets, order = reached, placed, tried
        if size <= PROMISED * bound:
            break
    return size, offsets, order


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
