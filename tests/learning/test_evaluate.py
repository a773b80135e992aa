"""The evaluation, end to end on folders that the tests make, with a toy backbone."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from homespun.errors import HomespunError, OptionError
from homespun.learning import evaluate, report
from homespun.learning.folders import LabelledPhoto, find_photos, read_sources, split
from tests.learning.samples import toy_embed, write_photos

KNOWN = ["beach", "cake", "cat", "dog", "forest"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_photos(root / "known", KNOWN, 16)
    write_photos(root / "test", [*KNOWN, "garden", "train"], 24, seed=1)
    return root


def run(data: Path, out: Path, embed: evaluate.Embed = toy_embed, **more: object) -> dict[str, object]:
    arguments = {"test": data / "test", "shots": [1, 5], "seeds": 2, "quiet": True} | more
    return evaluate.run(data / "known", out=out, embed=embed, **arguments)  # type: ignore[arg-type]


def test_everything_is_measured_written_and_plausible(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:  # type: ignore[type-arg]
    result = run(data, tmp_path, quiet=False)
    assert result == json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert capsys.readouterr().out == (tmp_path / "evaluation.txt").read_text("utf-8")
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "reliability.png",
        "corrections.png",
        "questions.png",
        "shots.png",
    }
    assert result["new_topics"] == [["garden", "train"]] * 2
    assert result["known"]["learner"] > 0.8
    shots = result["shots"]
    assert shots["5"]["new"] >= shots["1"]["new"] - 0.05 and shots["5"]["new"] > 0.7
    assert result["retrained"]["new"] > 0.7
    assert 0 <= result["calibration"]["error"] <= 1
    assert set(result["doubts"]) == {"auroc", "auroc_confidence", "first", "errors"}
    assert "0" in result["corrections"]


def test_a_backbone_that_sees_nothing_scores_like_chance(data: Path, tmp_path: Path) -> None:
    def blind(paths: Sequence[Path]) -> evaluate.Floats:
        return np.random.default_rng(len(str(paths[0]))).random((len(paths), 96), np.float32)

    assert run(data, tmp_path, blind)["known"]["learner"] < 0.5


def test_a_second_run_embeds_nothing_and_finds_the_same(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path)

    def never(paths: Sequence[Path]) -> evaluate.Floats:
        raise AssertionError("embedded again")

    assert run(data, tmp_path, never) == first


def test_unreadable_photos_are_named_and_left_out(data: Path, tmp_path: Path) -> None:
    def refusing(paths: Sequence[Path]) -> evaluate.Floats:
        if any(path.name == "cat_03.png" and path.parts[-3] == "known" for path in paths):
            raise HomespunError("cut off")
        return toy_embed(paths)

    result = run(data, tmp_path, refusing)
    assert result["unreadable"] == {str(data / "known" / "cat" / "cat_03.png"): "cut off"}
    assert result["photos"] == 5 * 16 + 7 * 24 - 1


def test_split_by_source(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "index.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "topic", "source", "source_path"])
        for photo in find_photos(data / "test"):
            number = int(photo.path.stem[-2:])
            source = "big" if number < 16 else "small"
            writer.writerow([f"x/{photo.topic}/{photo.path.name}", photo.topic, source, f"{number}.jpg"])
    photos = read_sources(find_photos(data / "test"), table)
    known, test = split(photos, 0)
    assert (known, test) == split(photos, 0) != split(photos, 1)
    assert sorted(known + test) == list(range(len(photos)))
    assert {photos[row].source for row in known} == {"big"}
    new = {photos[row].topic for row in test} - {photos[row].topic for row in known}
    assert len(new) == 2
    result = evaluate.run(data / "test", None, [2], 1, tmp_path / "out", toy_embed, split_by=table, quiet=True)
    assert len(result["known_topics"]) == 5


def test_neighbours_of_a_single_source_stay_together() -> None:
    photos = [LabelledPhoto(Path(f"{n}.png"), topic, "s", f"{n:03}") for topic in "abc" for n in range(10)]
    known, test = split(photos, 0)
    for topic in {photos[row].topic for row in known}:
        first = max(int(photos[row].origin) for row in known if photos[row].topic == topic)
        assert all(int(photos[row].origin) > first for row in test if photos[row].topic == topic)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"test": None}, "give either"),
        ({"seeds": 0}, "from 1"),
        ({"shots": [0]}, "from 1"),
    ],
)
def test_bad_options_are_told(data: Path, tmp_path: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(data, tmp_path, **more)


def test_folders_that_share_no_topic_are_told(data: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "other", ["ship"], 4)
    with pytest.raises(OptionError, match="both known and tested"):
        run(data, tmp_path / "out", test=tmp_path / "other")
    with pytest.raises(OptionError, match="no photos"):
        run(data, tmp_path / "out", test=tmp_path)


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"homespun\[plots\]"):
        run(data, tmp_path)


@pytest.mark.parametrize(
    ("score", "wrong", "expected"),
    [
        ([3, 2, 1], [1, 0, 0], 1.0),
        ([1, 2, 3], [1, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 0, 1, 0], 0.5),
        ([1, 2], [0, 0], None),
    ],
)
def test_auroc(score: list[float], wrong: list[int], expected: float | None) -> None:
    found = evaluate.auroc(np.array(score, np.float32), np.array(wrong, np.bool_))
    assert np.isnan(found) if expected is None else found == expected
