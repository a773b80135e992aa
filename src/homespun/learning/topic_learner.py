"""TopicLearner: topics from built-in statistics and from a family's examples, exactly learnt and exactly forgotten.

What it keeps is a set of examples and integer sums over them; what it scores with (`head`) is a pure function of
those. So the order of examples leaves no trace, and forgetting one is subtracting what learning it added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homespun.errors import OptionError, ShapeError
from homespun.learning import storage
from homespun.learning.calibration import Calibration
from homespun.learning.expansion import Library
from homespun.learning.head import Head, TopicStatistics, builtin_directions, fit_head
from homespun.learning.space import GRID, FeatureSpace, Floats, Grid


@dataclass(frozen=True)
class Example:
    """One photo that a human said something about: its place in the space, and what was said."""

    coordinates: Grid
    positive: frozenset[str]
    negative: frozenset[str]


_Sum = tuple[int, npt.NDArray[np.int64]]
"""How many examples, and the sum of their coordinates in steps of the grid: exact, so that order leaves no trace."""


@dataclass(frozen=True)
class Prepared:
    """Features brought into a learner's space once, to be scored many times. `matrix` is (N, d) float32."""

    matrix: Floats

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Prepared:
        return Prepared(self.matrix[rows])

    @staticmethod
    def join(parts: Iterable[Prepared]) -> Prepared:
        """All parts, one below the other."""
        return Prepared(np.concatenate([part.matrix for part in parts]))


