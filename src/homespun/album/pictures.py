"""What people see of a photo: its thumbnail, a preview of any size, the original.

`Album` asks for these when a page does. Originals are decoded in processes of their own (`workers.DecodePool`).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from homespun.album.disk import write_file
from homespun.album.errors import PhotoError
from homespun.album.search import require_photos
from homespun.album.store import Store

if TYPE_CHECKING:
    from homespun.album.workers import DecodePool

THUMBNAIL_SIDE = 480


class Pictures:
    """Pictures of a library's photos. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._decoders: DecodePool | None = None

    def close(self) -> None:
        """End the processes that decode. Safe to call twice."""
        with self._turn:
            if self._decoders is not None:
                self._decoders.close()
                self._decoders = None

    def thumbnail(self, photo_id: int) -> Path:
        """See `Album.thumbnail_path`."""
        with self._store.reader() as connection:
            require_photos(connection, [photo_id])
            row = connection.execute("SELECT content_hash FROM photo WHERE id = ?", (photo_id,)).fetchone()
        path = self._store.thumbnail_path(row[0])
        # A power cut soon after indexing can leave an empty file behind.
        if not path.exists() or path.stat().st_size == 0:
            write_file(path, self.render(photo_id, THUMBNAIL_SIDE))
        return path

    def render(self, photo_id: int, long_side: int) -> bytes:
        """See `Album.render`."""
        from homespun.album.workers import DecodePool

        path = self.original(photo_id)
        with self._turn:
            if self._decoders is None:
                self._decoders = DecodePool()
            decoders = self._decoders
        return decoders.render(path, long_side)

    def original(self, photo_id: int) -> Path:
        """A file that holds the photo now. Raises `PhotoError` if it has none."""
        with self._store.reader() as connection:
            require_photos(connection, [photo_id])
            query = "SELECT path FROM file WHERE photo_id = ? AND vanished = 0 ORDER BY length(path), path"
            paths = [Path(os.fsdecode(row[0])) for row in connection.execute(query, (photo_id,))]
        for path in paths:
            if path.exists():
                return path
        raise PhotoError(f"photo {photo_id} has no file now; index the album again when its drive is back")
