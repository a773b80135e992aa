"""What unlabelled photos of a library add to topics of which a family showed only a few.

A direction made from one photo is vague; photos that stand out as belonging to it make it sharper. This is average
query expansion (Chum, Philbin, Sivic, Isard and Zisserman, "Total Recall", ICCV 2007), but the photos are chosen by how
far they prefer the topic to all others rather than by how near they are. `head` asks for it; `TopicLearner.observe`
brings the photos. A pure function of both, so that learning stays exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.learning.space import BLOCK, Floats

MOST = 15
"""Photos that expand a topic, at most."""
WORTH = 3.0
"""How many shown photos those count like, taken together."""
LEAD = np.float32(0.08)
"""A photo has to fit the topic this much better than any other one (cosine)."""
FIT = np.float32(0.45)
"""A photo has to fit the topic this well: else, of photos that fit nothing, some would lead by chance."""
ROUNDS = 2
"""How often photos are chosen anew, from the directions that the last choice made."""


@dataclass(frozen=True)
class Library:
    """Unlabelled photos beside built-in topics, whose fits never change and are kept.

    `pieces` are coordinates (n, d) of unit length, which may lie in a file; `rows` maps a photo's key to its row among
    all of them. For each row, `first` is the best fit of a built-in topic, `topic` which one (-1 for none), and
    `second` the best fit of any other.
    """

    pieces: tuple[Floats, ...]
    rows: Mapping[str, int]
    first: Floats
    topic: npt.NDArray[np.intp]
    second: Floats

    @classmethod
    def beside(cls, builtin: Floats, pieces: Sequence[Floats], keys: Sequence[str]) -> Library:
        """A library of photos with `keys`, row by row of `pieces`, beside built-in directions (T, d)."""
        count = sum(len(piece) for piece in pieces)
        first, second = (np.full(count, -1, np.float32) for _ in range(2))
        topic = np.full(count, -1, np.intp)
        library = cls(tuple(pieces), {key: row for row, key in enumerate(keys)}, first, topic, second)
        if len(builtin):
            for rows, block in library.blocks():
                near = builtin @ block.T
                best = near.argmax(axis=0)
                columns = np.arange(len(block))
                topic[rows] = best
                first[rows] = near[best, columns]
                near[best, columns] = -1
                second[rows] = near.max(axis=0)
        return library

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Rows and their coordinates, so many at a time that what is made of them stays in the processor's cache."""
        start = 0
        for piece in self.pieces:
            for begin in range(0, len(piece), BLOCK):
                block = piece[begin : begin + BLOCK]
                yield slice(start, start + len(block)), block
                start += len(block)


def leads(library: Library, directions: Floats, bonus: Floats, owner: npt.NDArray[np.intp]) -> Iterator[Floats]:
    """How far each photo prefers a topic to all others, (T, n) for block after block; -1 where it fits too little.

    `directions` (T, d) are the family's, `bonus` (T,) is added to their fits, and `owner` (T,) is the built-in topic
    that each belongs to, -1 for a topic of the family's own: two directions of one topic don't compete.
    """
    count = len(directions)
    for rows, block in library.blocks():
        near = directions @ block.T
        near += bonus[:, None]
        rival = np.where(library.topic[rows] == owner[:, None], library.second[rows], library.first[rows])
        if count > 1:
            top = near.argmax(axis=0)
            columns = np.arange(near.shape[1])
            best = near[top, columns]
            near[top, columns] = -1
            next_best = near.max(axis=0)
            near[top, columns] = best
            np.maximum(rival, np.where(np.arange(count)[:, None] == top, next_best, best), out=rival)
        near -= np.where(near >= FIT, rival, near + 1)
        yield near


def chosen(library: Library, lead: Iterable[Floats], known: Iterable[str]) -> list[npt.NDArray[np.intp]]:
    """For each topic the rows of the `MOST` photos that prefer it most, and by `LEAD` at least; ascending.

    `known` are keys of photos of which the family said something: those speak for themselves.
    """
    whole = np.concatenate(list(lead), axis=1)
    whole[:, [library.rows[key] for key in known if key in library.rows]] = -1
    result = []
    for row in whole:
        enough = np.flatnonzero(row >= LEAD)
        if len(enough) > MOST:
            enough = enough[np.argsort(-row[enough], kind="stable")[:MOST]]
        result.append(np.sort(enough))
    return result


def take(library: Library, rows: npt.NDArray[np.intp]) -> Floats:
    """Coordinates (n, d) of the photos in `rows`, which ascend."""
    parts, start = [], 0
    for piece in library.pieces:
        inside = rows[(rows >= start) & (rows < start + len(piece))] - start
        parts.append(piece[inside])
        start += len(piece)
    return np.concatenate(parts)
