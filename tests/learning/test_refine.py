"""Refining: a kill at any moment changes nothing, a pause holds, and only what is better may replace what is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.errors import FormatError, OptionError
from homespun.learning import map_file
from homespun.learning.exemplars import Exemplars, chosen, folds
from homespun.learning.refine import BATCH, Refined, Refiner, network_file, read_network
from homespun.learning.replay import RefinementLoss
from homespun.learning.significance import at_least, by_luck, compare
from homespun.learning.space import FeatureSpace
from homespun.learning.standstill import Standstill, Stopped
from homespun.learning.tail import Maps, Tail
from homespun.learning.task import FOLDS, Task, divide
from tests.learning.refining_samples import backbone, maps, narrow_backbone, pictures, start, task

ROOT = Path(__file__).parents[2]


def refine(folder: Path, **options: object) -> Refined:
    foundation, exemplars = start()
    given = {"threads": 1, "epochs": 3, **options}
    return Refiner(backbone(), foundation, exemplars, task(), folder, **given).run()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Refined:
    return refine(tmp_path_factory.mktemp("undisturbed"))


def assert_same(one: Refined, other: Refined) -> None:
    assert one.verdict == other.verdict
    for name, value in one.weights.items():
        np.testing.assert_array_equal(value, other.weights[name])
    for name, statistics in one.foundation.statistics.items():
        np.testing.assert_array_equal(statistics.total, other.foundation.statistics[name].total)


def test_it_trains_the_last_block_and_nothing_else(undisturbed):
    tail = Tail(backbone())
    assert tail.names == ["blocks.2.conv.weight"]
    assert list(undisturbed.weights) == tail.names
    assert not np.array_equal(undisturbed.weights[tail.names[0]], tail.weights[tail.names[0]])
    new = tail.backbone_with(undisturbed.weights)
    for name, value in backbone().parameters().items():
        assert np.array_equal(new.parameters()[name], value) == (name not in tail.names), name


def test_it_learns_what_it_is_told(tmp_path):
    foundation, exemplars = start(narrow_backbone())
    labels = task(each=32, spread=0.7)
    verdict = Refiner(narrow_backbone(), foundation, exemplars, labels, tmp_path, threads=1, epochs=24).run().verdict
    assert verdict.family.challenger > verdict.family.champion + 0.1
    assert verdict.family.gained > 3 * verdict.family.lost
    assert verdict.family.photos == 192
    assert verdict.builtin.photos == 32


WORK = """
import sys
from pathlib import Path
from homespun.learning import refine
from tests.learning.test_refine import refine as run
refine.SECONDS_BETWEEN_CHECKPOINTS = 0.0
run(Path(sys.argv[1]))
"""


def saved_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_killed_again_and_again_it_ends_the_same(tmp_path, undisturbed):
    rng = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    kills = 0
    checkpoint = tmp_path / "checkpoint.hsp"
    for _ in range(6):
        worker = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path)], cwd=ROOT, env=environment)
        before = saved_at(checkpoint)
        while worker.poll() is None and saved_at(checkpoint) in (before, 0):
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.05))
        kills += worker.poll() is None
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert kills
    assert_same(refine(tmp_path), undisturbed)


def test_stopped_it_goes_on_where_it_was(tmp_path, undisturbed):
    stops = 0
    for number in range(40):
        standstill = Standstill(threads=1)
        threading.Timer(0.1 * 1.2**number, standstill.stop).start()  # in the end long enough for any machine
        try:
            result = refine(tmp_path, standstill=standstill)
        except Stopped:
            stops += 1
            continue
        assert stops
        assert_same(result, undisturbed)
        return
    raise AssertionError("it never got to its end")


def test_a_pause_holds_and_leaves_no_trace(tmp_path, undisturbed):
    standstill = Standstill(threads=1)
    shares: list[float] = []
    result: list[Refined] = []
    worker = threading.Thread(
        target=lambda: result.append(refine(tmp_path, standstill=standstill, on_progress=shares.append))
    )
    worker.start()
    paused = 0
    while worker.is_alive():
        standstill.pause()
        before = len(shares)
        time.sleep(0.03)
        assert len(shares) <= before + 1  # a step that had ended may still be told
        paused += 1
        standstill.resume()
        time.sleep(0.02)
    assert paused > 2
    assert_same(result[0], undisturbed)


def test_a_challenger_that_is_no_better_is_not_let_in(tmp_path):
    foundation, exemplars = start()
    honest = task()
    wrong = Task(
        honest.keys,
        honest.topics,
        honest.maps,
        honest.positive[np.random.default_rng(0).permutation(len(honest))],  # labels that say nothing
        honest.negative,
        honest.folds,
    )
    verdict = Refiner(backbone(), foundation, exemplars, wrong, tmp_path, threads=1, epochs=3).run().verdict
    assert not verdict.replaces
    assert verdict.reason in ("not better", "by chance")


def test_a_network_is_judged_by_photos_that_it_never_saw(tmp_path):
    """With the champion's own networks as challengers, nothing is gained and nothing lost."""
    refine(tmp_path / "first")
    again = refine(tmp_path / "second", champion=tmp_path / "first")
    assert (again.verdict.family.gained, again.verdict.family.lost) == (0, 0)
    assert again.verdict.reason == "not better"


