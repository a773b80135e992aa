"""The topic learner in step with the family's labels, kept on disk between runs.

`scoring.Scoreboard` asks it to follow the labels and scores photos with it. The log of changes is the truth: what is
saved here only spares learning it again, and any difference from the log is learnt or forgotten on opening.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.album.disk import explain_os_error, write_file
from homespun.album.features import start_of
from homespun.errors import FormatError
from homespun.learning import TopicLearner

FOLDER = "learner"
INDEX = "current.json"
FORMAT = 1


class Example(NamedTuple):
    """What a person said of one photo: keys of topics that it is in, and of those that it is not in; sorted."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


Feature = npt.NDArray[np.float16]


class FamilyLearner:
    """A `TopicLearner` and the examples that it has learnt from this family."""

    def __init__(self, learner: TopicLearner, start: str) -> None:
        self.learner = learner
        self._start = start
        self._learnt: dict[str, Example] = {}

    @classmethod
    def open(cls, data_dir: Path, new_learner: Callable[[], TopicLearner], backbone: str) -> FamilyLearner:
        """What was saved in the data folder, or a new learner.

        One that was saved for other features, or grew from other built-in topics, is set aside and learnt anew.
        """
        fresh = new_learner()
        start = f"{backbone} {start_of(fresh)}"
        saved = _load(data_dir / FOLDER, start)
        if saved is None:
            return cls(fresh, start)
        family = cls(saved[0], start)
        family._learnt = saved[1]
        return family

    @property
    def topics(self) -> list[str]:
        """The keys of its topics, in the order of its scores."""
        return list(self.learner.topics)

    def follow(
        self,
        topics: Sequence[str],
        examples: Mapping[str, Example],
        feature_of: Callable[[str], Feature | None],
    ) -> bool:
        """Learn and forget until topics and examples are exactly the given ones; return whether anything differed.

        Learning and forgetting are exact, so the result does not depend on the way that led here.
        """
        outdated = [key for key, example in self._learnt.items() if examples.get(key) != example]
        for key in outdated:
            self.learner.forget(key)
            del self._learnt[key]
        known = set(self.topics)
        for topic in known - set(topics):
            self.learner.remove_topic(topic)
        for topic in set(topics) - known:
            self.learner.add_topic(topic)
        changed = bool(outdated) or known != set(topics)
        for key in examples.keys() - self._learnt.keys():
            feature = feature_of(key)
            if feature is None:
                continue  # not computed yet; it is learnt once it is
            example = examples[key]
            self.learner.learn(key, feature, positive=example.positive, negative=example.negative)
            self._learnt[key] = example
            changed = True
        return changed

    def save(self, data_dir: Path) -> None:
        """Write the learner and its examples; one rename makes both current. Raises `StorageFullError`."""
        folder = data_dir / FOLDER
        try:
            folder.mkdir(exist_ok=True)
            old = {path.name for path in folder.iterdir()} - {INDEX}
            name = next(
                f"learner-{n}.safetensors" for n in range(len(old) + 1) if f"learner-{n}.safetensors" not in old
            )
            self.learner.save(folder / name)
        except OSError as error:
            raise explain_os_error(error, folder / "learner") from error
        index = {
            "format": FORMAT,
            "start": self._start,
            "file": name,
            "sha256": _sha256(folder / name),
            "examples": self._learnt,
        }
        write_file(folder / INDEX, json.dumps(index, ensure_ascii=False).encode(), durable=True)
        for superseded in old:
            (folder / superseded).unlink(missing_ok=True)


def _load(folder: Path, start: str) -> tuple[TopicLearner, dict[str, Example]] | None:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT or index["start"] != start:
            return None
        path = folder / str(index["file"])
        if _sha256(path) != index["sha256"]:
            return None
        examples = {
            str(key): Example(tuple(positive), tuple(negative))
            for key, (positive, negative) in index["examples"].items()
        }
        return TopicLearner.load(path), examples
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, FormatError):
        return None  # nothing is lost: all of it is in the log of changes


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
