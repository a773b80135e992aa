"""`tools/train_builtin_topics.py --check`: rounding passes, another photo doesn't."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from homespun.learning import storage
from homespun.learning.head import TopicStatistics
from homespun.learning.pretraining import fit_builtin
from homespun.learning.space import GRID
from tests.learning.samples import gaussian_topics

TOOL = Path(__file__).parents[2] / "tools" / "train_builtin_topics.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_builtin_topics", TOOL)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content(folder: Path, left_out: int = 0) -> storage.Content:
    features, topics = gaussian_topics(6, 20)
    built = fit_builtin(features[left_out:], topics[left_out:], rank=16)
    path = folder / "topics.safetensors"
    path.write_bytes(storage.encode(built.space, built.statistics, built.calibration, list(built.statistics), {}))
    return storage.read(path)


def test_rounding_is_no_difference(tool: ModuleType, tmp_path: Path) -> None:
    there = content(tmp_path)
    random = np.random.default_rng(0)
    moved = {
        name: TopicStatistics(topic.count, topic.total + random.integers(-8, 9, len(topic.total)) / GRID)
        for name, topic in there.builtin.items()
    }
    best = there.calibration.best
    shifted = replace(there.calibration, best=(best[0] * (1 + 1e-6), *best[1:]), vague=there.calibration.vague * 1.001)
    assert tool.differences(there, replace(there, builtin=moved, calibration=shifted)) == []


def test_another_photo_is_a_difference(tool: ModuleType, tmp_path: Path) -> None:
    found = tool.differences(content(tmp_path), content(tmp_path, left_out=1))
    assert any("t0" in each for each in found)


def test_another_calibration_is_a_difference(tool: ModuleType, tmp_path: Path) -> None:
    there = content(tmp_path)
    for changed in ({"vague": there.calibration.vague * 1.1}, {"typical": 0.9}, {"other": (1.0, 2.0, 3.0)}):
        assert tool.differences(there, replace(there, calibration=replace(there.calibration, **changed)))


@pytest.mark.parametrize(
    ("there", "made", "same"),
    [
        ("| Cats | 140 | 0.98 |", "| Cats | 140 | 0.99 |", True),
        ("| Cats | 140 | 0.97 |", "| Cats | 140 | 0.99 |", False),
        ("| Cats | 140 | 0.98 |", "| Cats | 141 | 0.98 |", False),
        ("| Cats | 0.98 | dog |", "| Cats | 0.98 | sea |", False),
    ],
)
def test_a_card_may_be_rounded_otherwise(tool: ModuleType, there: str, made: str, same: bool) -> None:
    assert tool.same_words(there, made) is same
