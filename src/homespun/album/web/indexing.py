"""How far an index run is, for pages to show while it runs; and a button's worth of starting one.

Whoever indexes while the server runs (the command line's `serve`, the watcher, or the API) reports to the
application's one `Indexing`; pages poll it through `GET /api/v1/indexing`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homespun.errors import HomespunError

if TYPE_CHECKING:
    from homespun.album import Album
    from homespun.album.indexer import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexingState:
    """Where an index run stands. `total` is None until all folders were walked; rates are over this run."""

    running: bool
    done: int = 0
    total: int | None = None
    photos_per_second: float | None = None
    seconds_left: float | None = None
    error: str | None = None


class Indexing:
    """The state of the running or last index run. Thread-safe."""

    def __init__(self, album: Album) -> None:
        self._album = album
        self._lock = threading.Lock()
        self._state = IndexingState(running=False)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def state(self) -> IndexingState:
        """A snapshot; cheap, as every open page asks for it again and again."""
        with self._lock:
            return self._state

    def on_progress(self, progress: Progress) -> None:
        """Take note of a report from `Album.index`; pass this as its `on_progress`."""
        with self._lock:
            self._state = IndexingState(
                running=True,
                done=progress.done,
                total=progress.total,
                photos_per_second=progress.photos_per_second,
                seconds_left=progress.seconds_left,
            )

    def finished(self, error: str | None = None) -> None:
        """Take note that the run is over."""
        with self._lock:
            self._state = IndexingState(running=False, done=self._state.done, total=self._state.total, error=error)

    def start(self) -> bool:
        """Read new photos of the remembered folders in the background; False if a run is under way already."""
        with self._lock:
            if self._state.running:
                return False
            self._state = IndexingState(running=True)
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="homespun-index", daemon=True)
            self._thread.start()
        return True

    def stop(self) -> None:
        """Ask a run that `start` began to end after the photos in hand, and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._album.index(on_progress=self.on_progress, stop=self._stop)
        except HomespunError as error:
            self.finished(str(error))
        except Exception:
            logger.exception("indexing failed")
            self.finished("internal error; see the server's log")
        else:
            self.finished()