def test_the_disk_is_full(tmp_path, monkeypatch, undisturbed):
    from homespun.learning import refine as module

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", full)
        with pytest.raises(OSError, match="No space left"):
            refine(tmp_path)
    assert read_network(tmp_path / network_file(0)) is None
    assert_same(refine(tmp_path), undisturbed)


def test_too_few_labels_are_refused():
    with pytest.raises(OptionError, match=r"54 photos; refining needs 60"):
        task(each=9)


def test_a_task_survives_its_file(tmp_path):
    one = task()
    one.save(tmp_path / "task")
    other = Task.load(tmp_path / "task")
    assert (other.keys, other.topics, other.said(3)) == (one.keys, one.topics, one.said(3))
    np.testing.assert_array_equal(other.maps.take(slice(None)), one.maps.take(slice(None)))
    np.testing.assert_array_equal(other.folds, one.folds)
    (tmp_path / "task").write_bytes((tmp_path / "task").read_bytes()[:-9])
    with pytest.raises(FormatError, match="damaged"):
        Task.load(tmp_path / "task")


def test_a_task_of_many_labels_stays_on_the_disk(tmp_path, monkeypatch):
    """However many maps there are, a sample of them is all that is held, and what is read is what was written."""
    monkeypatch.setattr(map_file, "SAMPLE", 16)
    values = maps(pictures(0, 200, seed=3)).astype(np.float16)
    most = 0
    with map_file.MapWriter(tmp_path / "task.maps") as writer:
        for value in values:
            writer.add(value)
            most = max(most, writer.held)
    assert most == 15 * values[0].nbytes  # the sixteenth sets the scale, and all are written
    found = writer.maps()
    assert isinstance(found.codes, np.memmap)
    first = Maps.of(values[:16])
    np.testing.assert_array_equal(found.codes, Maps.encode(values.astype(np.float32), first.low, first.step))
    said = np.ones((200, 1), np.bool_)
    keys = tuple(map(str, range(200)))
    whole = Task(keys, ("t",), found, said, ~said, np.zeros(200, np.intp))
    written = saved_at(tmp_path / "task.maps")
    whole.save(tmp_path / "task.safetensors")
    assert saved_at(tmp_path / "task.maps") == written  # it is not written, nor read, a second time
    assert (tmp_path / "task.safetensors").stat().st_size < values.nbytes / 8
    again = Task.load(tmp_path / "task.safetensors")
    assert isinstance(again.maps.codes, np.memmap)
    np.testing.assert_array_equal(again.maps.take([7, 150]), found.take([7, 150]))
    (tmp_path / "task.maps").write_bytes(b"short")
    with pytest.raises(FormatError, match="damaged"):
        Task.load(tmp_path / "task.safetensors")


