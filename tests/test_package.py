"""The package as a whole: cheap to import, complete, and layered as the design says."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

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


def test_a_training_step_imports_what_it_runs() -> None:
    code = """
import sys
import numpy as np
import homespun as hs
model = hs.zoo.mobilenet_v2(classes=3, width=0.25, image_size=32)
trainer = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.1), batch=1)
trainer.step(np.zeros((1, 32, 32, 3), np.float32), np.zeros(1, np.int64))
print(*sys.modules)
"""
    loaded = [name.split(".") for name in run(code).split()]
    assert {m[2] for m in loaded if m[:2] == ["homespun", "zoo"] and len(m) > 2} == {
        "layers",
        "mobilenet_v2",
        "pretrained",
    }
    assert not {"compression", "data", "formats", "runtime"} & {
        m[1] for m in loaded if m[0] == "homespun" and len(m) > 1
    }
    assert not {"json", "logging", "pathlib", "zipfile"} & {m[0] for m in loaded}


def test_a_name_that_is_a_module_too_is_what_the_module_holds() -> None:
    """Python binds a module in its package once it is imported, whoever imports it, and when."""
    code = """
import homespun.zoo.mobilenet_v2, homespun.training.splice, homespun.compression.prune_weights
import homespun as hs
from homespun.zoo import mobilenet_v2
import homespun.zoo.tinybert, homespun.compile.passes.fold_batch_norm
from homespun.compile.passes import fold_batch_norm
print(*map(callable, (hs.zoo.mobilenet_v2, mobilenet_v2, hs.zoo.tinybert, hs.training.splice, hs.splice)))
print(*map(callable, (hs.prune_weights, hs.compression.prune_weights, fold_batch_norm)))
print(hs.training.losses is hs.losses)
"""
    assert set(run(code).split()) == {"True"}


@pytest.mark.parametrize(
    "package", ["compile", "compile.passes", "compression", "runtime", "training", "training.optim", "zoo"]
)
def test_packages_that_load_late_hold_what_they_name(package: str) -> None:
    module = import_module(f"homespun.{package}")
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
        assert getattr(module, name) is module.__dict__[name]
    assert not hasattr(module, "nothing_of_that_name")


def test_every_public_name_exists_and_is_documented() -> None:
    for name in homespun.__all__:
        assert getattr(homespun, name).__doc__, name
    assert set(homespun.__all__) <= set(dir(homespun))


def test_python_can_say_which_public_name_was_meant() -> None:
    with pytest.raises(AttributeError, match="'Predicter'") as caught:
        _ = homespun.Predicter  # type: ignore[attr-defined]
    assert caught.value.name == "Predicter"
    assert caught.value.obj is homespun
    with pytest.raises(AttributeError, match="'mobilnet_v2'") as caught:
        _ = homespun.zoo.mobilnet_v2  # type: ignore[attr-defined]
    assert caught.value.name == "mobilnet_v2"
    assert caught.value.obj is homespun.zoo


def test_layers() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
