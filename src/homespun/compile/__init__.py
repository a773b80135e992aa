"""From a graph to a program: passes, schedule, memory plan, lowering."""

from homespun.compile.compiler import MemoryReport

__all__ = ["MemoryReport"]