def test_judging_holds_features_of_one_batch_at_a_time(tmp_path, monkeypatch):
    """Features of all labelled photos would grow with the labels: space and learner see a batch at most."""
    most = 0
    project = FeatureSpace.project

    def counted(self: FeatureSpace, features: np.ndarray) -> np.ndarray:
        nonlocal most
        most = max(most, len(features))
        return project(self, features)

    monkeypatch.setattr(FeatureSpace, "project", counted)
    refine(tmp_path, epochs=1)
    assert most == BATCH


def test_photos_of_one_day_are_held_out_together():
    days = [f"2024-01-{1 + number // 4:02}" for number in range(100)]
    found = divide([str(number) for number in range(100)], days)
    assert all(len(set(found[at : at + 4])) == 1 for at in range(0, 100, 4))
    assert len(set(found)) == FOLDS
    assert len(set(divide([str(number) for number in range(100)], ["one day"] * 100))) == FOLDS


def test_exemplars_survive_their_file_in_four_bits(tmp_path):
    _, exemplars = start()
    (tmp_path / "e").write_bytes(exemplars.encode())
    again = Exemplars.read(tmp_path / "e")
    assert again.topics == exemplars.topics
    np.testing.assert_array_equal(again.maps.take(slice(None)), exemplars.maps.take(slice(None)))
    (tmp_path / "e").write_bytes(b"no such thing")
    with pytest.raises(FormatError, match="damaged"):
        Exemplars.read(tmp_path / "e")


def test_eight_bits_keep_maps():
    values = maps(pictures(0, 8, seed=3))
    kept = Maps.of(values).take(slice(None))
    assert np.abs(kept - values).mean() < 0.01 * values.std()


def test_herding_takes_what_is_like_all():
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    some = chosen(rows, 10)
    assert len(set(some)) == 10
    assert np.linalg.norm(rows[some].mean(axis=0) - rows.mean(axis=0)) < 0.2
    assert len(chosen(rows[:4], 10)) == 4
    assert folds(["a", "a", "b", "a", "b"], 2).tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(("gained", "lost", "chance"), [(0, 0, 1.0), (5, 0, 1 / 32), (3, 1, 5 / 16), (8, 2, 56 / 1024)])
def test_what_luck_would_do(gained, lost, chance):
    champion = np.array([False] * gained + [True] * lost + [True] * 7)
    challenger = np.array([True] * gained + [False] * lost + [True] * 7)
    right = np.stack([champion, challenger])
    found = compare(right, np.where(right, 0.0, 1.0))
    assert (found.gained, found.lost, found.photos) == (gained, lost, gained + lost + 7)
    assert found.chance_of_gains == pytest.approx(chance)
    assert found.chance == pytest.approx(chance, abs=0.02)  # with gaps of 0 and 1 both tests ask the same
    assert at_least(600, 1000) < 1e-9


def test_small_steps_in_one_direction_are_no_luck():
    random = np.random.default_rng(0)
    assert by_luck(random.normal(0.0, 1.0, 400)) > 0.05
    assert by_luck(random.normal(0.3, 1.0, 400)) < 0.001
    assert by_luck(random.normal(-0.3, 1.0, 400)) > 0.99
    assert by_luck(np.zeros(0)) == 1.0


def test_the_loss_is_cross_entropy_and_distillation():
    build = hs.GraphBuilder("scores")
    model = build.build(build.linear(build.input("x", (3,)), "layer", 3, 4))
    trainer = hs.Trainer(model, RefinementLoss(0.5), hs.optim.SGD(0.0), batch=2)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    said = np.array([[1, 0, 0, 0], [0, 0.6, 0.6, 0]], np.float32)
    teacher = np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4], np.float32)
    scores = x @ trainer.parameters()["layer.weight"] + trainer.parameters()["layer.bias"]

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    expected = -(said * log_softmax(scores)).sum() / 2 - 0.5 * 4 * (teacher * log_softmax(scores / 2)).sum() / 2
    assert trainer.loss_of(x, [said, teacher]) == pytest.approx(expected, rel=1e-5)
