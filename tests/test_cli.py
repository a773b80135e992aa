"""The command line: what each command prints for people and programs, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from homespun.learning import TopicLearner
from tests.album import small_library
from tests.command_line import Run, runner

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' own topics and features, and no data folder of whoever runs them."""

    def learner() -> TopicLearner:
        learner = TopicLearner(small_library.DIMENSIONS)
        for topic in small_library.BUILTIN:
            pixels = np.full((1, 224, 224, 3), COLOURS[topic], dtype=np.uint8)
            learner.learn(f"built in {topic}", Embedder().embed_pixels(pixels)[0], positive=[topic])
        return learner

    monkeypatch.setattr("homespun.learning.TopicLearner.builtin", staticmethod(learner))
    monkeypatch.setattr("homespun.album.topics.builtin_names", lambda keys: small_library.BUILTIN)
    monkeypatch.setattr("homespun.album.vision.Embedder", Embedder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HOMESPUN_DATA", raising=False)


class Embedder(small_library.Embedder):
    """Mean colours about grey, so that colours lie in opposite directions."""

    def embed_pixels(self, pixels):
        return super().embed_pixels(pixels) - 0.35


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        for number in range(2):
            Image.new("RGB", (64, 48 + number), colour).save(folder / f"{name}-{number}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return runner(capfd)


@pytest.fixture
def indexed(run, photos: Path) -> Path:
    assert run("album", "index", photos).code == 0
    return photos


def test_index_tells_what_it_did(run, photos):
    result = run("album", "index", photos)
    assert result.code == 0
    assert "6 new" in result.out
    assert "1 can't be read; `homespun album status --problems` says why." in result.out
    again = run("album", "index", "--json")
    assert again.code == 0
    assert (again.json["new"], again.json["unchanged"], again.json["stopped"]) == (0, 7, False)


def test_status(run, indexed):
    status = run("album", "status", "--json").json
    assert (status["photos"], status["unreadable"], status["topics"]) == (6, 1, 2)
    assert status["roots"] == [str(indexed)]
    told = run("album", "status", "--problems")
    assert told.code == 0
    assert f"{indexed / 'broken.jpg'}: " in told.out
    problems = run("album", "status", "--problems", "--json").json["problems"]
    assert [problem["path"] for problem in problems] == [str(indexed / "broken.jpg")]


def test_topics_and_show(run, indexed):
    topics = {topic["key"]: topic for topic in run("album", "topics", "--json").json}
    assert (topics["red"]["photos"], topics["green"]["photos"]) == (2, 2)
    assert "red\tRed\t红色\t2" in run("album", "topics").out
    page = run("album", "show", "--topic", "red", "--json").json
    assert page["total"] == 2
    assert {photo["name"] for photo in page["photos"]} == {"red-0.jpg", "red-1.jpg"}
    listed = run("album", "show", "--text", "blue", "--limit", "1")
    assert "1 to 1 of 2 photos" in listed.out
    one = run("album", "show", indexed / "red-0.jpg")
    assert "64 x 48, JPEG" in one.out
    assert run("album", "show", indexed / "red-0.jpg", "--json").json["name"] == "red-0.jpg"


def test_correct_and_undo(run, indexed):
    blue = indexed / "blue-0.jpg"
    change = run("album", "correct", blue, "--is", "green", "--not", "red", "--json").json
    assert (change["kind"], change["topics"]) == ("label", ["green", "red"])
    assert {topic["key"]: topic["source"] for topic in run("album", "show", blue, "--json").json["topics"]} == {
        "green": "human",
        "red": "human",
    }
    told = run("album", "correct", blue, indexed / "blue-1.jpg", "--none")
    assert "Noted for 2 photos (change 2)" in told.out
    assert "1" in run("album", "undo", "--list").out
    assert "Undone (change 1)" in run("album", "undo", "1").out
    assert run("album", "undo", "1").code == 1
    assert "Put back (change 1)" in run("album", "undo", "1", "--redo").out
    assert [change["undone"] for change in run("album", "undo", "--list", "--json").json] == [False, False]


def test_topics_of_ones_own(run, indexed):
    topic = run("album", "add-topic", "Grandma's sea", indexed / "blue-0.jpg", "--zh", "外婆的海", "--json").json
    assert (topic["key"], topic["name_zh"], topic["photos"]) == ("grandmas-sea", "外婆的海", 2)
    assert run("album", "rename-topic", "grandmas-sea", "--en", "The sea").code == 0
    assert run("album", "hide-topic", "The sea").code == 0
    assert [topic["key"] for topic in run("album", "topics", "--json").json] == ["red", "green"]
    assert run("album", "hide-topic", "外婆的海", "--show").code == 0
    assert [topic["name_en"] for topic in run("album", "topics", "--json").json] == ["Red", "Green", "The sea"]
    assert "Removed grandmas-sea" in run("album", "remove-topic", "The sea").out
    assert "The sea" not in run("album", "topics", "--all").out


def test_doubts(run, indexed):
    assert isinstance(run("album", "doubts", "--json").json, list)
    assert run("album", "doubts").code == 0
    change = run("album", "doubts", "--answer", indexed / "blue-0.jpg", "red", "no", "--json").json
    assert (change["kind"], change["details"]) == ("answer", {"answer": "no"})
    assert run("album", "doubts", "--answer", indexed / "blue-0.jpg", "red", "perhaps").code == 2
    assert run("album", "doubts", "--ask").code == 2  # no terminal here


def test_doubts_one_by_one(run, indexed, monkeypatch):
    from homespun.commands import corrections

    Image.new("RGB", (64, 50), (200, 80, 30)).save(indexed / "orange.jpg")  # so that one is left to ask about
    assert run("album", "index").code == 0
    keys = iter("ynu?sq")
    monkeypatch.setattr(corrections.typer, "getchar", lambda: next(keys))
    monkeypatch.setattr(corrections.sys.stdin, "isatty", lambda: True, raising=False)
    result = run("album", "doubts", "--ask")
    assert result.code == 0
    assert "y: yes   n: no   s: skip   u: undo the last answer   q: leave" in result.out
    assert result.out.count("Is photo ") == 5
    assert "2 answers given." in result.out
    kinds = [(change["kind"], change["undone"]) for change in run("album", "undo", "--list", "--json").json]
    assert kinds == [("answer", False), ("answer", True), ("answer", False)]


def test_export(run, indexed, tmp_path):
    assert run("album", "export", tmp_path / "all.csv", "--json").json == {
        "file": str(tmp_path / "all.csv"),
        "format": "csv",
        "photos": 6,
    }
    assert "6 photos written" in run("album", "export", tmp_path / "all.json").out
    assert len(json.loads((tmp_path / "all.json").read_text())["photos"]) == 6
    run("album", "export", tmp_path / "all.json", "--sidecars", tmp_path / "side")
    assert len(list((tmp_path / "side").rglob("*.xmp"))) == 6
    assert list(indexed.glob("*.xmp")) == []


FAILURES = [
    (("album", "status"), 1, "there is no album in"),
    (("album", "index"), 1, "no folder of photos yet"),
    (("album", "index", "/no/such/folder"), 1, "there is no folder /no/such/folder"),
    (("album", "index", __file__), 1, "is not a folder"),
    (("model", "info", "/no/such/net.hsp"), 1, "there is no such file"),
    (("model", "info", "net.docx"), 1, "can't be read"),
    (("album", "serve", "--host", "192.0.2.1", "--port", "1"), 1, "can't listen on 192.0.2.1 port 1"),
    (("album", "serve", "--language", "fr"), 2, "en or zh"),
    (("album", "undo", "--redo"), 2, "--redo needs the number of a change"),
    (("album", "undo", "first"), 2, "valid integer"),
    (("album", "indx"), 2, "indx"),
    (("album", "index", "--folder"), 2, "--folder"),
    (("album", "evaluate", "--known", "."), 2, "--test DIR or --split-by"),
    (("album", "evaluate", "--known", ".", "--test", ".", "--shots", "1,x"), 2, "1,2,5"),
]


@pytest.mark.parametrize(("words", "code", "said"), FAILURES)
def test_failures_are_one_line_and_an_exit_code(run, words, code, said):
    result = run(*words)
    assert result.code == code
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    if code == 1:
        assert result.err.count("\n") == 1
        assert result.err.startswith("homespun: ")


def test_failures_within_an_album(run, indexed):
    for words, said in (
        (
            ("correct", indexed / "red-0.jpg", "--is", "wedding"),
            "there is no topic 'wedding'; the topics are: red, green",
        ),
        (("correct", "999", "--is", "red"), "there is no photo 999"),
        (("correct", indexed / "broken.jpg", "--is", "red"), "status --problems"),
        (("correct", indexed / "red-0.jpg"), "a correction names topics"),
        (("show", "--from", "05.2020"), "is no date"),
        (("show", "--sort", "doubt"), "within a topic"),
        (("remove-topic", "red"), "hidden, not removed"),
        (("undo",), "nothing to undo"),
        (("export", "/no/such/folder/all.json"), "No such file"),
    ):
        result = run("album", *words)
        assert result.code == 1, words
        assert said in result.err
        assert result.err.count("\n") == 1


def test_errors_as_json(run):
    result = run("album", "status", "--json")
    assert result.code == 1
    assert json.loads(result.err)["kind"] == "LibraryError"
    assert result.out == ""


def test_two_at_once(run, indexed, tmp_path):
    from homespun.commands.output import default_data_dir

    with small_library.open_album(default_data_dir()):
        busy = run("album", "correct", indexed / "red-0.jpg", "--none")
        assert busy.code == 1
        assert f"(process {os.getpid()})" in busy.err
        assert run("album", "topics").code == 0


def test_data_folder_by_option_and_environment(run, photos, tmp_path, monkeypatch):
    assert run("album", "index", photos, "--data", tmp_path / "here").code == 0
    assert (tmp_path / "here" / "album.sqlite3").exists()
    assert run("album", "status").code == 1
    monkeypatch.setenv("HOMESPUN_DATA", str(tmp_path / "here"))
    assert run("album", "status", "--json").json["photos"] == 6


@pytest.mark.parametrize(
    "words", [(), ("album",), ("album", "index"), ("album", "serve"), ("model", "bench"), ("train",)]
)
def test_help_reads_well(run, words):
    result = run(*words, "--help")
    assert result.code == 0
    assert "Usage: homespun" in result.out


def test_every_command_is_documented():
    from homespun.commands import build_app

    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
    app = build_app()
    for command in app.registered_commands:
        assert f"homespun {command.callback.__name__} " in page
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            name = command.name or command.callback.__name__.replace("_", "-")
            assert f"homespun {group.name} {name}" in page, f"docs/command-line.md does not tell of {group.name} {name}"


def test_every_option_of_training_is_documented():
    from homespun.commands import build_app

    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    command = typer.main.get_command(build_app()).commands["train"]
    for option in [word for parameter in command.params for word in parameter.opts if word.startswith("--")]:
        assert option in page or option == "--help", f"docs/training.md does not tell of {option}"


def test_compressing_a_model(run, tmp_path, photos):
    import homespun as hs

    hs.save(hs.zoo.mobilenet_v2(classes=3, width=0.35, image_size=32), tmp_path / "net.hsp")
    small = run("model", "compress", tmp_path / "net.hsp", tmp_path / "small.hsp", "--keep-flops", "0.6", "--json").json
    assert small["flops"] <= 0.6 * small["flops_before"]
    assert small["bytes"] < small["bytes_before"] / 3
    rounded = run("model", "compress", tmp_path / "net.hsp", tmp_path / "int8.hsp", "--photos", photos, "--json").json
    assert rounded["flops"] == rounded["flops_before"]
    net, int8 = hs.load(tmp_path / "net.hsp"), hs.load(tmp_path / "int8.hsp")
    assert any(t.limit is not None for t in int8.tensors.values())
    assert (int8.data("stem.norm.running_mean") != net.data("stem.norm.running_mean")).any()  # rounded on the photos
    options = ("--keep-flops", "0.6", "--photos", photos, "--weights", "float32", "--json")
    run("model", "compress", tmp_path / "net.hsp", tmp_path / "folded.hsp", *options)
    folded, plain = hs.load(tmp_path / "folded.hsp"), hs.prune_channels(net, keep_flops=0.6, spread="global")
    name = "blocks.3.project.conv.weight"
    assert folded.data(name).shape == plain.data(name).shape
    assert (folded.data(name) != plain.data(name)).any()
    mixed = run(
        *("model", "compress", tmp_path / "net.hsp", tmp_path / "mixed.hsp"),
        *("--photos", photos, "--budget", "10", "--limit", "8", "--json"),
    ).json
    assert mixed["agreement"] >= 0.9
    assert mixed["photos"] <= 8
    halves = [t.name for t in hs.load(tmp_path / "mixed.hsp").tensors.values() if t.half]
    assert sorted(halves) == sorted(mixed["layers_in_16_bits"])
    said = run("model", "compress", tmp_path / "net.hsp", tmp_path / "small.hsp", "--keep-flops", "0.6").out
    assert "Fine-tune" in said
    assert run("model", "compress", tmp_path / "net.hsp", tmp_path / "no.hsp", "--budget", "1").code != 0


def test_model_commands(run, tmp_path, photos):
    import homespun as hs

    hs.save(hs.zoo.mobilenet_v2(classes=3, width=0.35, image_size=32), tmp_path / "net.hsp")
    listing = run("model", "info", tmp_path / "net.hsp")
    assert listing.code == 0
    assert "parameters" in listing.out
    facts = run("model", "info", tmp_path / "net.hsp", "--json").json
    assert list(facts["outputs"].values()) == [[3]]
    converted = run(
        "model", "convert", tmp_path / "net.hsp", tmp_path / "small.hsp", "--weights", "int8", "--json"
    ).json
    assert converted["bytes"] < converted["bytes_before"] / 2
    for target in ("net.onnx", "small.onnx", "net.safetensors"):
        weights = ("--weights", "int8") if target.startswith("small") else ()
        assert run("model", "convert", tmp_path / "net.hsp", tmp_path / target, *weights).code == 0
    assert run("model", "convert", tmp_path / "net.onnx", tmp_path / "back.hsp").code == 0
    for folder, coded in ((), False), (("--photos", photos), True):
        assert (
            run("model", "convert", tmp_path / "net.hsp", tmp_path / "q.onnx", "--weights", "int8", *folder).code == 0
        )
        assert (b"QuantizeLinear" in (tmp_path / "q.onnx").read_bytes().replace(b"DequantizeLinear", b"")) == coded
    same = run("model", "check", tmp_path / "net.hsp", tmp_path / "back.hsp", "--photos", photos, "--json").json
    assert same["same"] and {row["inputs"] for row in same["outputs"]} == {"random", "photos"}
    assert same["outputs"][0]["difference"] < 1e-5
    assert "The same" in run("model", "check", tmp_path / "net.onnx", tmp_path / "back.hsp").out
    other = run("model", "check", tmp_path / "net.hsp", tmp_path / "small.onnx", "--tolerance", "1e-9")
    assert other.code == 1 and "Different" in other.out
    timed = run("model", "bench", tmp_path / "small.hsp", "--runs", "2", "--threads", "1", "--json").json
    assert 0 < timed["min_ms"] <= timed["median_ms"]
    assert timed["arena_bytes"] > 0
    assert "Median" in run("model", "bench", tmp_path / "small.hsp", "--runs", "2", "--threads", "1").out


def test_models_of_text_are_timed_and_compared(run, tmp_path):
    import homespun as hs
    from homespun.zoo.tinybert import Size

    network = hs.zoo.tinybert(3, 2, sequence=6, vocabulary=50, size=Size(width=16, heads=2, hidden=32))
    hs.save(network, tmp_path / "text.hsp")
    assert run("model", "bench", tmp_path / "text.hsp", "--runs", "2", "--json").json["median_ms"] > 0
    assert run("model", "check", tmp_path / "text.hsp", tmp_path / "text.hsp", "--json").json["same"]


def test_without_the_album_extra_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    for name in [name for name in sys.modules if name.startswith("homespun.commands")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("album", "status")
    assert result.code == 1
    assert "pip install 'homespun[album]'" in result.err


def program(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    code = "import sys; from homespun.cli import main; main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def test_as_a_program(tmp_path):
    ended = program("--version")
    out, err = ended.communicate(timeout=60)
    assert (ended.returncode, err) == (0, "")
    assert out.startswith("homespun ")
    ended = program("album", "status", "--data", tmp_path)
    out, err = ended.communicate(timeout=60)
    assert (ended.returncode, out) == (1, "")
    assert err.startswith("homespun: there is no album in")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_its_address_and_ends_cleanly(tmp_path, ending):
    server = program("album", "serve", "--port", "0", "--data", tmp_path / "data", "--json", process_group=0)
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(3)]
        address = json.loads("".join(lines))["address"]
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api/v1/status", timeout=5) as answer:
                    assert json.load(answer)["photos"] == 0
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.1)
        asked = program("album", "learn", "refine", "--data", tmp_path / "data")  # its server is asked
        assert "said something about 0 photos" in asked.communicate(timeout=60)[1]
        server.send_signal(ending)
        _, err = server.communicate(timeout=30)
    finally:
        server.kill()
    assert server.returncode == 0
    assert "The album is closed." in err
    assert "Traceback" not in err
    # The data folder is free again.
    small_library.open_album(tmp_path / "data", builtin=None).close()
