"""What a run of refining starts from, as it was when it started: labelled maps, what was said, and what shipped.

Written to a file before anything is trained, so that labels may change meanwhile and a killed run still goes on with
the very same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from homespun.errors import FormatError, OptionError
from homespun.learning import storage
from homespun.learning.calibration import Calibration
from homespun.learning.head import TopicStatistics
from homespun.learning.map_file import read_maps
from homespun.learning.space import FeatureSpace
from homespun.learning.storage import replace_file
from homespun.learning.tail import Maps
from homespun.learning.topic_learner import TopicLearner

FOLDS = 4
FEWEST = 60
"""Labelled photos below which no gain could be told from luck."""
FEWEST_GROUPS = 20
"""Events below which photos are divided one by one."""

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Foundation:
    """What a learner starts from: the space, the built-in topics in it, and the calibration of confidence."""

    space: FeatureSpace
    statistics: Mapping[str, TopicStatistics]
    calibration: Calibration

    @classmethod
    def shipped(cls) -> Foundation:
        """What ships with Homespun."""
        return cls(*storage.read_builtin(storage.BUILTIN))

    def learner(self) -> TopicLearner:
        """A learner that knows the built-in topics and nothing else."""
        return TopicLearner.from_statistics(self.space, self.statistics, self.calibration)


@dataclass(frozen=True)
class Task:
    """Photos that a family labelled: N maps, what was said of T topics as matrices (N, T), and each one's fold (N,)."""

    keys: tuple[str, ...]
    topics: tuple[str, ...]
    maps: Maps
    positive: Booleans
    negative: Booleans
    folds: npt.NDArray[np.intp]

    def __post_init__(self) -> None:
        if len(self) < FEWEST:
            raise OptionError(too_few(len(self)))

    def __len__(self) -> int:
        return len(self.keys)

    def said(self, row: int) -> tuple[list[str], list[str]]:
        """Topics that a photo is in, and topics that it is not in."""
        yes, no = np.flatnonzero(self.positive[row]), np.flatnonzero(self.negative[row])
        return [self.topics[column] for column in yes], [self.topics[column] for column in no]

    def save(self, path: Path) -> None:
        """Write it, beside and then renamed; its maps first, to `maps_of(path)`, unless that is where they are."""
        codes = self.maps.codes
        if not isinstance(codes, np.memmap) or Path(str(codes.filename)) != maps_of(path).resolve():
            replace_file(maps_of(path), np.ascontiguousarray(codes).tobytes())
        tensors: dict[str, npt.NDArray[Any]] = {
            "low": self.maps.low,
            "step": self.maps.step,
            "positive": self.positive.astype(np.uint8),
            "negative": self.negative.astype(np.uint8),
            "folds": self.folds.astype(np.int64),
        }
        shape = list(codes.shape)
        about = json.dumps({"keys": self.keys, "topics": self.topics, "shape": shape}, ensure_ascii=False)
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        replace_file(path, save(contiguous, {"homespun": about}))

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote; its maps stay in their file. Raises `FormatError` that names the file."""
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["homespun"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                tuple(about["keys"]),
                tuple(about["topics"]),
                read_maps(maps_of(path), tuple(about["shape"]), tensors["low"], tensors["step"]),
                tensors["positive"] > 0,
                tensors["negative"] > 0,
                tensors["folds"].astype(np.intp),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: damaged, or no task of refining ({error})") from error


def maps_of(path: Path) -> Path:
    """Where the maps of the task in a file are."""
    return path.with_suffix(".maps")


def too_few(count: int) -> str:
    """What to tell who asks for a refinement from too few photos."""
    photos = "1 photo" if count == 1 else f"{count} photos"
    return (
        f"people have said something about {photos}; refining needs {FEWEST}, since with fewer nobody could tell "
        "whether it helped. Correct or confirm some more first"
    )


def divide(contents: Sequence[str], events: Sequence[str], count: int = FOLDS) -> npt.NDArray[np.intp]:
    """The fold (N,), of `count`, that each photo is held out in.

    Photos of one event (a day, say) are held out together, since they are much alike; where there are fewer events than
    `FEWEST_GROUPS`, each photo for itself. What decides is a hash, so that a photo's fold stays what it is in later
    runs: no network that it is asked to judge has ever seen it.
    """
    by = events if len(set(events)) >= FEWEST_GROUPS else contents
    return np.array([int(sha256(key.encode()).hexdigest(), 16) % count for key in by], np.intp)
