"""From a graph to a program: passes, schedule, memory plan, lowering."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.compile.compiler import MemoryReport as MemoryReport

_HOMES = {
    "MemoryReport": "compiler",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
