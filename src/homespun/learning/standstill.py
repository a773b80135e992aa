"""Stopping everything that a process computes with the engine, at once, from another thread.

`Refiner` and what surrounds it run every network through one `Standstill`, and pass through it between pieces of work
that are not the engine's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import homespun as hs
from homespun.graph import Graph
from homespun.runtime import Predictor


class Stopped(Exception):  # noqa: N818 - it is no error
    """The work was asked to end; it goes on from there the next time."""


class Standstill:
    """Trainers and predictors that pause together. `pause`, `resume` and `stop` may be called from any thread."""

    def __init__(self, batch: int = 32, threads: int = 2) -> None:
        self._running = threading.Event()
        self._running.set()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        # Never trains: networks that it runs pause as training does.
        blank = hs.GraphBuilder("blank")
        blank_layer = blank.linear(blank.input("x", (1,)), "layer", 1, 1)
        self._runner = hs.Trainer(
            blank.build(blank_layer), hs.losses.MSE(), hs.optim.SGD(0.0), batch=batch, threads=threads
        )
        self._trainers = [self._runner]

    def pause(self) -> None:
        """Stand still between two kernels and give the arenas' memory back; returns when that is so."""
        with self._lock:
            self._running.clear()
            for trainer in self._trainers:
                trainer.pause(release_memory=True)

    def resume(self) -> None:
        """Go on exactly where `pause` stopped."""
        with self._lock:
            for trainer in self._trainers:
                trainer.resume()
            self._running.set()

    def stop(self) -> None:
        """Make the next `breathe` raise `Stopped`, and end a pause."""
        self._stopped.set()
        self.resume()

    def breathe(self) -> None:
        """Wait here while paused. Raises `Stopped` if the work is to end."""
        self._running.wait()
        if self._stopped.is_set():
            raise Stopped

    def predictor(self, model: Graph, weights: str = "int8") -> Predictor:
        """A predictor that pauses, too."""
        return self._runner.predictor(model, weights)

    @contextmanager
    def pausing(self, trainer: hs.Trainer) -> Iterator[None]:
        """Inside the block a trainer pauses with all others."""
        with self._lock:
            self._trainers.append(trainer)
            if not self._running.is_set():
                trainer.pause(release_memory=True)
        try:
            yield
        finally:
            with self._lock:
                self._trainers.remove(trainer)
