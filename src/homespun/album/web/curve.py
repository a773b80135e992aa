"""A line over time as the points of an inline SVG: geometry only, the template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# In the units of the SVG's viewBox; texts stand left of the plot and below it.
WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 20, 52


class Dot(NamedTuple):
    """A point of the line."""

    x: float
    y: float


class Line(NamedTuple):
    """A height that is marked across the plot, with the share that it stands for."""

    y: float
    share: float


def level(share: float) -> float:
    """The height of a share of 0 to 1."""
    return round(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), 1)


def marks() -> list[Line]:
    return [Line(level(share), share) for share in (0.0, 0.5, 1.0)]


def dots(shares: Sequence[float], weights: Sequence[int]) -> list[Dot]:
    """A dot for each share, in the middle of its part of the width; parts are as wide as their weights."""
    total, before, placed = sum(weights), 0, []
    for share, weight in zip(shares, weights, strict=True):
        x = LEFT + (before + weight / 2) / total * (WIDTH - LEFT - RIGHT)
        placed.append(Dot(round(x, 1), level(share)))
        before += weight
    return placed
