"""All photos of a library in the learner's own space, as one matrix that is scored in a fraction of a second.

Features in the database are the truth; these rows are made from them once, in a file that is mapped into memory, so
that the system can drop pages of it whenever it needs the room. Rows newer than the file wait in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homespun.album.disk import explain_os_error
from homespun.album.store import Store
from homespun.learning import TopicLearner

FOLDER = "features"

# Rows that are prepared or scored at a time: the working memory of either stays at some 20 MB.
CHUNK = 4096

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]


class PreparedPhotos:
    """`TopicLearner.prepare` of every photo's feature, by photo id. Belongs to a `Scoreboard`.

    Not safe to change from several threads.
    """

    def __init__(self, store: Store, backbone: str, learner: TopicLearner) -> None:
        self._store = store
        self._backbone = backbone
        self._learner = learner
        name = hashlib.sha256(f"{backbone} {space_of(learner)}".encode()).hexdigest()[:16]
        self._rows_path = store.data_dir / FOLDER / f"{name}.rows"
        self._ids_path = store.data_dir / FOLDER / f"{name}.ids"
        stored = store.feature_ids(backbone)
        ids, mapped = self._map_file(stored)
        self._blocks: list[tuple[Ids, Rows]] = [(ids, mapped)] if len(ids) else []
        missing = np.setdiff1d(stored, ids)
        for start in range(0, len(missing), CHUNK):
            self.add(*store.features(backbone, missing[start : start + CHUNK]))
            if not store.read_only:
                self.flush()

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._blocks)

    def chunks(self) -> Iterator[tuple[Ids, Rows]]:
        """(ids (M,), rows (M, d)) of all photos, at most `CHUNK` at a time."""
        for ids, rows in self._blocks:
            for start in range(0, len(ids), CHUNK):
                yield ids[start : start + CHUNK], rows[start : start + CHUNK]

    def pieces(self) -> tuple[Ids, list[Rows]]:
        """The ids (N,) of all photos, and their rows in one piece or several."""
        ids = [block for block, _ in self._blocks]
        return np.concatenate(ids) if ids else np.zeros(0, np.int64), [rows for _, rows in self._blocks]

    def take(self, ids: Ids) -> Rows:
        """The rows (M, d) of these photos, in this order; may be called while another thread adds photos.

        Every one of them must have been scored.
        """
        result = np.zeros((len(ids), self._learner.prepare(_probes(self._learner)[:1]).matrix.shape[1]), np.float32)
        for block_ids, rows in list(self._blocks):
            order = np.argsort(block_ids)
            places = np.searchsorted(block_ids, ids, sorter=order)
            places = order[np.minimum(places, len(order) - 1)]
            here = block_ids[places] == ids
            result[here] = rows[places[here]]
        return result

    def add(self, ids: Ids, features: npt.NDArray[np.float16]) -> None:
        """Take in new photos, ids (M,) and features (M, D); those that are in already are left out."""
        known = [block for block, _ in self._blocks]
        new = ~np.isin(ids, np.concatenate(known)) if known else np.ones(len(ids), dtype=np.bool_)
        if new.any():
            self._blocks.append((ids[new], self._learner.prepare(features[new]).matrix))

    def flush(self) -> None:
        """Write what waits in memory to the file and map it again. Raises `StorageFullError`, `LibraryError`.

        Ids are written only once their rows are on disk, so that a cut at any moment leaves whole rows.
        """
        waiting = [block for block in self._blocks if not isinstance(block[1], np.memmap)]
        if not waiting:
            return
        width = waiting[0][1].shape[1]
        written = len(self) - sum(len(ids) for ids, _ in waiting)
        try:
            self._rows_path.parent.mkdir(exist_ok=True)
            if written == 0:
                # New files, not shorter ones: a reader may have old ones mapped.
                for old in (self._rows_path, self._ids_path):
                    old.unlink(missing_ok=True)
            _write_at(self._rows_path, written * width * 4, [rows for _, rows in waiting])
            _write_at(self._ids_path, written * 8, [ids for ids, _ in waiting])
        except OSError as error:
            raise explain_os_error(error, self._rows_path) from error
        all_ids = np.concatenate([ids for ids, _ in self._blocks])
        mapped = np.memmap(self._rows_path, dtype=np.float32, mode="r", shape=(len(all_ids), width))
        self._blocks = [(all_ids, mapped)]

    def discard_others(self) -> None:
        """Remove files of other spaces, once nothing is scored in them any more."""
        if self._rows_path.parent.exists():
            for path in self._rows_path.parent.iterdir():
                if path not in (self._rows_path, self._ids_path):
                    path.unlink(missing_ok=True)

    def _map_file(self, stored: Ids) -> tuple[Ids, Rows]:
        """The rows of the file that are whole; none if the file is not made from this library."""
        nothing = np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
        if not self._ids_path.exists() or not self._rows_path.exists():
            return nothing
        ids = np.fromfile(self._ids_path, dtype=np.int64)
        if len(ids) == 0 or len(np.unique(ids)) != len(ids) or not np.isin(ids, stored).all():
            return nothing
        probes = np.unique(np.linspace(0, len(ids) - 1, 16).astype(np.int64))
        expected = self._learner.prepare(self._store.features(self._backbone, ids[probes])[1]).matrix
        width = expected.shape[1]
        if self._rows_path.stat().st_size < len(ids) * width * 4:
            return nothing
        mapped = np.memmap(self._rows_path, dtype=np.float32, mode="r", shape=(len(ids), width))
        return (ids, mapped) if np.allclose(mapped[probes], expected, rtol=1e-3, atol=1e-3) else nothing


def space_of(learner: TopicLearner) -> str:
    """A text that differs where `prepare` does: two learners with the same one can share prepared rows."""
    return _digest(learner.prepare(_probes(learner)).matrix)


def start_of(learner: TopicLearner) -> str:
    """A text that differs where what a learner knows does."""
    return _digest(learner.scores(_probes(learner))) + " ".join(learner.topics) + space_of(learner)


def _probes(learner: TopicLearner) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random((8, learner.dimensions), dtype=np.float32)


def _digest(values: npt.NDArray[np.float32]) -> str:
    # Rounded: machines differ in the last digits.
    return hashlib.sha256(np.round(values.astype(np.float64), 2).tobytes()).hexdigest()


def _write_at(path: Path, offset: int, arrays: list[Ids] | list[Rows]) -> None:
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(offset)
        stream.seek(offset)
        for array in arrays:
            array.tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())
