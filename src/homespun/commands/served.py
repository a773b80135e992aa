"""Asking the server that has an album open for what only it may do, as its own pages do.

`learn` uses it: a family that keeps the album on its TV must not stop it to have its network refined.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from homespun.album.errors import LibraryBusyError, RefiningError
from homespun.album.model import Refinement, TopicGain

SECONDS_BETWEEN_QUESTIONS = 0.5
SECONDS_TO_ANSWER = 60.0


class Served:
    """The album at an address that its server wrote into the album's lock (`LibraryBusyError.address`)."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def of(cls, busy: LibraryBusyError) -> Served:
        """Raises the error itself where no server holds the album."""
        if not busy.address:
            raise busy
        return cls(busy.address)

    def refine(self, on_progress: Callable[[str, float], None], stop: threading.Event) -> Refinement | None:
        """As `Refining.refine`, there. Raises `RefiningError` with what the server says."""
        before = self._refining()["last"]
        self._ask("POST", "/run")
        while (status := self._refining())["running"]:
            if stop.wait(SECONDS_BETWEEN_QUESTIONS):
                self._ask("POST", "/stop")
                return None
            on_progress("paused" if status["paused"] else status["phase"], status["share"])
        if status["problem"]:
            raise RefiningError(f"the refinement ended early ({status['problem']}); the server's log says more")
        if status["interrupted"] or status["last"] == before:
            return None  # ended there
        return _refinement(status["last"])

    def rollback(self) -> Refinement:
        """As `Refining.rollback`, there."""
        return _refinement(self._ask("POST", "/rollback"))

    def set_automatic(self, on: bool) -> None:
        """As `Refining.set_automatic`, there."""
        self._ask("POST", "/automatic", {"on": on})

    def _refining(self) -> dict[str, Any]:
        status: dict[str, Any] = self._ask("GET", "")
        return status

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        where = urlsplit(self.address)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS_TO_ANSWER)
        try:
            content = json.dumps(body or {}) if method == "POST" else None
            connection.request(method, f"/api/v1/refining{path}", content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RefiningError(
                f"the album is open in a server at {self.address}, which does not answer ({error}); "
                "if it has ended, the same command works again"
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise RefiningError(str(answer.get("detail", response.reason)))
        return answer


def _refinement(said: dict[str, Any]) -> Refinement:
    return Refinement(**{**said, "topics": [TopicGain(**gain) for gain in said["topics"]]})