class TopicLearner:
    """Learns topics from features, one photo at a time.

    `dimensions` is the length D of a feature. An empty learner knows no topic; `builtin()` knows those that ship.
    Topics are not exclusive: a photo can be in several or in none.
    """

    def __init__(self, dimensions: int) -> None:
        if dimensions < 1:
            raise OptionError(f"dimensions is {dimensions}; it must be 1 or more")
        self._space = FeatureSpace.plain(dimensions)
        self._calibration = Calibration()
        self._builtin: dict[str, TopicStatistics] = {}
        self._topics: list[str] = []
        self._examples: dict[str, Example] = {}
        self._positive: dict[str, _Sum] = {}
        self._negative: dict[str, _Sum] = {}
        self._library: Library | None = None
        self._head: Head | None = None

    @classmethod
    def builtin(cls) -> TopicLearner:
        """A learner that knows the topics that ship with Homespun.

        Raises FormatError when the installed file is damaged.
        """
        return cls.from_statistics(*storage.read_builtin(storage.BUILTIN))

    @classmethod
    def from_statistics(
        cls, space: FeatureSpace, topics: Mapping[str, TopicStatistics], calibration: Calibration
    ) -> TopicLearner:
        """A learner that has `topics` built in: they can be corrected, but not removed and not forgotten."""
        learner = cls(space.dimensions)
        learner._space = space
        learner._builtin = dict(topics)
        learner._calibration = calibration
        learner._topics = list(topics)
        return learner

    # What is known

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics, in the order of the columns of `scores`: built-in ones, then others as sorted text."""
        return tuple(self._topics)

    @property
    def dimensions(self) -> int:
        """D, the length of a feature."""
        return self._space.dimensions

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the examples that are learnt now."""
        return frozenset(self._examples)

    def example(self, key: str) -> tuple[frozenset[str], frozenset[str]]:
        """What was said about the photo `key`: topics that it is in, and topics that it is not in."""
        example = self._examples[self._known_key(key)]
        return example.positive, example.negative

    # Topics

    def add_topic(self, name: str) -> None:
        """Makes a topic with no example yet; it scores nothing until it has one. Raises OptionError if it exists."""
        if not name:
            raise OptionError("a topic needs a name")
        if name in self._topics:
            raise OptionError(f"there is a topic {name!r} already")
        self._insert_topic(name)
        self._head = None

    def remove_topic(self, name: str) -> None:
        """Forgets a topic and what was said about it; examples of other topics stay.

        Raises OptionError for a built-in topic, or one that isn't there.
        """
        if name in self._builtin:
            raise OptionError(f"{name!r} is built in and can't be removed; hide it instead")
        if name not in self._topics:
            raise OptionError(f"there is no topic {name!r}; there are: {', '.join(self._topics)}")
        for key, example in list(self._examples.items()):
            if name in example.positive | example.negative:
                self._subtract(key)
                left = Example(example.coordinates, example.positive - {name}, example.negative - {name})
                if left.positive or left.negative:
                    self._add(key, left)
        self._topics.remove(name)
        self._head = None

    # Examples

    def learn(
        self, key: str, feature: npt.ArrayLike, positive: Iterable[str] = (), negative: Iterable[str] = ()
    ) -> None:
        """Learns that the photo `key` with `feature` (D,) is in the topics `positive` and not in `negative`.

        A key that was learnt before is replaced. A topic that isn't known yet is added. Raises OptionError when a
        topic is in both, or nothing is said; ShapeError when the feature has another length.
        """
        yes, no = frozenset(positive), frozenset(negative)
        if yes & no:
            raise OptionError(f"{', '.join(sorted(yes & no))}: said to be both right and wrong for {key!r}")
        if not yes | no:
            raise OptionError(f"nothing is said about {key!r}: give positive or negative topics, or forget it")
        coordinates = self._space.quantise(feature)
        if key in self._examples:
            self._subtract(key)
        for name in sorted((yes | no) - set(self._topics)):
            self.add_topic(name)
        self._add(key, Example(coordinates, yes, no))
        self._head = None

    def forget(self, key: str) -> None:
        """Takes back all that was learnt from the photo `key`. Topics stay. Raises OptionError if it isn't known."""
        self._subtract(self._known_key(key))
        self._head = None

    def _known_key(self, key: str) -> str:
        if key not in self._examples:
            raise OptionError(f"nothing was learnt from {key!r}")
        return key

    def _insert_topic(self, name: str) -> None:
        own = sorted([topic for topic in self._topics if topic not in self._builtin] + [name])
        self._topics = list(self._builtin) + own

    def _add(self, key: str, example: Example) -> None:
        self._examples[key] = example
        for sums, names in ((self._positive, example.positive), (self._negative, example.negative)):
            for name in names:
                count, total = sums.get(name, (0, np.zeros(self._space.rank, np.int64)))
                sums[name] = count + 1, total + example.coordinates

    def _subtract(self, key: str) -> None:
        example = self._examples.pop(key)
        for sums, names in ((self._positive, example.positive), (self._negative, example.negative)):
            for name in names:
                count, total = sums.pop(name)
                if count > 1:
                    sums[name] = count - 1, total - example.coordinates

    # Scores

    def prepare(self, features: npt.ArrayLike) -> Prepared:
        """Brings features (N, D), float16 or float32, into the space of this learner, once for many `scores`.

        Stays valid for the life of the learner, whatever it learns. Raises ShapeError for a wrong width or NaN.
        """
        return Prepared(self._space.project(features))

    def observe(self, photos: Prepared | Sequence[Prepared], keys: Sequence[str]) -> None:
        """Tells which photos there are, so that those of which nothing was said sharpen topics shown by few.

        `photos`, in one piece or several, replace those of the last call; `keys` name them, row by row. They are kept
        as they are given, not copied, and not saved: a loaded learner has to be told again. With no photos, examples
        alone count. Raises ShapeError for photos prepared by another learner, OptionError for too few or too many keys.
        """
        pieces = [self._matrix(piece) for piece in ([photos] if isinstance(photos, Prepared) else photos)]
        count = sum(map(len, pieces))
        if count != len(keys):
            raise OptionError(f"{len(keys)} keys for {count} photos; each needs one")
        self._library = Library.beside(builtin_directions(self._builtin), pieces, keys) if count else None
        self._head = None

    def scores(self, features: npt.ArrayLike | Prepared) -> Floats:
        """How well photos fit topics, (N, topics) float32, as log-odds: above zero means more likely in than not."""
        return self._current_head().log_odds(self._matrix(features))

    def confidences(self, features: npt.ArrayLike | Prepared) -> Floats:
        """Calibrated probability that a photo is in a topic, (N, topics) float32. Rows needn't add up to one."""
        return _sigmoid(self.scores(features))

    def present(self, features: npt.ArrayLike | Prepared) -> npt.NDArray[np.bool_]:
        """The topics that the album would put a photo in, (N, topics) bool."""
        return self.scores(features) > 0

    def nearest_example(self, feature: npt.ArrayLike, topic: str) -> str | None:
        """Key of the family's example of `topic` that is nearest to `feature` (D,), to show why; None without one."""
        keys = sorted(key for key, example in self._examples.items() if topic in example.positive)
        if not keys:
            return None
        here = self._space.quantise(feature).astype(np.float64)
        stack = np.stack([self._examples[key].coordinates for key in keys])
        return keys[int(np.argmin(((stack - here) ** 2).sum(axis=1)))]

    def _matrix(self, features: npt.ArrayLike | Prepared) -> Floats:
        matrix = features.matrix if isinstance(features, Prepared) else self._space.project(features)
        if matrix.shape[1] != self._space.rank:
            raise ShapeError(f"prepared features are {matrix.shape}; expected (N, {self._space.rank})")
        return matrix

    def _current_head(self) -> Head:
        if self._head is None:
            self._head = fit_head(
                self._topics,
                self._builtin,
                _statistics(self._positive),
                _statistics(self._negative),
                self._calibration,
                self._library,
                self._examples,
            )
        return self._head

    # Persistence

    def save(self, path: str | Path) -> None:
        """Writes all of the learner to one file, beside and then renamed, so that it is never half-written."""
        examples = {key: (e.coordinates, e.positive, e.negative) for key, e in self._examples.items()}
        content = storage.encode(self._space, self._builtin, self._calibration, self._topics, examples)
        storage.replace_file(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> TopicLearner:
        """Reads what `save` wrote. Raises FormatError when the file is damaged or of another version."""
        content = storage.read(Path(path))
        learner = cls.from_statistics(content.space, content.builtin, content.calibration)
        learner._topics = list(content.topics)
        for key, (coordinates, positive, negative) in content.examples.items():
            learner._add(key, Example(coordinates, positive, negative))
        return learner


def _statistics(sums: Mapping[str, _Sum]) -> dict[str, TopicStatistics]:
    return {name: TopicStatistics(count, total / GRID) for name, (count, total) in sums.items()}


def _sigmoid(x: Floats) -> Floats:
    out = np.clip(x, -30, 30)
    np.negative(out, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)
    return out
