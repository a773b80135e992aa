"""Which questions to put to the family: photos that the album is probably wrong about, most useful first."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from homespun.album.scoring import Scoreboard


@dataclass(frozen=True, slots=True)
class Question:
    """A photo and a topic to ask about; `present` is what the album believes."""

    photo_id: int
    topic: str
    confidence: float
    present: bool
    reason: str


def questions(connection: sqlite3.Connection, board: Scoreboard, limit: int) -> list[Question]:
    """The most useful questions that were not asked yet."""
    return []
