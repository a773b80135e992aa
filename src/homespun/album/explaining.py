"""Why photos moved: for each, the nearest of a family's examples that speaks for the move.

`Sorting` asks for it after each change, so that the pages can show "like this photo, of which you said so".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from homespun.album.corrections import Label
from homespun.album.features import PreparedPhotos
from homespun.album.model import Moved, Reason
from homespun.album.standing import Ids, Standing

Columns = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Sayings:
    """What people said or took back, saying by saying (S,): of which photo, which topic (its column), and what."""

    photo: Ids
    topic: Columns
    said: Booleans
    taken_back: Booleans

    def speak(self, column: int, entered: bool) -> Booleans:
        """Which of them (S,) speak for a photo having entered, or left, the topic of a column.

        That photos are in the topic speaks for it, that they are not in it, or are in another topic, against it; what
        was taken back speaks the other way.
        """
        pulls = self.said ^ self.taken_back
        other = self.said & (self.taken_back if entered else ~self.taken_back)
        return np.where(self.topic == column, pulls == entered, other)


def explain(
    standing: Standing, moves: Sequence[Moved], taken_back: Iterable[Label], photos: PreparedPhotos
) -> list[Moved]:
    """The same moves, that led to `standing`, with their reasons; `taken_back` is what the change said, if undone.

    A move of which nothing that was said speaks (a topic was removed, say) keeps None.
    """
    sayings = _collect(standing, taken_back)
    if not moves or not len(sayings.photo):
        return list(moves)
    columns = {topic.key: column for column, topic in enumerate(standing.topics)}
    examples, example = np.unique(sayings.photo, return_inverse=True)
    moved = photos.take(np.array([move.photo_id for move in moves], np.int64))
    likeness = moved @ photos.take(examples).T
    explained = []
    for move, alike in zip(moves, likeness, strict=True):
        speaking = np.flatnonzero(sayings.speak(columns[move.topic], move.after))
        if not len(speaking):
            explained.append(move)
            continue
        nearest = speaking[np.argmax(alike[example[speaking]])]
        reason = Reason(
            photo_id=int(sayings.photo[nearest]),
            topic=standing.topics[sayings.topic[nearest]].key,
            said=bool(sayings.said[nearest]),
            taken_back=bool(sayings.taken_back[nearest]),
        )
        explained.append(replace(move, because=reason))
    return explained


def _collect(standing: Standing, taken_back: Iterable[Label]) -> _Sayings:
    """All that holds, and what was taken back, of photos that the learner can see."""
    rows, columns = np.nonzero(standing.said)
    back = [
        (row, column, label.value > 0)
        for label in taken_back
        if (row := standing.row(label.photo_id)) is not None and (column := standing.column(label.topic_id)) is not None
    ]
    all_rows = np.concatenate([rows, np.array([row for row, _, _ in back], np.intp)])
    topic = np.concatenate([columns, np.array([column for _, column, _ in back], np.intp)])
    said = np.concatenate([standing.said[rows, columns] > 0, np.array([value for _, _, value in back], np.bool_)])
    gone = np.arange(len(all_rows)) >= len(rows)
    seen = standing.scored[all_rows]
    return _Sayings(standing.ids[all_rows][seen], topic[seen], said[seen], gone[seen])
