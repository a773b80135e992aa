"""What `benchmarks/fine_tuning.py` makes of its figures, and says without photos; `make evaluate` runs it whole."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def fine_tuning() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "fine_tuning.py"
    spec = importlib.util.spec_from_file_location("fine_tuning", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["fine_tuning"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(mixed: float = 0.0, noise: float = 0.004, accuracy: float = 0.8) -> list[dict[str, Any]]:
    """Results of three seeds; mixed precision differs by `mixed`, give or take `noise`."""
    kinds = itertools.product(("mobilenet_v2", "efficientnet_lite0"), ("head", "blocks", "all"), (0, 1, 2))
    found = []
    for i, (network, mode, seed) in enumerate(kinds):
        for precision in ("float32", "mixed"):
            off = 0.0 if precision == "float32" else mixed + noise * (-1) ** i
            row = {"network": network, "mode": mode, "precision": precision, "engine": "homespun", "seed": seed}
            found.append({**row, "accuracy": accuracy + off})
    return found


@pytest.mark.parametrize(("mixed", "good"), [(0.0, True), (0.01, True), (-0.004, True), (-0.006, True), (-0.01, False)])
def test_mixed_may_be_behind_by_half_a_point_and_chance(fine_tuning: ModuleType, mixed: float, good: bool) -> None:
    lines, found = fine_tuning.verdict(cells(mixed))
    assert found == good
    assert any("FAILED" in line for line in lines) != good


def test_a_cell_that_learnt_nothing_is_a_failure(fine_tuning: ModuleType) -> None:
    results = cells()
    assert fine_tuning.verdict(results)[1]
    results[3]["accuracy"] = 0.05
    lines, good = fine_tuning.verdict(results)
    assert not good and "mobilenet_v2" in lines[-1]


def test_engines_are_compared_where_both_have_the_cell(fine_tuning: ModuleType) -> None:
    ours = cells()
    theirs = [{**r, "engine": "pytorch", "accuracy": r["accuracy"] - 0.02} for r in ours if r["seed"] == 0]
    pairs = fine_tuning.differences(ours + theirs, {"engine": "pytorch"}, {"engine": "homespun"})
    assert pairs == pytest.approx([0.02] * 12)
    text = fine_tuning.table(ours + theirs, [])
    assert len(text.splitlines()) == 2 + 12 and "PyTorch" in text.splitlines()[0]


def test_without_photos_it_says_what_is_missing(
    fine_tuning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", "--data", str(tmp_path / "none"), "--weights", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"none: no index\.csv"):
        fine_tuning.main()
