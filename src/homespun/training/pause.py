"""Pausing a trainer between two kernels, from any thread, with or without giving its memory back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Condition, get_ident

from homespun.compile.training import Kept, TrainingProgram
from homespun.graph import Array


class PauseSwitch:
    """Runs programs so that they can be paused; knows whether one runs, and who runs it."""

    def __init__(self) -> None:
        self._programs: list[TrainingProgram] = []
        self._changed = Condition()
        self.requested = False
        self._release = False
        self._runner: int | None = None  # the thread that is inside a program
        self._still = self._released = False  # it stands still; the arenas are given back

    def add(self, compiled: TrainingProgram) -> None:
        """Make a program known. A pause that holds already holds for it too."""
        self._programs.append(compiled)
        if self.requested:
            compiled.program.pause()

    def pause(self, release_memory: bool, timeout: float | None) -> bool:
        """Ask for a pause and wait for it; see `Trainer.pause`."""
        self._release = self._release or release_memory
        self.requested = True
        for compiled in self._programs:
            compiled.program.pause()
        if self._runner == get_ident():
            return False  # a signal handler of the training thread: it holds as soon as this thread goes on
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._runner is not None and not (self._released if self._release else self._still):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
            if self._runner is None and self._release:
                self._give_back()
        return True

    def resume(self) -> None:
        """End the pause."""
        self.requested = self._release = False
        for compiled in self._programs:
            compiled.program.resume()
        if self._runner != get_ident():
            with self._changed:
                self._changed.notify_all()

    def run(self, compiled: TrainingProgram, arrays: Sequence[Array]) -> None:
        """Run a program to its end, standing still whenever a pause is asked for."""
        with self._changed:
            self._runner = get_ident()
        try:
            self._walk(compiled, arrays)
        finally:
            with self._changed:
                self._runner, self._still, self._released = None, False, False
                self._changed.notify_all()

    def _walk(self, compiled: TrainingProgram, arrays: Sequence[Array]) -> None:
        at, end = 0, len(compiled.program)
        while at < end:
            at = compiled.program.run(arrays, at, False)
            if at == end:
                return
            kept = self._stand_still(compiled, at)
            if kept is None:
                continue
            while not self._restored(compiled, arrays, kept):
                self._stand_still(compiled, 0)  # paused again while it computes again: from the start once more
            at = kept.at

    @staticmethod
    def _restored(compiled: TrainingProgram, arrays: Sequence[Array], kept: Kept) -> bool:
        """Make the arena what it was; False if a pause came between."""
        for start, end in [(0, kept.replay), *((i, i + 1) for i in kept.repeat)]:
            if compiled.program.run(arrays, start, False, end) < end:
                return False
            compiled.put_back(kept)  # after every part, since parts use memory that copies belong to
        return True

    def _stand_still(self, compiled: TrainingProgram, at: int) -> Kept | None:
        """Wait for the end of a pause; returns how to go on if the arena has been given back meanwhile."""
        kept: Kept | None = None
        with self._changed:
            while self._holds():
                if self._release and kept is None:
                    kept = compiled.set_aside(at)
                    self._give_back()
                    self._released = True
                self._still = True
                self._changed.notify_all()
                self._changed.wait(0.01)  # a signal handler resumes without waking anybody
            self._still = self._released = False
        return kept

    def _holds(self) -> bool:
        return self.requested

    def _give_back(self) -> None:
        for compiled in self._programs:
            compiled.program.release_arena()
