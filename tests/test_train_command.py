"""`homespun train` and `homespun model predict`: from a folder of photos to a model that names them, in a shell."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

import homespun as hs
from homespun import optim, schedules
from homespun.graph.class_names import class_names
from homespun.training.checkpoint import read_extra
from tests.command_line import Run, runner
from tests.data import photos
from tests.training.small import convolutional

FAST = ("--learning-rate", "0.01", "--augment", "none")
EVERYTHING = ("--trainable", "all", "--augment", "strong", "--mixup", "0.2", "--cutmix", "1", "--batch", "4")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return runner(capfd)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos in `colours/` and a small network in `small.hsp`; commands run there."""
    monkeypatch.chdir(tmp_path)
    photos.folder(tmp_path / "colours", each=8)
    model = convolutional(classes=5)
    model.metadata.update({"input_mean": "127.5", "input_scale": "64"})
    hs.save(model, tmp_path / "small.hsp")
    return tmp_path


def parameters(path: Path) -> dict[str, np.ndarray]:
    return dict(hs.load(path).parameters())


def test_train_then_predict(run: Run, world: Path) -> None:
    trained = run("train", "small.hsp", "colours", "--trainable", "all", "--epochs", "20", "--batch", "4", *FAST)
    assert trained.code == 0
    assert "small from small.hsp, with a new last layer." in trained.err
    assert "18 photos in 3 classes, and 6 photos to validate with." in trained.err
    assert "Epoch 20 of 20: loss" in trained.err
    assert "colours.hsp: 0.0 MB, tells 3 classes apart." in trained.out
    assert "Right for 100.0% of 6 photos that it has not learnt from." in trained.out
    assert class_names(hs.load("colours.hsp")) == ("blue", "green", "red")

    told = run("model", "predict", "colours.hsp", "colours/red", "colours/blue/0.jpg")
    assert told.code == 0
    lines = [line.split("\t") for line in told.out.splitlines()]
    assert lines[0] == ["Photo", "Class", "Sure"]
    assert lines[-1][:2] == ["colours/blue/0.jpg", "blue"]
    assert [line[1] for line in lines[1:]] == ["red"] * 8 + ["blue"]
    result = run("model", "predict", "colours.hsp", "colours/green", "--top", "3", "--json", "--weights", "int8").json
    assert len(result["photos"]) == 8
    for photo in result["photos"]:
        assert photo["classes"][0]["class"] == "green"
        assert sum(c["confidence"] for c in photo["classes"]) == pytest.approx(1)


def test_what_json_tells(run: Run, world: Path) -> None:
    (world / "colours" / "red" / "broken.jpg").write_bytes(b"nothing")
    (world / "colours" / "nobody").mkdir()
    result = run("train", "small.hsp", "colours", "--epochs", "2", "--weights", "int8", "--json")
    assert "left out: colours/red/broken.jpg" in result.err
    assert "nobody: no photos in it" in result.err
    assert logging.getLogger("homespun.data").level == logging.NOTSET  # the program that runs it keeps its own warnings
    told = result.json
    assert (told["paused"], told["resumed"], told["model"]) == (False, False, "colours.hsp")
    assert told["classes"] == ["blue", "green", "red"]
    assert (told["photos"], told["validation_photos"], told["steps"]) == (18, 6, 4)
    assert told["bytes"] == Path("colours.hsp").stat().st_size
    assert [u["path"] for u in told["unreadable"]] == ["colours/red/broken.jpg"]
    assert len(told["epochs"]) == 2
    assert told["validation_accuracy"] == told["epochs"][-1]["validation_accuracy"]
    assert told["memory"]["arena"] > 0


def test_a_trained_model_can_be_trained_on(run: Run, world: Path) -> None:
    """Same classes: its last layer stays. Others: it gets a new one."""
    assert run("train", "small.hsp", "colours", "--epochs", "1", "--weights", "int8").code == 0
    again = run("train", "colours.hsp", "colours", "--epochs", "1", "--export", "again.hsp", "--trainable", "all")
    assert again.code == 0
    assert "with a new last layer" not in again.err
    (world / "colours" / "red").rename(world / "colours" / "rot")
    other = run("train", "colours.hsp", "colours", "--epochs", "1", "--export", "other.hsp")
    assert "with a new last layer" in other.err
    assert class_names(hs.load("other.hsp")) == ("blue", "green", "rot")


