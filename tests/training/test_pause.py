"""Pausing from other threads, with and without giving memory back, anywhere in a step."""

from __future__ import annotations

import threading
import time

import numpy as np

from homespun import losses, optim
from homespun.training import Trainer
from tests.training.small import convolutional, images


def make() -> Trainer:
    return Trainer(convolutional(), losses.CrossEntropy(), optim.SGD(0.1, momentum=0.9), batch=8)


def run(trainer: Trainer, steps: int) -> None:
    for i in range(steps):
        trainer.step(*images(seed=i))


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


def test_every_place_in_a_step_can_be_left_and_come_back_to() -> None:
    """Standing still before each instruction in turn, arena released, gives the same parameters every time."""
    x, y = images()
    expected = make()
    expected.step(x, y)
    length = len(next(iter(expected._programs.compiled.values())).program)
    for at in range(0, length, 3):
        trainer = make()
        compiled = trainer._main_program()

        class Stopping:
            """The program, but its first run ends before instruction `at`."""

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

        compiled.program = Stopping(compiled.program, at)  # type: ignore[assignment]
        trainer._switch.requested, trainer._switch._release = at > 0, True
        timer = threading.Timer(0.02, trainer.resume)
        timer.start()
        trainer.step(x, y)
        timer.join()
        for name, value in expected.parameters().items():
            np.testing.assert_array_equal(trainer.parameters()[name], value, err_msg=f"{name} after a stop at {at}")


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
