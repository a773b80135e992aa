"""The process that refines, seen from the album: started, told to make way, and heard.

`Refining` starts one for each run. Whoever asks the album for something must not wait for it: on Linux the kernel stops
it at once, and it gets only short turns until it has given its memory back; then it lies still until it may go on.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from homespun.album.errors import AlbumError, RefiningError, StorageFullError

WORKER = "homespun.album.refining_worker"
QUIET_SECONDS = 20.0
"""How long nobody must have looked at the album before a run goes on."""
TURN_SECONDS = 0.01
"""How long a process that should lie still may run at a time, to get there in good order."""
SECONDS_BETWEEN_TURNS = 0.2
PR_SET_PDEATHSIG = 1
"""Of Linux: which signal a process gets when its parent dies (prctl(2))."""
CAN_STOP = sys.platform == "linux"
"""Whether a process that was stopped still learns that its parent died; else it is only asked to stand still."""

OnProgress = Callable[[str, float], None]


class RefiningProcess:
    """A run's process, and what it says. `make_way` and `end` may be called from any thread."""

    def __init__(self, data_dir: Path, folder: Path, champion: Path | None, on_progress: OnProgress) -> None:
        command = [sys.executable, "-m", WORKER, str(data_dir), str(folder)]
        self._process = subprocess.Popen(
            command + ([str(champion)] if champion else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for us, who end it in good order; and a group of its own to stop
        )
        self._on_progress = on_progress
        self._said = threading.Lock()
        self._resume_at: float | None = None
        self._asked = 0.0
        self._pause = 0  # the number of the last pause, so that an answer to one before is not taken for its own
        self._still, self._changed, self._over = threading.Event(), threading.Event(), threading.Event()
        self._ending = False
        self.phase, self.share = "looking", 0.0
        self.damaged = False
        """Whether it failed because a file of the run is not what it wrote: no use going on with that."""
        self.pause_milliseconds: list[float] = []
        """How long it took in each pause until its memory was given back."""

    @property
    def pid(self) -> int:
        """The process's id, which is its group's, too."""
        return self._process.pid

    @property
    def paused(self) -> bool:
        """Whether it was asked to stand still."""
        return self._resume_at is not None

    def run(self, stop: threading.Event) -> bool:
        """Wait for its end; False if it was stopped. Raises `RefiningError`, `StorageFullError`."""
        threading.Thread(target=self._attend, args=(stop,), daemon=True).start()
        problem, kind = "", ""
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                if "error" in said:
                    problem, kind = said["error"], said["kind"]
                    self.damaged = kind == "FormatError"
                elif "phase" in said:
                    self.phase, self.share = said["phase"], said["share"]
                    self._on_progress(self.phase, self.share)
                elif said.get("paused") == self._pause:
                    self.pause_milliseconds.append(1000 * (time.perf_counter() - self._asked))
                    self._still.set()
        except BaseException:
            self.end()
            raise
        finally:
            with self._said:
                self._over.set()
                self._changed.set()
        code = self._process.wait()
        if code == 3 or (code < 0 and self._ending):
            return False
        if code != 0:
            how = "was killed" if code < 0 else "failed (its log is above)"
            error: type[AlbumError] = StorageFullError if kind == StorageFullError.__name__ else RefiningError
            raise error(problem or f"the process that refines {how}; what it had done is kept: try again")
        return True

    def make_way(self) -> None:
        """Stop it, and let it go on once nobody has asked for a while. Returns at once."""
        with self._said:
            if not self._still.is_set():
                self._signal(signal.SIGSTOP)
            if self._resume_at is None:
                self._asked = time.perf_counter()
                self._pause += 1
                self._say(f"pause {self._pause}")
            self._resume_at = time.monotonic() + QUIET_SECONDS
            self._changed.set()

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        with self._said:
            self._ending = True
            self._say("stop")
            self._signal(signal.SIGCONT)
            self._resume_at = None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def _attend(self, stop: threading.Event) -> None:
        """Give it turns while it should lie still and does not, wake it when nobody has asked for a while."""
        while not self._over.is_set():
            self._changed.clear()
            with self._said:
                if stop.is_set():
                    self._say("stop")
                    self._go_on()
                elif self._resume_at is not None and time.monotonic() >= self._resume_at:
                    self._say("resume")
                    self._go_on()
                paused = self._resume_at is not None
            if paused and not self._still.is_set():
                if self._over.wait(SECONDS_BETWEEN_TURNS):
                    break
                self._give_turn()
            else:
                self._changed.wait(0.2)

    def _give_turn(self) -> None:
        with self._said:
            self._signal(signal.SIGCONT)
        self._still.wait(TURN_SECONDS)
        with self._said:
            if self._resume_at is not None:
                self._signal(signal.SIGSTOP)

    def _go_on(self) -> None:
        self._resume_at = None
        self._still.clear()
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the process and those that decode for it. The lock is held."""
        if CAN_STOP and not self._over.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended already
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()


def go_on_when_abandoned() -> None:
    """Called in the process: let it go on when the album's process dies while it is stopped, so that it can end."""
    if CAN_STOP:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT))