def test_zoo_networks_begin_with_weights_or_say_that_they_have_none(run: Run, world: Path) -> None:
    shipped = run("train", "efficientnet_lite0", "colours", "--epochs", "1", "--image-size", "64", "--json")
    assert shipped.code == 0
    assert "efficientnet_lite0 with the weights that come with Homespun, with a new last layer." in shipped.err
    assert shipped.json["validation_accuracy"] > 0.5
    refused = run("train", "mobilenet_v2", "colours", "--export", "m.hsp")
    assert (refused.code, refused.out) == (1, "")
    assert "--pretrained FILE.pth" in refused.err
    head = run("train", "mobilenet_v2", "colours", "--export", "m.hsp", "--from-scratch")
    assert "--trainable all" in head.err
    scratch = ("--from-scratch", "--trainable", "all", "--image-size", "32", "--epochs", "1")
    assert run("train", "mobilenet_v1", "colours", "--export", "m.hsp", *scratch).code == 0


def start(*words: str) -> subprocess.Popen[str]:
    code = "import sys; from homespun.cli import main; main(sys.argv[1:])"
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_paused_killed_and_taken_up_it_ends_where_it_would_have(run: Run, world: Path) -> None:
    command = ("train", "small.hsp", "colours", "--epochs", "25", *EVERYTHING, "--weights", "float32")
    assert run(*command, "--export", "whole.hsp").code == 0
    expected = parameters(world / "whole.checkpoint.hsp")

    command = (*command, "--export", "parts.hsp", "--save-every", "0.05")
    checkpoint = world / "parts.checkpoint.hsp"
    random = np.random.default_rng(0)
    ends = []
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(*command)
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(float(random.uniform(0, 0.1)))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        ends.append(process.returncode)
        if process.returncode == 130:
            assert "saved to parts.checkpoint.hsp. The same command goes on." in err
    assert ends[0] == -signal.SIGKILL
    assert set(ends[1:]) <= {130, -signal.SIGKILL, 0}
    result = run(*command, "--json")
    assert result.code == 0
    assert result.json["resumed"]
    assert "parts.checkpoint.hsp" in result.err
    found = parameters(checkpoint)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    whole, parts = (hs.load(f"{name}.hsp").parameters() for name in ("whole", "parts"))
    assert all((whole[name] == parts[name]).all() for name in whole)


def test_a_run_goes_on_with_its_own_options_only(run: Run, world: Path) -> None:
    command = ("train", "small.hsp", "colours", "--batch", "4")
    assert run(*command, "--epochs", "1").code == 0
    other = run(*command, "--epochs", "1", "--trainable", "all")
    assert other.code == 1
    assert "began with --trainable head, not --trainable all" in other.err
    done = run(*command, "--epochs", "1", "--json")
    assert "has done its 1 epoch" in done.err
    assert done.json["steps"] == 5
    more = run(*command, "--epochs", "3", "--memory-budget", "64MB", "--threads", "1", "--json")
    assert more.json["steps"] == 15
    photos.picture((0, 0, 0), 30, 30, 1).save(world / "colours" / "red" / "new.jpg")
    assert "not those that the run began with" in run(*command, "--epochs", "4").err
    (world / "colours" / "grey").mkdir()
    photos.picture((0, 0, 0), 30, 30, 1).save(world / "colours" / "grey" / "new.jpg")
    changed = run(*command, "--epochs", "5")
    assert (changed.code, "grey: not among the classes" in changed.err) == (1, True)


