"""Pausing from other threads, with and without giving memory back, anywhere in a step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homespun import PausedError, losses, optim
from homespun.training import Trainer, callbacks
from tests.training.small import convolutional, images


def make(memory_budget: str | None = None, isa: str | None = None) -> Trainer:
    optimizer = optim.SGD(0.1, momentum=0.9)
    return Trainer(convolutional(), losses.CrossEntropy(), optimizer, batch=8, memory_budget=memory_budget, isa=isa)


def run(trainer: Trainer, steps: int) -> None:
    for i in range(steps):
        trainer.step(*images(seed=i))


def assert_same(a: Trainer, b: Trainer) -> None:
    ours, theirs = ({**t.parameters(), **t.state(), **t.optimizer_state()} for t in (a, b))
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_pauses_at_random_moments_change_nothing() -> None:
    expected = make()
    run(expected, 30)
    paused = make()
    worker = threading.Thread(target=run, args=(paused, 30))
    worker.start()
    random = np.random.default_rng(0)
    pauses = 0
    while worker.is_alive() and pauses < 40:
        time.sleep(float(random.uniform(0, 0.004)))
        assert paused.pause(release_memory=bool(pauses % 2), timeout=10)
        assert paused.paused
        pauses += 1
        paused.resume()
    worker.join()
    assert pauses > 3
    for name, value in expected.parameters().items():
        np.testing.assert_array_equal(paused.parameters()[name], value, err_msg=name)


class Stopping:
    """A program whose first run ends before instruction `at`, as if a pause had come then."""

    def __init__(self, program: object, at: int) -> None:
        self.program, self.at, self.stopped = program, at, False

    def run(self, arrays: object, start: int, wait: bool, end: int = -1) -> int:
        if not self.stopped and end < 0:
            self.stopped = True
            return int(self.program.run(arrays, start, wait, self.at))  # type: ignore[attr-defined]
        return int(self.program.run(arrays, start, wait, end))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.program, name)

    def __len__(self) -> int:
        return len(self.program)  # type: ignore[arg-type]


def stopping_at(at: int, memory_budget: str | None = None) -> Trainer:
    """A trainer that a pause, memory given back, stops before instruction `at` of its next step."""
    trainer = make(memory_budget)
    compiled = trainer._main_program()
    compiled.program = Stopping(compiled.program, at)  # type: ignore[assignment]
    trainer._switch.requested, trainer._switch._release = at > 0, True
    return trainer


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("memory_budget", [None, "600 kB"])
def test_every_place_in_a_step_can_be_left_and_come_back_to(memory_budget: str | None) -> None:
    """Standing still before each instruction in turn, arena released, gives the same parameters every time."""
    x, y = images()
    expected = make(memory_budget)
    expected.step(x, y)
    length = len(expected._main_program().program)
    for at in range(0, length, 3):
        trainer = stopping_at(at, memory_budget)
        timer = threading.Timer(0.02, trainer.resume)
        timer.start()
        trainer.step(x, y)
        timer.join()
        assert_same(trainer, expected)


@pytest.mark.parametrize("clip_norm", [0.0, 0.3])
def test_what_a_step_reports_and_clips_by_is_that_of_a_step_without_a_pause(clip_norm: float) -> None:
    """What runs again after a pause reads parameters that have changed: its loss and norm are not the step's."""

    def made(at: int) -> Trainer:
        optimizer = optim.SGD(0.5, momentum=0.9, clip_norm=clip_norm)
        trainer = Trainer(convolutional(), losses.CrossEntropy(), optimizer, batch=8, average=0.5)
        compiled = trainer._main_program()
        compiled.program = Stopping(compiled.program, at)  # type: ignore[assignment]
        trainer._switch.requested, trainer._switch._release = at > 0, True
        return trainer

    expected = made(0)
    first, second = expected.step(*images()), expected.step(*images(seed=1))
    compiled = expected._main_program()
    length, late = len(compiled.program), 0
    for at in range(1, length, 3):
        trainer = made(at)
        timer = threading.Timer(0.02, trainer.resume)
        timer.start()
        assert trainer.step(*images()) == first
        timer.join()
        late += not compiled.settled_before(at)
        assert trainer.step(*images(seed=1)) == second
        assert_same(trainer, expected)
        np.testing.assert_array_equal(trainer._store["train/control"], expected._store["train/control"])
    assert late > 3


