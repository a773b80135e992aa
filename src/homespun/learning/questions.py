"""Which photos to ask a family about: where an answer teaches most, not only where the doubt is greatest.

`doubt` says how probably a topic is wrong; here that is weighed by how many doubtful photos an answer would speak for.
The album's queue and the curves of `evaluate` choose with the same function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.learning import doubt

Floats = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

CANDIDATES = 2000
"""Photos that are looked at: the least sure ones. Work grows with their number squared."""
LIKE = 3
"""Power of the cosine with which a photo counts as being like another."""
REACH = 0.5
"""Power of how much doubt an answer would reach, beside the doubt about the photo itself."""
YOUNG = 10
"""Topics of a family's own with fewer examples learn from every answer: there, how far it reaches matters most."""
YOUNG_FIRST = 1.5
"""How much more a question about a young topic is worth than one about an old topic of like doubt."""
TWIN = 0.85
"""Photos whose cosine is this or more are copies of one picture, or shots of one moment: asking again teaches little.

Of photos saved anew as a JPEG of low quality, 99% have more; of photos of one library, one in fifteen has such another.
"""

ALMOST = "almost"
"""Reason of a question about a topic that a photo narrowly is not in."""


@dataclass(frozen=True)
class Questions:
    """Cells to ask about, most useful first: (Q,) each. `reason` is a signal's name (`doubt.Signals`) or `ALMOST`."""

    rows: Rows
    columns: Rows
    reasons: npt.NDArray[np.str_]


def choose(
    matrix: Floats,
    confidences: Floats,
    present: Booleans,
    open_: Booleans,
    young: Booleans,
    count: int,
    rejected: Floats | None = None,
    rejected_topic: Rows | None = None,
) -> Questions:
    """At most `count` questions about photos with coordinates (N, d) of unit length, at most one of each photo.

    `confidences` (N, T) are the learner's, `present` (N, T) says which topics photos are in, `open_` (N, T) what may be
    asked. Asked is about topics that a photo is in, and, unless one of them stands, about the likeliest other. What a
    question is worth is its doubt; of a topic that is `young` (T,), `1.5 doubt (reach / mean reach)^0.5`, where `reach`
    is the doubt about the same topic in photos like it (cosine cubed; information density: Settles and Craven, EMNLP
    2008). What was chosen takes its like along, so that one batch does not ask the same thing twice. `rejected` and
    `rejected_topic` are as in `doubt.signals`.
    """
    likeliest = np.zeros_like(open_)
    askable = np.where(open_, confidences, np.float32(-1))
    np.put_along_axis(likeliest, askable.argmax(axis=1)[:, None], True, axis=1)
    likeliest[(present & ~open_).any(axis=1)] = False
    rows, columns = np.nonzero(open_ & (present | likeliest))
    if not len(rows):
        return Questions(rows, columns, np.zeros(0, np.str_))
    found = doubt.signals(matrix[rows], confidences[rows], columns, rejected, rejected_topic)
    is_in = present[rows, columns]
    doubts = np.where(is_in, doubt.doubt(found), confidences[rows, columns]).astype(np.float32)
    likeness = np.clip(matrix @ matrix.T, 0, 1) ** LIKE
    np.fill_diagonal(likeness, 0)
    reach = (likeness @ np.minimum(confidences, 1 - confidences))[rows, columns]
    relative = (reach + np.float32(1e-6)) / (reach.mean() + np.float32(1e-6))
    worth = np.where(young[columns], YOUNG_FIRST * doubts * relative**REACH, doubts).astype(np.float32)
    picked = _spread(worth, rows, columns, likeness, count)
    reasons = np.where(is_in, found.reason(), ALMOST)
    return Questions(rows[picked], columns[picked], reasons[picked])


def _spread(worth: Floats, rows: Rows, columns: Rows, likeness: Floats, count: int) -> Rows:
    """Indices of the worthiest cells, one after the other; each lowers what its like, of the same topic, are worth."""
    left = worth.copy()
    picked: list[int] = []
    while len(picked) < count:
        best = int(left.argmax())
        if left[best] <= 0:
            break
        picked.append(best)
        row, column = rows[best], columns[best]
        left[columns == column] *= 1 - likeness[row][rows[columns == column]]
        left[rows == row] = 0
    return np.array(picked, np.intp)


def twins(matrix: Floats, topic: Rows, asked: Floats, asked_topic: Rows) -> Booleans:
    """Which cells (M,) ask again what was asked: of the same topic about a twin. Photos as rows of unit length."""
    result = np.zeros(len(matrix), np.bool_)
    for column in np.unique(asked_topic):
        mine = np.flatnonzero(topic == column)
        if len(mine):
            result[mine] = (matrix[mine] @ asked[asked_topic == column].T).max(axis=1) >= TWIN
    return result
