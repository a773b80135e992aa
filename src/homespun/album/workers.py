"""A pool of processes that decode photos, so that no file can stop, crash or fill up the album itself.

Between the scan and the embedder when indexing (`map`), and behind previews when serving (`render`). A process that
takes too long is killed, one that dies is replaced, and only the file that it had in hand is given up.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Self

from homespun.album.errors import AlbumError
from homespun.album.imaging import read
from homespun.album.imaging.photo import Limits, PhotoData, SeenBefore, Unreadable
from homespun.errors import OptionError

Path = str | bytes | os.PathLike[str]
Reading = PhotoData | SeenBefore | Unreadable

# One task in hand and one waiting in the pipe: a process never idles while its last result is fetched.
TASKS_PER_PROCESS = 2
# How far reading may run ahead of whoever takes the results, in photos per process.
AHEAD = 6
START_SECONDS = 60.0
FAILED_STARTS = 3

# One thread and one heap a process: the pool is the parallelism, and further heaps would reserve address space.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(slots=True)
class _Job:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    pipe: connection.Connection
    deadline: float
    ready: bool = False
    jobs: deque[_Job] = field(default_factory=deque)


class DecodePool:
    """Decodes in `processes` processes, started when first needed and let go after `idle_seconds` without work.

    Safe to use from several threads. `limits` are those of one photo.
    """

    def __init__(self, processes: int = 2, *, limits: Limits | None = None, idle_seconds: float = 60.0) -> None:
        if processes < 1:
            raise OptionError(f"a pool needs at least one process, not {processes}")
        self.processes = processes
        self.limits = limits or Limits.for_this_machine()
        self._idle_seconds = idle_seconds
        self._waiting: deque[_Job] = deque()
        self._turn = threading.Lock()
        self._closed = False
        self._workers: list[_Process] = []
        self._failed_starts = 0
        self._wake_up, self._woken = socket.socketpair()
        self._wake_up.setblocking(False)
        self._supervisor = threading.Thread(target=self._supervise, name="decode-pool", daemon=True)
        self._supervisor.start()

    # What callers use

    def read(self, path: Path, seen: Collection[str] = ()) -> Reading:
        """Read one photo; see `map`."""
        return _reading(self.submit(read.read_unless_seen, path, tuple(seen), self.limits))

    def map(
        self, paths: Iterable[Path], seen: Callable[[Path], Collection[str]] | None = None
    ) -> Iterator[tuple[Path, Reading]]:
        """Read photos as they are asked for, a few ahead; yields each path with what came of it, in any order.

        `seen` gives, for a path, hashes of contents that need no decoding: such a file comes back as `SeenBefore`.
        """
        finished: queue.SimpleQueue[tuple[Path, Future[Any]]] = queue.SimpleQueue()
        coming = iter(paths)
        in_flight = 0
        exhausted = False
        while True:
            while not exhausted and in_flight < AHEAD * self.processes:
                try:
                    path = next(coming)
                except StopIteration:
                    exhausted = True
                    break
                hashes = tuple(seen(path)) if seen else ()
                future = self.submit(read.read_unless_seen, path, hashes, self.limits)
                future.add_done_callback(lambda done, path=path: finished.put((path, done)))  # type: ignore[misc]
                in_flight += 1
            if not in_flight:
                return
            path, done = finished.get()
            in_flight -= 1
            yield path, _reading(done)

    def render(self, path: Path, long_side: int) -> bytes:
        """A preview as JPEG bytes (`imaging.render`), ahead of photos that wait to be indexed. Raises `Unreadable`."""
        if not 1 <= long_side <= read.LARGEST_PREVIEW:
            raise OptionError(f"a preview's long side must be 1 to {read.LARGEST_PREVIEW} pixels, not {long_side}")
        rendered: bytes = self.submit(read.render, path, long_side, self.limits, urgent=True).result()
        return rendered

    def submit(self, function: Callable[..., Any], *arguments: Any, urgent: bool = False) -> Future[Any]:
        """Have a module-level function called in a process of the pool.

        The future raises `Unreadable` if the function does, and with the reasons "timeout" and "crashed" if its process
        had to be killed or died; `AlbumError` if no process can be started or the pool is closed.
        """
        job = _Job(function, arguments)
        job.future.set_running_or_notify_cancel()  # it can't be cancelled: a process may have begun with it
        with self._turn:
            if self._closed:
                raise AlbumError("the decode pool is closed")
            if urgent:
                self._waiting.appendleft(job)
            else:
                self._waiting.append(job)
        self._wake()
        return job.future

    def close(self) -> None:
        """Kill the processes; what was not finished fails with `AlbumError`. Safe to call twice."""
        with self._turn:
            self._closed = True
        self._wake()
        self._supervisor.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The supervisor's thread: the only one that touches the processes

    def _wake(self) -> None:
        with suppress(OSError):  # it has been woken often enough already, or is gone
            self._wake_up.send(b"\0")

    def _supervise(self) -> None:
        try:
            while not self._closed:
                self._hand_out()
                self._listen()
        finally:
            error = AlbumError("the decode pool was closed before this photo was read")
            for worker in self._workers:
                _end(worker)
                for job in worker.jobs:
                    job.future.set_exception(error)
            self._workers.clear()
            with self._turn:
                self._closed = True
                for job in self._waiting:
                    job.future.set_exception(error)
                self._waiting.clear()
            self._wake_up.close()
            self._woken.close()

    def _hand_out(self) -> None:
        while self._waiting:
            idlest = min((w for w in self._workers if w.ready), key=lambda w: len(w.jobs), default=None)
            if idlest is None or idlest.jobs:
                self._start_if_room()
            if idlest is None or len(idlest.jobs) >= TASKS_PER_PROCESS:
                return
            with self._turn:
                job = self._waiting.popleft()
            try:
                idlest.pipe.send((job.function, job.arguments))
            except OSError:  # it died; this job was not begun
                with self._turn:
                    self._waiting.appendleft(job)
                self._bury(idlest, "crashed")
                continue
            if not idlest.jobs:
                idlest.deadline = time.monotonic() + self.limits.seconds
            idlest.jobs.append(job)

    def _listen(self) -> None:
        """Wait for results, deaths, deadlines or new work, and see to each."""
        working = [worker for worker in self._workers if worker.jobs or not worker.ready]
        nearest = min((worker.deadline for worker in working), default=time.monotonic() + self._idle_seconds)
        pipes: dict[Any, _Process] = {worker.pipe: worker for worker in self._workers}
        ready = connection.wait([self._woken, *pipes], max(0.0, nearest - time.monotonic()))
        if self._woken in ready:
            self._woken.recv(4096)
        for pipe in ready:
            if pipe is not self._woken:
                self._receive(pipes[pipe])
        now = time.monotonic()
        for worker in working:
            if worker in self._workers and now >= worker.deadline and (worker.jobs or not worker.ready):
                self._bury(worker, "timeout")
        if not ready and not working and self._workers:
            for worker in self._workers:
                _end(worker)
            self._workers.clear()

    def _receive(self, worker: _Process) -> None:
        try:
            kind, value = worker.pipe.recv()
        except Exception:  # noqa: BLE001 - it is gone, or a file has overwritten its memory and it sends nonsense
            self._bury(worker, "crashed")
            return
        if kind == "ready":
            worker.ready = True
            self._failed_starts = 0
            return
        future = worker.jobs.popleft().future
        worker.deadline = time.monotonic() + self.limits.seconds
        if kind == "done":
            future.set_result(value)
        elif kind == "unreadable":
            future.set_exception(Unreadable(*value))
        else:
            future.set_exception(Unreadable("crashed", str(value).strip().splitlines()[-1]))

    def _bury(self, worker: _Process, reason: str) -> None:
        """Remove a process that died or must; give up the task it had in hand, keep the one that waited for it."""
        self._workers.remove(worker)
        code = _end(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                self._give_up(f"the processes that decode photos can't be started ({sys.executable} ended with {code})")
            return
        if not worker.jobs:
            return
        job = worker.jobs.popleft()
        with self._turn:
            self._waiting.extendleft(reversed(worker.jobs))
        if reason == "timeout" or code == -signal.SIGALRM:
            job.future.set_exception(Unreadable("timeout", f"after {self.limits.seconds:g} seconds"))
        else:
            job.future.set_exception(Unreadable("crashed", _how_it_ended(code)))

    def _give_up(self, message: str) -> None:
        self._failed_starts = 0
        with self._turn:
            lost = list(self._waiting)
            self._waiting.clear()
        for job in lost:
            job.future.set_exception(AlbumError(message))

    def _start_if_room(self) -> None:
        starting = sum(not worker.ready for worker in self._workers)
        if len(self._workers) >= self.processes or starting >= len(self._waiting):
            return
        try:
            worker = _start(self.limits)
        except OSError as error:
            if not self._workers:
                self._give_up(f"the processes that decode photos can't be started: {error}")
            return
        self._workers.append(worker)


def _start(limits: Limits) -> _Process:
    ours, theirs = socket.socketpair()
    with theirs:
        # Not multiprocessing's own way, which runs the caller's main module again in each process.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from homespun.album.imaging.worker import main; main({theirs.fileno()})"
        )
        popen = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # decoders' libraries talk there
            env={**os.environ, **_ENVIRONMENT},
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is the caller's business
        )
    pipe = connection.Connection(ours.detach())
    with suppress(OSError):  # if it is dead already, that shows when it is listened to
        pipe.send(limits)
    return _Process(popen, pipe, time.monotonic() + START_SECONDS)


def _end(worker: _Process) -> int:
    """Kill a process that is not dead yet; the code that it ended with."""
    worker.pipe.close()
    worker.popen.kill()
    try:
        return worker.popen.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        return 0  # stuck in the kernel, on a drive that does not answer: the system ends it when it can


def _reading(future: Future[Any]) -> Reading:
    try:
        reading: PhotoData | SeenBefore = future.result()
    except Unreadable as error:
        return error
    return reading


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the decoder ended with {code}"
    if code == -signal.SIGKILL:
        return "the system ended the decoder, as it does when memory runs out"
    return f"the decoder was stopped by {signal.Signals(-code).name}"