class StoppingTwice(Stopping):
    """A program that a pause stops a second time while it goes on from the first, its memory given back both times."""

    def __init__(self, program: object, at: int, trainer: Trainer) -> None:
        super().__init__(program, at)
        self.trainer, self.again = trainer, False

    def run(self, arrays: object, start: int, wait: bool, end: int = -1) -> int:
        if end >= 0 and not self.again:
            self.again = True
            self.trainer._switch.requested = self.trainer._switch._release = True
            threading.Timer(0.02, self.trainer.resume).start()
            return super().run(arrays, start, wait, (start + end) // 2)
        return super().run(arrays, start, wait, end)


def test_a_pause_may_come_while_another_is_being_undone() -> None:
    x, y = images()
    expected = make()
    loss = expected.step(x, y).loss
    twice = 0
    for at in range(1, len(expected._main_program().program), 4):
        trainer = stopping_at(at)
        compiled = trainer._main_program()
        compiled.program = StoppingTwice(compiled.program.program, at, trainer)  # type: ignore[attr-defined,assignment]
        timer = threading.Timer(0.02, trainer.resume)
        timer.start()
        assert trainer.step(x, y).loss == loss
        timer.join()
        twice += compiled.program.again and bool(compiled.set_aside(at).spans)
        assert_same(trainer, expected)
    assert twice > 3


def test_layers_computed_again_one_from_another_are_so_once_more_after_a_pause() -> None:
    """Within this budget a layer's output is computed again from one that is: neither has to be kept."""
    trainer = make("565 kB", isa="portable")  # what kernels pack, and so what fits, differs between instruction sets
    trainer.step(*images())
    compiled = trainer._main_program()
    uses = compiled.lowered.uses
    again = {n: i for i, use in enumerate(uses) for n in use.writes if n.endswith("/again")}
    chains = [(again[n], i) for i in again.values() for n in uses[i].reads if n in again]
    assert chains
    for first, second in chains:
        assert {first, second} <= set(compiled.set_aside(second + 1).repeat)


def test_a_checkpoint_in_a_pause_is_that_of_whole_steps(tmp_path: Path) -> None:
    """Until the first update that of the step before; from there on the step is finished first, and the pause lasts."""
    x, y = images()
    length = len(make()._main_program().program)
    done = make()
    done.step(x, y)
    outcomes = []
    for at in range(1, length, 7):
        trainer = stopping_at(at)
        worker = threading.Thread(target=trainer.step, args=(x, y))
        worker.start()
        wait_until(lambda t=trainer: t._switch._still)  # type: ignore[misc]
        assert trainer.pause(timeout=10)
        settled = trainer.settled
        trainer.save_checkpoint(tmp_path / "c.hsp")
        resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
        outcomes.append(resumed.step_count)
        assert resumed.step_count == (0 if settled else 1)
        assert_same(resumed, done if resumed.step_count else make())
        assert trainer.paused
        assert not any(p.arena.any() for p in trainer._switch._known()) or settled  # given back once more
        trainer.resume()
        worker.join(10)
        assert trainer.step_count == 1
        assert_same(trainer, done)
    assert outcomes == sorted(outcomes) and set(outcomes) == {0, 1}


def test_a_pause_holds_the_next_step_when_a_checkpoint_has_finished_one(tmp_path: Path) -> None:
    expected = make()
    run(expected, 3)
    trainer = stopping_at(len(make()._main_program().program) - 3)
    worker = threading.Thread(target=run, args=(trainer, 3))
    worker.start()
    wait_until(lambda: trainer._switch._still)
    assert not trainer.settled
    trainer.save_checkpoint(tmp_path / "c.hsp")
    wait_until(lambda: trainer._switch._still)
    time.sleep(0.1)
    assert trainer.step_count == 1 and trainer.settled and worker.is_alive()
    trainer.save_checkpoint(tmp_path / "again.hsp")
    assert Trainer.from_checkpoint(tmp_path / "again.hsp").step_count == 1
    trainer.resume()
    worker.join(10)
    assert_same(trainer, expected)


def test_a_virtual_batch_that_stands_still_is_finished_for_a_checkpoint(tmp_path: Path) -> None:
    def make_two() -> Trainer:
        return Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1), batch=8, accumulate=2)

    expected, trainer = make_two(), make_two()
    expected.step(*images(16))
    compiled = trainer._programs.prepared("gradients", *([a[:8]] for a in images(16)))[0]
    compiled.program = Stopping(compiled.program, len(compiled.program) - 1)  # type: ignore[assignment]
    trainer._switch.requested = True
    worker = threading.Thread(target=trainer.step, args=images(16))
    worker.start()
    wait_until(lambda: trainer._switch._still)
    trainer.save_checkpoint(tmp_path / "c.hsp")
    assert_same(Trainer.from_checkpoint(tmp_path / "c.hsp"), expected)
    trainer.resume()
    worker.join(10)


def test_the_thread_that_must_finish_a_step_is_told_so(tmp_path: Path) -> None:
    trainer = stopping_at(len(make()._main_program().program) - 1)
    told: list[str] = []

    def save(trainer: Trainer) -> None:
        with pytest.raises(PausedError, match="another thread") as error:
            trainer.save_checkpoint(tmp_path / "c.hsp")
        told.append(str(error.value))
        trainer.resume()

    trainer.fit([images()], 1, callbacks=[callbacks.OnPause(save)])
    assert told and trainer.step_count == 1


