"""`docs/formats.md` is true: its code runs, one block after the other, and it names every suffix that is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from homespun.formats import READERS, WRITERS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, object] = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"formats.md, block {i + 1}", "exec"), namespace)


def test_every_suffix_has_a_row() -> None:
    table = PAGE.read_text().partition("| suffix |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\.\w+)`", table)) == {*READERS, *WRITERS}
