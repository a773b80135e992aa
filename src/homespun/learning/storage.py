"""Learners in files: safetensors with a JSON description in the metadata, written beside and renamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import homespun
from homespun.errors import FormatError
from homespun.formats.atomic import replacing
from homespun.learning.calibration import Calibration
from homespun.learning.head import TopicStatistics
from homespun.learning.space import FeatureSpace, Grid

FORMAT = "homespun-topics-1"
BUILTIN = Path(homespun.__file__).parent / "album" / "assets" / "builtin_topics.safetensors"

Spoken = tuple[Grid, frozenset[str], frozenset[str]]
"""An example in a file: coordinates, positive topics, negative topics."""


@dataclass(frozen=True)
class Content:
    """All that a file holds."""

    space: FeatureSpace
    builtin: dict[str, TopicStatistics]
    calibration: Calibration
    topics: list[str]
    examples: dict[str, Spoken]


def encode(
    space: FeatureSpace,
    builtin: Mapping[str, TopicStatistics],
    calibration: Calibration,
    topics: Iterable[str],
    examples: Mapping[str, Spoken],
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """A learner as bytes: the same learner gives the same ones, whatever order it learnt in."""
    keys = sorted(examples)
    tensors: dict[str, npt.NDArray[Any]] = {
        "space.mean": space.mean,
        "space.projection": space.projection,
        "builtin.count": np.array([s.count for s in builtin.values()], np.int64),
        "builtin.total": np.array([s.total for s in builtin.values()], np.float64).reshape(-1, space.rank),
        "examples.coordinates": np.array([examples[k][0] for k in keys], np.int32).reshape(-1, space.rank),
    }
    description = {
        "builtin": list(builtin),
        "calibration": asdict(calibration),
        "topics": list(topics),
        "examples": [[k, sorted(examples[k][1]), sorted(examples[k][2])] for k in keys],
        **(extra or {}),
    }
    digest = _digest(tensors, description)
    about = {"format": FORMAT, "sha256": digest, "description": description}
    # One entry: safetensors writes several in an order that changes from run to run.
    metadata = {"homespun": json.dumps(about, ensure_ascii=False, sort_keys=True)}
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)


def read(path: Path) -> Content:
    """Reads what `write` wrote. Raises FormatError that names the file when anything in it is not as it should be."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("homespun", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path}: damaged, or not a safetensors file ({error})") from error
    try:
        about = json.loads(text)
        if about.get("format") != FORMAT:
            raise FormatError(f"{path}: format {about.get('format')!r}; expected {FORMAT!r}")
        description = about["description"]
        if _digest(tensors, description) != about["sha256"]:
            raise FormatError(f"{path}: damaged: its checksum does not match what it holds")
        space = FeatureSpace(tensors["space.mean"], tensors["space.projection"])
        totals, counts = tensors["builtin.total"], tensors["builtin.count"]
        builtin = {
            name: TopicStatistics(int(count), total)
            for name, count, total in zip(description["builtin"], counts, totals, strict=True)
        }
        examples = {
            key: (row, frozenset(positive), frozenset(negative))
            for (key, positive, negative), row in zip(
                description["examples"], tensors["examples.coordinates"], strict=True
            )
        }
        return Content(
            space,
            builtin,
            _calibration(description["calibration"]),
            description["topics"],
            examples,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: damaged: incomplete learner ({error})") from error


def read_builtin(path: Path) -> tuple[FeatureSpace, dict[str, TopicStatistics], Calibration]:
    """The space, topics and calibration that ship."""
    if not path.exists():
        raise FormatError(f"{path}: the built-in topics are missing from this installation; install Homespun again")
    content = read(path)
    return content.space, content.builtin, content.calibration


def replace_file(path: Path, data: bytes) -> None:
    """Puts `data` at `path` in one step: a kill or a full disk leaves the old file, or the new, and nothing between."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def _calibration(stored: Mapping[str, Any]) -> Calibration:
    """From what `asdict` made of it; of the first version, which had lines alone, too."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return Calibration(**values)


def _digest(tensors: Mapping[str, npt.NDArray[Any]], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, ensure_ascii=False, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].shape}{tensors[name].dtype}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
