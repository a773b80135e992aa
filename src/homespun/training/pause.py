"""Pausing a trainer between two kernels, from any thread, with or without giving its memory back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Condition, get_ident

from homespun.compile.training import TrainingProgram
from homespun.graph import Array


class PauseSwitch:
    """Runs programs so that they can be paused; knows which one runs, and who runs it."""

    def __init__(self) -> None:
        self._programs: list[TrainingProgram] = []
        self._changed = Condition()
        self.requested = False
        self._release = False
        self._runner: int | None = None  # the thread that is inside a program
        self._still = False  # it stands still, and the memory is given back if that was asked for

    def add(self, compiled: TrainingProgram) -> None:
        """Make a program known. A pause that holds already holds for it too."""
        self._programs.append(compiled)
        if self.requested:
            compiled.program.pause()

    def pause(self, release_memory: bool, timeout: float | None) -> bool:
        """Ask for a pause and wait for it; see `Trainer.pause`."""
        self.requested = True
        self._release = self._release or release_memory
        for compiled in self._programs:
            compiled.program.pause()
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._runner == get_ident():
            return False  # a signal handler or callback of the training thread: it holds once this thread goes on
        with self._changed:
            while self._runner is not None and not self._is_still():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
            if self._runner is None and self._release:
                self._give_back()
        return True

    def resume(self) -> None:
        """End the pause."""
        with self._changed:
            self.requested = self._release = False
            for compiled in self._programs:
                compiled.program.resume()
            self._changed.notify_all()

    def run(self, compiled: TrainingProgram, arrays: Sequence[Array]) -> None:
        """Run a program to its end, standing still whenever a pause is asked for."""
        with self._changed:
            self._runner = get_ident()
        try:
            self._walk(compiled, arrays)
        finally:
            with self._changed:
                self._runner, self._still = None, False
                self._changed.notify_all()

    def _walk(self, compiled: TrainingProgram, arrays: Sequence[Array]) -> None:
        at, end = 0, len(compiled.program)
        while at < end:
            at = compiled.program.run(arrays, at, False)
            if at < end:
                at = self._stand_still(compiled, arrays, at)

    def _stand_still(self, compiled: TrainingProgram, arrays: Sequence[Array], at: int) -> int:
        """Wait for the end of a pause; returns the instruction to go on with."""
        while True:
            with self._changed:
                if not self.requested:
                    return at
                released = self._release
                if released:
                    break
                self._still = True
                self._changed.notify_all()
                self._changed.wait(0.05)  # a signal handler may resume without a lock
        kept = compiled.set_aside(at)
        with self._changed:
            self._give_back()
            self._still = True
            self._changed.notify_all()
            while self.requested:
                self._changed.wait(0.05)
            self._still = False
        compiled.restore(kept)
        return at

    def _is_still(self) -> bool:
        return self._still

    def _give_back(self) -> None:
        for compiled in self._programs:
            compiled.program.release_arena()
