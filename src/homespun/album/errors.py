"""Errors of the album: what can go wrong with a library, a photo, a topic or a change, in words that say what to do.

All are `HomespunError`, so that a caller (command line, web) needs one clause to show them to people.
"""

from homespun.errors import HomespunError


class AlbumError(HomespunError):
    """Base of everything that the album raises on purpose."""


class LibraryError(AlbumError):
    """The album's data folder is missing, damaged, or made by a newer Homespun."""


class LibraryBusyError(LibraryError):
    """Another program holds the data folder for writing. `address` is where it serves the album, "" if it does not."""

    def __init__(self, message: str, *, address: str = "") -> None:
        super().__init__(message)
        self.address = address


class StorageFullError(LibraryError):
    """The disk has no room; nothing that was stored before is lost."""


class PhotoError(AlbumError):
    """No such photo, or its file cannot be read now."""


class TopicError(AlbumError):
    """No such topic, or a name that cannot be used."""


class ChangeError(AlbumError):
    """No such change, or one that cannot be undone."""


class SearchError(AlbumError):
    """A date, place, order or page that cannot be searched for."""


class RefiningError(AlbumError):
    """The network cannot be refined now, or there is nothing to go back to."""
