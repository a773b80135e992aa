"""The family photo album on top of the engine: sorts photos into topics, learns from corrections, needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homespun.album.album import Album

__all__ = ["Album"]


def __getattr__(name: str) -> object:
    # Importing `homespun.album.store` alone (a decode worker does) must not pull in everything.
    if name == "Album":
        from homespun.album.album import Album

        return Album
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
