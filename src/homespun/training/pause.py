"""Pausing a trainer between two kernels, from any thread or signal handler, with or without giving its memory back.

All programs of a trainer, those of its frozen part included, run through its `PauseSwitch`, one at a time.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, get_ident
from typing import Protocol

from homespun import _native
from homespun.compile.training import BEGIN_AGAIN, Kept
from homespun.errors import HomespunError
from homespun.graph import Array

#: What Ctrl-C and handlers of signals raise in the middle of a program.
INTERRUPTS = (KeyboardInterrupt, SystemExit)


class Pausable(Protocol):
    """A program that can stand still at any instruction, and go on when its arena has been given back meanwhile."""

    program: _native.Program

    def settled_before(self, at: int) -> bool:
        """Whether the instructions before `at` have changed nothing that outlives the run."""

    def set_aside(self, at: int) -> Kept:
        """What is needed to go on at instruction `at` when the arena has been given back."""


class InferenceProgram:
    """A program that only computes outputs: given back, it begins again."""

    def __init__(self, program: _native.Program) -> None:
        self.program = program

    def settled_before(self, at: int) -> bool:
        return True

    def set_aside(self, at: int) -> Kept:
        return BEGIN_AGAIN


class PauseSwitch:
    """Runs programs so that they can be paused; knows whether one runs, and who runs it."""

    def __init__(self) -> None:
        self._programs: list[weakref.ref[Pausable]] = []
        self._changed = Condition()
        self.requested = False
        self._release = False
        self._finishing = False  # the step that stood still goes on to its end, the pause after it
        self._held = 0  # readers that need the state as it is
        self._runner: int | None = None  # the thread that is inside a program
        self._still = self._released = False  # it stands still; the arenas are given back
        self._settled = True
        self._interruption: BaseException | None = None
        #: Called by the thread that trains when it has come to stand still.
        self.listeners: list[Callable[[], None]] = []

    @property
    def settled(self) -> bool:
        """Whether what outlives the program that runs, if one does, is as it was before it. Meaningful while it stands
        still."""
        return self._settled

    def add(self, compiled: Pausable) -> None:
        """Make a program known, for as long as somebody else holds it. A pause that holds already holds for it too."""
        self._programs = [r for r in self._programs if r() is not None] + [weakref.ref(compiled)]
        if self.requested:
            compiled.program.pause()

    def _known(self) -> Iterator[_native.Program]:
        return (compiled.program for r in list(self._programs) if (compiled := r()) is not None)

    def pause(self, release_memory: bool, timeout: float | None) -> bool:
        """Ask for a pause and wait for it; see `Trainer.pause`."""
        self._release = self._release or release_memory
        self.requested = True
        for program in self._known():
            program.pause()
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
        for program in self._known():
            program.resume()
        if self._runner != get_ident():
            with self._changed:
                self._changed.notify_all()

    def finish(self) -> None:
        """Let the step that stands still go on to its end, where `finished` is called; the pause goes on from there."""
        with self._changed:
            if self._still:
                self._finishing = True
                self._changed.notify_all()

    def finished(self) -> None:
        """The thread that trains has come to the end of a step."""
        if not self._finishing:
            return
        with self._changed:
            self._finishing = False
            if self.requested:
                for program in self._known():
                    program.pause()
                if self._release:
                    self._give_back()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether the thread that trains stands still; if so it does not go on inside the block, resumed or not."""
        with self._changed:
            held = self._still
            self._held += held
        try:
            yield held
        finally:
            with self._changed:
                self._held -= held
                self._changed.notify_all()

    def run(self, compiled: Pausable, arrays: Sequence[Array]) -> None:
        """Run a program to its end, standing still whenever a pause is asked for.

        An interruption (Ctrl-C) before anything has changed is raised at once. Later the program is finished first, and
        `raise_interruption` raises it when the caller has accounted for that.
        """
        with self._changed:
            self._runner = get_ident()
        try:
            self._walk(compiled, arrays)
        finally:
            with self._changed:
                self._runner, self._still, self._released, self._settled = None, False, False, True
                self._changed.notify_all()

    def raise_interruption(self) -> None:
        """Raise what interrupted a program that was finished all the same."""
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            raise interruption

    def _walk(self, compiled: Pausable, arrays: Sequence[Array]) -> None:
        at, end = 0, len(compiled.program)
        kept: Kept | None = None  # how to go on, if the arena has been given back
        while True:
            try:
                if kept is not None and self._restored(compiled, arrays, kept):
                    at, kept = kept.at, None
                if kept is None:
                    at = compiled.program.run(arrays, at, False)
            except INTERRUPTS as interruption:
                if kept is None:
                    at = compiled.program.reached
                self._interrupt(interruption, compiled.settled_before(at))
            if at == end and kept is None:
                return
            kept = self._stand_still(compiled, at, kept)

    def _interrupt(self, interruption: BaseException, settled: bool) -> None:
        if settled or self._interruption is not None:
            raise interruption
        self._interruption = interruption
        self.resume()

    @staticmethod
    def _restored(compiled: Pausable, arrays: Sequence[Array], kept: Kept) -> bool:
        """Make the arena what it was; False if a pause came between."""
        kept.take_out(compiled.program)
        for start, end in [(0, kept.replay), *((i, i + 1) for i in kept.repeat)]:
            if compiled.program.run(arrays, start, False, end) < end:
                return False
            kept.put_back(compiled.program)  # after every part, since parts use memory that copies belong to
        return True

    def _stand_still(self, compiled: Pausable, at: int, kept: Kept | None) -> Kept | None:
        """Wait for the end of a pause before instruction `at`; returns how to go on if the arena has been given back,
        now or (`kept`) before."""
        told = False
        with self._changed:
            self._settled = compiled.settled_before(at)
            while (self.requested and not self._finishing) or self._held:
                if self._release and not self._released:
                    kept = kept or compiled.set_aside(at)
                    kept.give_back(compiled.program)
                    self._give_back(but=compiled.program)
                    self._released = True
                self._still = True
                self._changed.notify_all()
                try:
                    if not told:
                        told = True
                        self._tell()
                    self._changed.wait(0.01)  # a signal handler resumes without waking anybody
                except INTERRUPTS as interruption:
                    self._interrupt(interruption, self._settled)
            self._still = self._released = False
            if self._finishing:
                for program in self._known():
                    program.resume()
        return kept

    def _tell(self) -> None:
        """Call the listeners, the lock let go meanwhile."""
        self._changed.release()
        try:
            for listener in list(self.listeners):
                listener()
        except (HomespunError, OSError) as error:  # a disk that is full, say: not in the middle of a step
            self._interrupt(error, self._settled)
        finally:
            self._changed.acquire()

    def _give_back(self, but: _native.Program | None = None) -> None:
        for program in self._known():
            if program is not but:
                program.release_arena()