def test_everything_that_learning_can_be_told(run: Run, world: Path) -> None:
    """Each option reaches what is trained: read back from the checkpoint."""
    told = run(
        *("train", "small.hsp", "colours", "--trainable", "all", "--epochs", "6", "--batch", "4"),
        *("--optimizer", "sgd", "--momentum", "0.5", "--clip-norm", "2", "--average", "0.5", "--weight-decay", "0.01"),
        *("--schedule", "step", "--step-every", "2", "--warm-up", "0.4", "--label-smoothing", "0.1", "--json"),
    )
    assert told.code == 0
    trainer = hs.Trainer.from_checkpoint("colours.checkpoint.hsp")
    optimizer = trainer.optimizer
    assert isinstance(optimizer, optim.SGD)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.clip_norm, optimizer.weight_decay) == (0.5, True, 2, 0.01)
    assert trainer.schedule == schedules.WarmUp(2, schedules.StepDecay(10))  # 18 photos: 5 steps an epoch
    assert (trainer.average, trainer.loss.smoothing) == (0.5, 0.1)  # type: ignore[attr-defined]
    exported, plain = hs.load("colours.hsp").parameters(), trainer.parameters()
    last = next(n for n in plain if n.endswith("classifier.weight"))
    np.testing.assert_array_equal(exported[last], trainer.averaged_parameters()[last])
    assert not np.array_equal(exported[last], plain[last])


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("adagrad", optim.Adagrad, None), ("rmsprop", optim.RMSprop, "0.9"), ("lion", optim.Lion, None)],
)
def test_optimizers(run: Run, world: Path, name: str, kind: type, momentum: str | None) -> None:
    more = () if momentum is None else ("--momentum", momentum)
    assert run("train", "small.hsp", "colours", "--epochs", "1", "--optimizer", name, *more).code == 0
    optimizer = hs.Trainer.from_checkpoint("colours.checkpoint.hsp").optimizer
    assert type(optimizer) is kind
    assert getattr(optimizer, "momentum", 0.0) == float(momentum or 0)


