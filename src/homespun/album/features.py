"""All features of a library as one matrix that scoring can run over without filling memory.

The database is the truth; this is a copy of it in a file beside it that is mapped into memory, so that the system
can drop pages of it whenever it needs the room. Photos that came since the file was written wait in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homespun.album.store import Store, explain_os_error

FOLDER = "features"

# Rows that are scored at a time: about 20 MB once widened to float32.
CHUNK = 4096

Ids = npt.NDArray[np.int64]
Features = npt.NDArray[np.float16]


class FeatureMatrix:
    """Features of one backbone by photo id. Not thread-safe; `Album` uses it with its change lock held."""

    def __init__(self, store: Store, backbone: str) -> None:
        self._store = store
        self._backbone = backbone
        name = hashlib.sha256(backbone.encode()).hexdigest()[:16]
        self._vectors_path = store.data_dir / FOLDER / f"{name}.float16"
        self._ids_path = store.data_dir / FOLDER / f"{name}.ids"
        stored = store.feature_ids(backbone)
        ids, mapped = self._map_file(stored)
        self._blocks: list[tuple[Ids, Features]] = [(ids, mapped)] if len(ids) else []
        missing = np.setdiff1d(stored, ids)
        for start in range(0, len(missing), CHUNK):
            self.add(*store.features(backbone, missing[start : start + CHUNK]))
            if not store.read_only:
                self.flush()

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._blocks)

    def chunks(self) -> Iterator[tuple[Ids, Features]]:
        """(ids (M,), features (M, D)) of all photos, at most `CHUNK` rows at a time."""
        for ids, vectors in self._blocks:
            for start in range(0, len(ids), CHUNK):
                yield ids[start : start + CHUNK], vectors[start : start + CHUNK]

    def get(self, photo_id: int) -> Features | None:
        """The feature (D,) of one photo, or None."""
        for ids, vectors in self._blocks:
            found = np.flatnonzero(ids == photo_id)
            if len(found):
                return vectors[found[0]]
        return None

    def add(self, ids: Ids, vectors: Features) -> None:
        """Take in new photos; those that are in already are left out."""
        known = [block for block, _ in self._blocks]
        new = ~np.isin(ids, np.concatenate(known)) if known else np.ones(len(ids), dtype=bool)
        if new.any():
            self._blocks.append((ids[new], vectors[new]))

    def flush(self) -> None:
        """Write what waits in memory to the file and map it again. Raises `StorageFullError`, `LibraryError`.

        Ids are written only once their features are on disk, so that a cut at any moment leaves whole rows.
        """
        waiting = [block for block in self._blocks if not isinstance(block[1], np.memmap)]
        if not waiting:
            return
        width = waiting[0][1].shape[1]
        written = len(self) - sum(len(ids) for ids, _ in waiting)
        try:
            self._vectors_path.parent.mkdir(exist_ok=True)
            if written == 0:
                # New files, not shorter ones: a reader may have the old ones mapped.
                self._ids_path.unlink(missing_ok=True)
                self._vectors_path.unlink(missing_ok=True)
            _write_at(self._vectors_path, written * width * 2, [vectors for _, vectors in waiting])
            _write_at(self._ids_path, written * 8, [ids for ids, _ in waiting])
        except OSError as error:
            raise explain_os_error(error, self._vectors_path) from error
        all_ids = np.concatenate([ids for ids, _ in self._blocks])
        mapped = np.memmap(self._vectors_path, dtype=np.float16, mode="r", shape=(len(all_ids), width))
        self._blocks = [(all_ids, mapped)]

    def _map_file(self, stored: Ids) -> tuple[Ids, Features]:
        """The rows of the file that are whole; none if the file is not a copy of the library."""
        nothing = np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float16)
        if not self._ids_path.exists() or not self._vectors_path.exists():
            return nothing
        ids = np.fromfile(self._ids_path, dtype=np.int64)
        if len(ids) == 0 or len(np.unique(ids)) != len(ids) or not np.isin(ids, stored).all():
            return nothing
        probes = np.unique(np.linspace(0, len(ids) - 1, 16).astype(np.int64))
        _, expected = self._store.features(self._backbone, ids[probes])
        width = expected.shape[1]
        if self._vectors_path.stat().st_size < len(ids) * width * expected.itemsize:
            return nothing
        mapped = np.memmap(self._vectors_path, dtype=np.float16, mode="r", shape=(len(ids), width))
        return (ids, mapped) if np.array_equal(mapped[probes], expected) else nothing


def _write_at(path: Path, offset: int, arrays: list[Ids] | list[Features]) -> None:
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(offset)
        stream.seek(offset)
        for array in arrays:
            array.tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())
