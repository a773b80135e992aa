"""TopicLearner: exact, independent of order, kept on disk, right often enough, and clear about misuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.errors import FormatError, OptionError, ShapeError
from homespun.learning import Prepared, TopicLearner, storage
from homespun.learning.calibration import Calibration
from homespun.learning.pretraining import fit_builtin
from tests.learning.samples import DIMENSIONS, gaussian_topics

FEATURES, TOPICS = gaussian_topics(6, 12, seed=1)
BUILTIN = fit_builtin(FEATURES[:48], TOPICS[:48], rank=16)

said = st.lists(
    st.tuples(st.integers(0, 71), st.sampled_from(["t0", "t3", "ours", "夏天"]), st.booleans()),
    max_size=25,
    unique_by=lambda example: example[0],
)
starts = st.sampled_from([BUILTIN.learner, lambda: TopicLearner(DIMENSIONS)])


def learn(learner: TopicLearner, example: tuple[int, str, bool]) -> None:
    row, topic, right = example
    learner.learn(f"p{row}", FEATURES[row], **{"positive" if right else "negative": [topic]})


def saved(learner: TopicLearner, folder: Path) -> bytes:
    path = folder / "learner.safetensors"
    learner.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learners")


@settings(max_examples=40, deadline=None)
@given(make=starts, said=said, seed=st.integers(0, 99))
def test_any_order_gives_the_same_bytes_and_scores(
    folder: Path, make: Callable[[], TopicLearner], said: list[tuple[int, str, bool]], seed: int
) -> None:
    one, other = make(), make()
    for example in said:
        learn(one, example)
    for index in np.random.default_rng(seed).permutation(len(said)):
        learn(other, said[index])
    assert saved(one, folder) == saved(other, folder)
    assert np.array_equal(one.scores(FEATURES), other.scores(FEATURES))


@settings(max_examples=40, deadline=None)
@given(make=starts, said=said, extra=said)
def test_learning_and_forgetting_leaves_no_trace(
    folder: Path,
    make: Callable[[], TopicLearner],
    said: list[tuple[int, str, bool]],
    extra: list[tuple[int, str, bool]],
) -> None:
    learner = make()
    for topic in {"t0", "t3", "ours", "夏天"} - set(learner.topics):
        learner.add_topic(topic)
    for example in said:
        learn(learner, example)
    before, scores = saved(learner, folder), learner.scores(FEATURES)
    for row, topic, right in extra:
        learner.learn(f"x{row}", FEATURES[row], **{"positive" if right else "negative": [topic]})
    for row, _, _ in extra:
        learner.forget(f"x{row}")
    assert saved(learner, folder) == before
    assert np.array_equal(learner.scores(FEATURES), scores)


def test_a_key_learnt_again_replaces_what_it_said() -> None:
    once, twice = BUILTIN.learner(), BUILTIN.learner()
    once.learn("p", FEATURES[60], positive=["ours"])
    twice.learn("p", FEATURES[3], positive=["ours"], negative=["t1"])
    twice.learn("p", FEATURES[60], positive=["ours"])
    assert np.array_equal(once.scores(FEATURES), twice.scores(FEATURES))
    assert twice.example("p") == (frozenset({"ours"}), frozenset())


def test_examples_can_be_forgotten_after_a_restart(tmp_path: Path) -> None:
    learner = BUILTIN.learner()
    start = learner.scores(FEATURES)
    learner.learn("a", FEATURES[50], positive=["ours"], negative=["t2"])
    learner.learn("b", FEATURES[51], positive=["ours"])
    learner.save(tmp_path / "l")
    again = TopicLearner.load(tmp_path / "l")
    assert again.topics == learner.topics and again.keys == {"a", "b"}
    assert np.array_equal(again.scores(FEATURES), learner.scores(FEATURES))
    again.forget("b")
    again.forget("a")
    again.remove_topic("ours")
    assert np.array_equal(again.scores(FEATURES), start)


def test_files_from_before_topics_had_something_usual_score_as_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = BUILTIN.learner()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "asdict", lambda calibration: {"best": calibration.best, "other": calibration.other})
        learner.save(tmp_path / "old")
    lines = Calibration(BUILTIN.calibration.best, BUILTIN.calibration.other)
    again = TopicLearner.load(tmp_path / "old")
    before = TopicLearner.from_statistics(BUILTIN.space, BUILTIN.statistics, lines)
    assert np.array_equal(again.scores(FEATURES), before.scores(FEATURES))
    assert not np.array_equal(again.scores(FEATURES), learner.scores(FEATURES))


def test_topics_from_few_photos_beside_built_in_ones() -> None:
    learner = BUILTIN.learner()
    before = (learner.scores(FEATURES[:48]).argmax(axis=1) == np.repeat(range(4), 12)).mean()
    for row in (48, 49, 60, 61):
        learner.learn(str(row), FEATURES[row], positive=[TOPICS[row]])
    guess = np.array(learner.topics)[learner.scores(FEATURES).argmax(axis=1)]
    assert (guess[[*range(50, 60), *range(62, 72)]] == np.array(TOPICS)[[*range(50, 60), *range(62, 72)]]).mean() > 0.9
    assert (guess[:48] == np.array(TOPICS)[:48]).mean() >= before - 0.03


def test_an_empty_learner_learns_from_nothing_but_examples() -> None:
    learner = TopicLearner(DIMENSIONS)
    assert learner.scores(FEATURES).shape == (72, 0)
    for row in range(0, 72, 4):
        learner.learn(str(row), FEATURES[row], positive=[TOPICS[row]])
    guess = np.array(learner.topics)[learner.scores(FEATURES).argmax(axis=1)]
    assert (guess == np.array(TOPICS)).mean() > 0.95


def test_an_empty_learner_sees_past_what_all_photos_share() -> None:
    features, topics = gaussian_topics(6, 30, seed=3)
    features += 0.5  # the mean of unit roots is 0.96 long then; in a backbone of photos it is 0.64
    learner = TopicLearner(DIMENSIONS)
    for row in range(len(features)):
        if row % 30 < (2 if topics[row] in ("t0", "t1") else 15):
            learner.learn(f"p{row}", features[row], positive=[topics[row]])
    asked = np.arange(len(features)) % 30 >= 15
    guess = np.array(learner.topics)[learner.scores(features[asked]).argmax(axis=1)]
    assert np.mean(guess == np.array(topics)[asked]) > 0.95
    assert 0.8 < learner.present(features[asked]).sum(axis=1).mean() < 1.3


def test_a_rejection_pushes_away_what_is_like_it_and_little_else() -> None:
    learner = BUILTIN.learner()
    column = learner.topics.index("t0")
    between = (0.6 * FEATURES[0] + 0.4 * FEATURES[12])[None]
    before, others = learner.scores(between)[0, column], learner.present(FEATURES[:12])[:, column]
    assert learner.present(between)[0, column] and others.all()
    learner.learn("p", between[0], negative=["t0"])
    assert learner.scores(between)[0, column] < before - 1 and not learner.present(between)[0, column]
    assert learner.present(FEATURES[1:12])[:, column].all()
    learner.forget("p")
    assert learner.scores(between)[0, column] == before


def test_a_photo_may_be_in_several_topics() -> None:
    learner = BUILTIN.learner()
    for row in range(6):
        learner.learn(str(row), FEATURES[row], positive=["t0", "outdoors"])
    best = learner.scores(FEATURES[6:12]).argsort(axis=1)[:, -2:]
    assert {learner.topics[column] for column in best.ravel()} == {"t0", "outdoors"}


def test_photos_unlike_anything_known_are_in_no_topic_more_often() -> None:
    features, topics = gaussian_topics(12, 20, seed=7, spread=0.6)
    learner = fit_builtin(features[:180], topics[:180], rank=24).learner()
    known, strangers = (learner.confidences(part).max(axis=1) for part in (features[:180], features[180:]))
    assert np.median(strangers) < np.median(known) - 0.2
    assert (strangers < 0.5).mean() > (known < 0.5).mean() + 0.1


def test_prepared_features_score_like_raw_ones_in_half_precision_too() -> None:
    learner = BUILTIN.learner()
    prepared = learner.prepare(FEATURES)
    learner.learn("p", FEATURES[50], positive=["ours"])  # what is prepared outlives what is learnt
    assert np.array_equal(learner.scores(prepared), learner.scores(FEATURES))
    assert np.allclose(learner.scores(FEATURES.astype(np.float16)), learner.scores(FEATURES), atol=0.05)
    parts = Prepared.join([prepared[:10], prepared[10:]])
    assert len(parts) == 72 and np.array_equal(parts.matrix, prepared.matrix)
    assert np.allclose(learner.confidences(prepared), 1 / (1 + np.exp(-learner.scores(prepared))), atol=1e-5)
    assert np.array_equal(learner.present(prepared), learner.confidences(prepared) > 0.5)


def test_built_in_topics_ship_and_stay() -> None:
    learner = TopicLearner.builtin()
    assert len(learner.topics) >= 24 and "wedding" in learner.topics
    features = np.random.default_rng(0).random((3, learner.dimensions), np.float32)
    assert learner.confidences(features).shape == (3, len(learner.topics))
    with pytest.raises(OptionError, match="built in"):
        learner.remove_topic("wedding")


def test_removing_a_topic_keeps_what_was_said_of_others() -> None:
    learner = BUILTIN.learner()
    learner.learn("p", FEATURES[50], positive=["ours", "t1"])
    learner.learn("q", FEATURES[51], positive=["ours"])
    learner.remove_topic("ours")
    assert learner.keys == {"p"} and learner.example("p") == (frozenset({"t1"}), frozenset())
    assert "ours" not in learner.topics


def test_the_nearest_example_says_why() -> None:
    learner = BUILTIN.learner()
    learner.learn("near", FEATURES[50], positive=["ours"])
    learner.learn("far", FEATURES[0], positive=["ours"])
    assert learner.nearest_example(FEATURES[51], "ours") == "near"
    assert learner.nearest_example(FEATURES[51], "t0") is None


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda it: it.learn("p", FEATURES[0], ["a"], ["a"]), OptionError, "both right and wrong"),
        (lambda it: it.learn("p", FEATURES[0]), OptionError, "nothing is said"),
        (lambda it: it.learn("p", FEATURES[0, :5], ["a"]), ShapeError, "expected"),
        (lambda it: it.learn("p", FEATURES[0] * np.nan, ["a"]), ShapeError, "NaN"),
        (lambda it: it.scores(FEATURES[:, :5]), ShapeError, "expected"),
        (lambda it: it.scores(Prepared(FEATURES[:, :5])), ShapeError, "expected"),
        (lambda it: it.forget("p"), OptionError, "nothing was learnt"),
        (lambda it: it.add_topic("t0"), OptionError, "already"),
        (lambda it: it.remove_topic("t9"), OptionError, "no topic"),
        (lambda it: TopicLearner(0), OptionError, "dimensions"),
    ],
)
def test_misuse_is_told_and_changes_nothing(act, error, message, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    learner = BUILTIN.learner()
    before = saved(learner, tmp_path)
    with pytest.raises(error, match=message):
        act(learner)
    assert saved(learner, tmp_path) == before


@settings(max_examples=30, deadline=None)
@given(place=st.floats(0, 1), cut=st.booleans())
def test_a_damaged_file_is_refused(folder: Path, place: float, cut: bool) -> None:
    learner = BUILTIN.learner()
    learner.learn("p", FEATURES[50], positive=["ours"])
    whole = bytearray(saved(learner, folder))
    at = int(place * (len(whole) - 1))
    if cut:
        del whole[at:]
    else:
        whole[at] ^= 0x15
    damaged = folder / "damaged"
    damaged.write_bytes(whole)
    with pytest.raises(FormatError, match="damaged"):
        TopicLearner.load(damaged)


def test_a_kill_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    program = f"""
import numpy as np
from homespun.learning import TopicLearner
learner = TopicLearner(400)
for n in range(10000):
    learner.learn(str(n), np.random.default_rng(n).random(400), positive=["a"])
    learner.save({str(tmp_path / "l")!r})
    print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for delay in (0.0, 0.013, 0.029):
        process.stdout.readline()
        time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(TopicLearner.load(tmp_path / "l").keys) >= 3