def test_a_frozen_part_in_8_bits_and_measured_ranges(run: Run, world: Path) -> None:
    told = run(
        *("train", "small.hsp", "colours", "--epochs", "3", "--frozen-weights", "int8", "--weights", "int8"),
        *("--calibrate", "--plot", "curves.png"),
    )
    assert told.code == 0
    assert hs.Trainer.from_checkpoint("colours.checkpoint.hsp").backbone_weights == "int8"
    limits = [t.limit for t in hs.load("colours.hsp").tensors.values() if t.limit is not None]
    plain = run("train", "small.hsp", "colours", "--epochs", "1", "--export", "plain.hsp", "--weights", "int8")
    assert plain.code == 0
    noted = [t.limit for t in hs.load("plain.hsp").tensors.values() if t.limit is not None]
    assert len(limits) > len(noted) or any((a != b).any() for a, b in zip(limits, noted, strict=False))
    assert (world / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run("model", "predict", "colours.hsp", "colours/red", "--weights", "int8").code == 0


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_models_of_other_formats_are_trained_on(run: Run, world: Path, suffix: str) -> None:
    pytest.importorskip("onnx" if suffix == ".onnx" else "tflite")
    if suffix == ".onnx":
        model = hs.load("small.hsp")
        hs.save(model, "net.onnx")
    else:
        shutil.copy(Path(__file__).parent / "formats/goldens/tflite/classifier_uint8.tflite", "net.tflite")
    told = run("train", f"net{suffix}", "colours", "--epochs", "2", "--trainable", "all", "--batch", "4", "--json")
    assert told.code == 0, told.err
    assert f"from net{suffix}, with a new last layer." in told.err
    assert class_names(hs.load("colours.hsp")) == ("blue", "green", "red")


def test_a_run_of_an_older_release_goes_on(run: Run, world: Path) -> None:
    """Its checkpoint does not know of options that came later; these are then as if they were not given."""
    command = ("train", "small.hsp", "colours", "--epochs", "1")
    assert run(*command).code == 0
    trainer = hs.Trainer.from_checkpoint("colours.checkpoint.hsp")
    extra = read_extra("colours.checkpoint.hsp")
    for later in ("warm_up", "average", "momentum", "clip_norm", "step_every", "frozen_weights"):
        del extra["settings"][later]
    trainer.save_checkpoint("colours.checkpoint.hsp", **extra)
    assert run(*command[:-1], "2").code == 0
    assert "--warm-up" in run(*command[:-1], "3", "--warm-up", "1").err


def test_a_full_disk_is_said_in_a_line(run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(specs: object, partial: Path, metadata: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("homespun.formats.hsp.serialize_file", full)
    told = run("train", "small.hsp", "colours", "--epochs", "1")
    assert (told.code, told.out) == (1, "")
    assert told.err.splitlines()[-1] == "homespun: colours.checkpoint.hsp: No space left on device"


def test_early_stopping(run: Run, world: Path) -> None:
    command = ("train", "small.hsp", "colours", "--epochs", "40", "--early-stop", "2", "--learning-rate", "0", "--json")
    assert len(run(*command).json["epochs"]) == 3
    assert len(run(*command).json["epochs"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("nothing.hsp", "colours"), 1, "nothing.hsp: neither a file nor a network of the zoo"),
        (("tinybert", "colours"), 1, "tinybert is no network for pictures"),
        (("small.hsp", "gone"), 1, "gone: there is no such folder"),
        (("small.hsp", "colours/red"), 1, "one class only, more"),
        (("small.hsp", "colours", "--trainable", "nose.*"), 1, "no parameter matches 'nose.*'"),
        (("small.hsp", "colours", "--memory-budget", "1kB"), 1, "is too small"),
        (("small.hsp", "colours", "--memory-budget", "lots"), 1, "write it like"),
        (("small.hsp", "colours", "--head", "--trainable", "all"), 2, "leave out --trainable"),
        (("small.hsp", "colours", "--epochs", "0"), 2, "--epochs"),
        (("small.hsp", "colours", "--validation", "gone"), 2, "no such folder"),
        (("small.hsp", "colours", "--export", "net.onnx"), 2, "ends in .hsp"),
        (("small.hsp", "colours", "--export", "gone/net.hsp"), 2, "no such folder"),
        (("small.hsp", "colours", "--early-stop", "2", "--validation-share", "0"), 2, "--early-stop"),
        (("small.hsp", "colours", "--step-every", "2"), 2, "--schedule step"),
        (("small.hsp", "colours", "--momentum", "0.9"), 2, "sgd or rmsprop"),
        (("small.hsp", "colours", "--plot", "curves.txt"), 1, ".png"),
        (("small.hsp", "colours", "--clip-norm", "-1"), 2, "--clip-norm"),
        (("small.hsp", "colours", "--image-size", "64", "--from-scratch"), 1, "networks of the zoo"),
    ],
)
def test_misuse_is_said(run: Run, world: Path, words: tuple[str, ...], code: int, told: str) -> None:
    result = run("train", *words)
    assert result.code == code
    assert result.out == ""
    assert told in " ".join(result.err.replace("│", " ").split())
    assert not list(world.glob("*.checkpoint.hsp"))


def test_one_class_and_models_that_are_in_the_way(run: Run, world: Path) -> None:
    (world / "colours.hsp").write_bytes(b"something dear")
    refused = run("train", "small.hsp", "colours")
    assert (refused.code, "colours.hsp exists already" in refused.err) == (1, True)
    assert (world / "colours.hsp").read_bytes() == b"something dear"
    assert run("train", "small.hsp", "colours", "--epochs", "1", "--replace").code == 0
    hs.load("colours.hsp")
    for name in ("blue", "green"):
        (world / "colours" / name).rename(world / name)
    alone = run("train", "small.hsp", "colours", "--export", "one.hsp")
    assert (alone.code, "one class only, red" in alone.err) == (1, True)


def test_what_cannot_be_predicted(run: Run, world: Path) -> None:
    assert run("train", "small.hsp", "colours", "--epochs", "1").code == 0
    (world / "broken.jpg").write_bytes(b"")
    some = run("model", "predict", "colours.hsp", "broken.jpg", "gone.jpg", "colours/red/0.jpg")
    assert some.code == 0
    assert "colours/red/0.jpg" in some.out
    assert "broken.jpg: the file is empty" in some.err
    assert "gone.jpg: there is no such file" in some.err
    none = run("model", "predict", "colours.hsp", "broken.jpg", "--json")
    assert none.code == 1
    assert none.json["unreadable"][0]["path"] == "broken.jpg"
    (world / "empty").mkdir()
    assert "there are no photos in empty" in run("model", "predict", "colours.hsp", "empty").err
    model = hs.load("colours.hsp")
    model.outputs = ["features"]
    model.prune()
    hs.save(model, "features.hsp")
    assert "names for 3 classes" in run("model", "predict", "features.hsp", "colours/red/0.jpg").err
    del model.metadata["classes"]
    hs.save(model, "features.hsp")
    assert run("model", "predict", "features.hsp", "colours/red/0.jpg", "--json").json["photos"][0]["classes"]
    del model.metadata["input_mean"]
    hs.save(model, "plain.hsp")
    assert "how pixels are normalised" in run("model", "predict", "plain.hsp", "colours/red/0.jpg").err
