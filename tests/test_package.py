"""The package as a whole: cheap to import, complete, and layered as the design says."""

import subprocess
import sys
from pathlib import Path

import homespun

ROOT = Path(__file__).parent.parent


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_engine_imports_nothing_heavy() -> None:
    loaded = run("import sys, homespun; print(*sorted(sys.modules))").split()
    assert not {"numpy", "safetensors", "PIL", "rich", "typer", "fastapi"} & set(loaded)


def test_running_a_model_needs_only_the_base_install() -> None:
    code = """
import sys
import homespun as hs
for name in hs.__all__: getattr(hs, name)
hs.Predictor(hs.zoo.mobilenet_v2(classes=3, width=0.25, image_size=32))
print(*sorted({m.partition('.')[0] for m in sys.modules}))
"""
    assert not {"PIL", "rich", "typer", "fastapi", "matplotlib", "scipy", "torch", "onnx"} & set(run(code).split())


def test_every_public_name_exists_and_is_documented() -> None:
    for name in homespun.__all__:
        assert getattr(homespun, name).__doc__, name
    assert set(homespun.__all__) <= set(dir(homespun))


def test_layers() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