def test_a_fit_that_is_paused_saves_a_checkpoint(tmp_path: Path) -> None:
    trainer = stopping_at(1)
    saver = callbacks.CheckpointSaver(tmp_path / "c.hsp")
    worker = threading.Thread(target=trainer.fit, args=([images()], 1), kwargs={"callbacks": [saver]})
    worker.start()
    wait_until((tmp_path / "c.hsp").exists)
    assert trainer.paused
    resumed = Trainer.from_checkpoint(tmp_path / "c.hsp")
    assert resumed.step_count == resumed.progress.batch == 0
    resumed.fit([images()], 1)
    trainer.resume()
    worker.join(10)
    assert_same(trainer, resumed)


def test_the_frozen_part_pauses_too() -> None:
    """With a head to train, nearly all the time goes into the backbone."""
    x, _ = images()
    trainer = Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1), trainable="head")
    expected = trainer.features(x)[0]
    assert trainer.pause(release_memory=True, timeout=5)
    found: list[np.ndarray] = []
    worker = threading.Thread(target=lambda: found.extend(trainer.features(x)))
    worker.start()
    worker.join(0.2)
    assert worker.is_alive() and not found
    for program in trainer._switch._known():
        assert not program.arena.any()
    trainer.resume()
    worker.join(10)
    np.testing.assert_array_equal(found[0], expected)


def test_a_signal_handler_pauses_and_resumes() -> None:
    expected, trainer = make(), make()
    run(expected, 20)
    seen = []

    def pause(*_: object) -> None:
        seen.append(trainer.pause(release_memory=True))

    def resume(*_: object) -> None:
        trainer.resume()

    previous = signal.signal(signal.SIGUSR1, pause), signal.signal(signal.SIGUSR2, resume)
    try:
        trainer.step(*images(seed=0))
        for delay in (0.005, 0.03):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            threading.Timer(delay + 0.1, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        began = time.monotonic()
        for i in range(1, 20):
            trainer.step(*images(seed=i))
        while len(seen) < 2:
            time.sleep(0.01)
        assert time.monotonic() - began > 0.1
        time.sleep(0.15)
    finally:
        signal.signal(signal.SIGUSR1, previous[0])
        signal.signal(signal.SIGUSR2, previous[1])
    assert not trainer.paused
    assert_same(trainer, expected)


class Interrupted:
    """A program in whose first run Ctrl-C comes during the instruction before `at`."""

    def __init__(self, program: object, at: int) -> None:
        self.program, self.at, self.reached = program, at, 0

    def run(self, arrays: object, start: int, wait: bool, end: int = -1) -> int:
        if self.at and end < 0:
            self.reached, self.at = self.program.run(arrays, start, wait, self.at), 0  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return int(self.program.run(arrays, start, wait, end))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.program, name)

    def __len__(self) -> int:
        return len(self.program)  # type: ignore[arg-type]


def test_ctrl_c_leaves_the_state_after_whole_steps() -> None:
    x, y = images()
    length = len(make()._main_program().program)
    none, one = make(), make()
    one.fit([(x, y)], 1)
    counts = []
    for at in range(1, length, 5):
        trainer = make()
        compiled = trainer._main_program()
        compiled.program = Interrupted(compiled.program, at)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            trainer.fit([(x, y)], 1)
        counts.append(trainer.step_count)
        assert trainer.progress.batch == trainer.step_count
        assert_same(trainer, one if trainer.step_count else none)
        trainer.step(x, y)
    assert counts == sorted(counts) and set(counts) == {0, 1}


def test_ctrl_c_is_seen_while_a_program_runs() -> None:
    trainer, expected = make(), make()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            run(trainer, 100_000)
    finally:
        signal.signal(signal.SIGINT, previous)
    run(expected, trainer.step_count)
    assert_same(trainer, expected)


def test_ctrl_c_in_a_virtual_batch_leaves_the_statistics_as_they_were() -> None:
    x, y = images(16)
    trainer = Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1), batch=8, accumulate=2)
    trainer.step(x, y)
    before = {**trainer.parameters(), **trainer.state()}
    for compiled in trainer._programs.compiled.values():
        if "train/target0" in compiled.inputs:
            compiled.program = Interrupted(compiled.program, len(compiled.program) - 1)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer.step(x, y)
    for name, value in {**trainer.parameters(), **trainer.state()}.items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_a_pause_before_a_step_holds_it_back() -> None:
    trainer = make()
    trainer.step(*images())
    trainer.pause()
    worker = threading.Thread(target=run, args=(trainer, 1))
    worker.start()
    worker.join(0.2)
    assert worker.is_alive()
    assert trainer.step_count == 1
    trainer.resume()
    worker.join(10)
    assert trainer.step_count == 2


def test_released_memory_is_nearly_all_of_the_arena() -> None:
    trainer = make()
    trainer.step(*images())
    assert trainer.pause(release_memory=True, timeout=5)
    for compiled in trainer._programs.compiled.values():
        assert not compiled.program.arena.any()
    trainer.resume()
    assert np.isfinite(trainer.step(*images()).loss)
