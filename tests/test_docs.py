"""The documentation is true: its Python runs, its links lead somewhere, and what must be documented is."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from tests.data import photos
from tests.formats import mindspore
from tests.formats.pickles import pickled_state, tensor, zipped

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "native").glob("*.md")]

#: Pages whose Python blocks run from top to bottom in one namespace.
RUN = [
    "README.md",
    "README.zh-CN.md",
    "docs/caffe.md",
    "docs/compression.md",
    "docs/eight-bit.md",
    "docs/engine.md",
    "docs/memory.md",
    "docs/mindspore.md",
    "docs/onnx.md",
    "docs/pausing.md",
    "docs/tflite.md",
    "docs/training.md",
    "docs/adding-a-pass.md",
    "docs/adding-an-op.md",
    "docs/adding-a-format.md",
]
#: Files that a page takes for granted, by the names that it calls them.
GIVEN = {"docs/tflite.md": {"foreign.tflite": "tests/formats/goldens/tflite/classifier_uint8.tflite"}}
#: Those that take for granted that there are photos, and torchvision's weights.
WITH_PHOTOS = {"README.md", "README.zh-CN.md", "docs/training.md"}


def lay_out(folder: Path) -> None:
    """What a newcomer has: photos in folders, and weights that PyTorch has saved (here untrained)."""
    photos.folder(folder / "photos", each=5)
    model = hs.zoo.mobilenet_v2()
    back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    arrays = [t.data.transpose(back[len(t.shape)]) for t in model.with_role("parameter", "state") if t.data is not None]
    names = [t.name for t in model.with_role("parameter", "state")]
    state = {name: tensor(str(i), *array.shape) for i, (name, array) in enumerate(zip(names, arrays, strict=True))}
    members = {f"data/{i}": np.ascontiguousarray(array) for i, array in enumerate(arrays)}
    (folder / "mobilenet_v2-b0353104.pth").write_bytes(zipped(pickled_state(state), members))


@pytest.mark.parametrize("page", RUN)
def test_the_code_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page in WITH_PHOTOS:
        lay_out(tmp_path)
    for name, source in GIVEN.get(page, {}).items():
        shutil.copy(ROOT / source, tmp_path / name)
    if page == "docs/mindspore.md":
        mindspore.export(tmp_path / "mobilenet")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {"__name__": page}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {i + 1}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            if (page.parent / target).exists():
                queue.append((page.parent / target).resolve())
    missing = sorted(str(p.relative_to(ROOT)) for p in PAGES if p.resolve() not in seen)
    assert not missing
