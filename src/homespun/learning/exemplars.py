"""Exemplars of the built-in topics: maps of a few photos each, so that refining a network does not make it forget.

`tools/train_builtin_topics.py` chooses and writes them; `Refiner` replays them beside a family's own photos. They are
maps before a backbone's last block in a few bits, good for that backbone alone, and no pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from homespun.errors import FormatError
from homespun.learning.storage import BUILTIN
from homespun.learning.tail import Floats, Maps

SHIPPED = BUILTIN.with_name("builtin_exemplars.safetensors")
FORMAT = "homespun-exemplars-1"
BITS = 4


@dataclass(frozen=True)
class Exemplars:
    """Maps of built-in topics' photos, the topic of each, and the version of the features that the tail makes."""

    maps: Maps
    topics: tuple[str, ...]
    features: str

    def encode(self) -> bytes:
        """As a file's content, two codes in a byte; the same exemplars give the same bytes."""
        flat = self.maps.codes.reshape(len(self.maps), -1)
        tensors = {
            "codes": np.ascontiguousarray(flat[:, 0::2] | (flat[:, 1::2] << 4)),
            "low": self.maps.low,
            "step": self.maps.step,
        }
        about = {
            "format": FORMAT,
            "topics": list(self.topics),
            "features": self.features,
            "shape": list(self.maps.codes.shape[1:]),
        }
        return save(tensors, {"homespun": json.dumps(about, ensure_ascii=False, sort_keys=True)})

    @classmethod
    def read(cls, path: Path = SHIPPED) -> Exemplars:
        """Read a file. Raises `FormatError` that names it when it is missing or not as it should be."""
        if not path.exists():
            raise FormatError(f"{path}: the exemplars are missing from this installation; install Homespun again")
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("homespun", "{}"))
                packed, low, step = (file.get_tensor(name) for name in ("codes", "low", "step"))
            if about.get("format") != FORMAT:
                raise FormatError(f"{path}: format {about.get('format')!r}; expected {FORMAT!r}")
            flat = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
            flat[:, 0::2], flat[:, 1::2] = packed & 15, packed >> 4
            topics = tuple(map(str, about["topics"]))
            maps = Maps(flat.reshape(len(topics), *about["shape"]), low, step)
            return cls(maps, topics, str(about["features"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: damaged, or no file of exemplars ({error})") from error


def chosen(coordinates: Floats, count: int) -> list[int]:
    """Rows of at most `count` photos of one topic whose mean is near to that of all (N, d).

    Herding: one photo after the other, each the one that brings the mean of those chosen nearest to the mean of all
    (Welling 2009; for exemplars: Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4).
    """
    mean = coordinates.mean(axis=0)
    total = np.zeros_like(mean)
    rows: list[int] = []
    for place in range(min(count, len(coordinates))):
        distance = np.square(mean - (total + coordinates) / (place + 1)).sum(axis=1)
        distance[rows] = np.inf
        rows.append(int(distance.argmin()))
        total = total + coordinates[rows[-1]]
    return rows


def folds(topics: Sequence[str], count: int) -> npt.NDArray[np.intp]:
    """Which fold each exemplar is held out in: those of a topic in turn."""
    seen: dict[str, int] = {}
    result = np.empty(len(topics), np.intp)
    for row, topic in enumerate(topics):
        result[row] = seen.get(topic, 0) % count
        seen[topic] = seen.get(topic, 0) + 1
    return result
