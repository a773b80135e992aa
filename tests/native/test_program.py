"""The executor as Python sees it: operands in every space, validation, pausing, aborting, signals, the arena."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from homespun import _native

ISA = _native.isas()[0]
ADD = [0, 1, 1, 1, 1]
COUNT = 4096


def add(a: tuple[int, int], b: tuple[int, int], y: tuple[int, int], count: int = COUNT) -> tuple[object, ...]:
    """An instruction: y = a + b over `count` values."""
    return ("binary", [a, b, y], [*ADD, count, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0], [0.0, 0.0])


def counter(steps: int, threads: int = 2) -> tuple[_native.Program, np.ndarray]:
    """A program that adds one to its state `steps` times, and that state."""
    ones = _native.aligned_bytes(COUNT * 4)
    ones.view(np.float32)[:] = 1
    state = _native.aligned_bytes(COUNT * 4)
    program = _native.Program([add((2, 0), (1, 0), (2, 0))] * steps, 64, ones, state, 0, threads, ISA)
    return program, state.view(np.float32)


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], object]], list[object]]]:
    """Runs a function in a thread; its result appears in the list returned. Joined at the end of the test."""
    threads = []

    def start(function: Callable[[], object]) -> list[object]:
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(function()))
        thread.start()
        threads.append(thread)
        return results

    yield start
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_space(threads: int) -> None:
    """arena = external + constants; external = arena + state; state = state + constants."""
    constants, state = _native.aligned_bytes(COUNT * 4), _native.aligned_bytes(COUNT * 4)
    constants.view(np.float32)[:], state.view(np.float32)[:] = 10, 100
    x, y = np.arange(COUNT, dtype=np.float32), np.zeros(COUNT, np.float32)
    instructions = [
        add((3, 0), (1, 0), (0, 64)), add((0, 64), (2, 0), (4, 0)), add((2, 0), (1, 0), (2, 0)),
    ]  # fmt: skip
    program = _native.Program(instructions, 64 + COUNT * 4, constants, state, 2, threads, ISA)
    for run in range(3):
        assert program.run([x, y]) == len(program) == 3
        np.testing.assert_array_equal(y, x + 110 + 10 * run)
    assert (state.view(np.float32) == 130).all()


def test_external_arrays_are_checked() -> None:
    program = _native.Program(
        [add((3, 0), (3, 0), (4, 0), 16)], 0, np.empty(0, np.uint8), None, 2, 1, ISA, external_bytes=[64, 64]
    )
    with pytest.raises(ValueError, match="takes 2 external arrays, got 1"):
        program.run([np.zeros(16, np.float32)])
    with pytest.raises(ValueError, match="external array 1 must have 64 bytes, got 60"):
        program.run([np.zeros(16, np.float32), np.zeros(15, np.float32)])
    assert program.run([np.ones(16, np.float32), y := np.zeros(16, np.float32)]) == 1
    assert (y == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "frobnicate"}, "no such kernel"),
        ({"operands": [(0, 0)]}, r"needs 3 operands \(a, b, output\), got 1"),
        ({"ints": [1]}, "needs 18 ints"),
        ({"floats": []}, "needs 2 floats"),
        ({"operands": [(0, 0), (0, 3), (0, 0)]}, "operand 'b': offset 3 is not an even number"),
        ({"operands": [(0, 0), (0, 1 << 20), (0, 0)]}, "offset 1048576"),
        ({"operands": [(0, 0), (2, 64), (0, 0)]}, "of the state"),
        ({"operands": [(0, 0), (9, 0), (0, 0)]}, "no such space 9"),
    ],
)
def test_a_bad_instruction_is_named(change: dict[str, object], message: str) -> None:
    good = dict(zip(("kernel", "operands", "ints", "floats"), add((0, 0), (0, 0), (0, 0)), strict=True))
    bad = tuple({**good, **change}.values())
    with pytest.raises(ValueError, match=rf"instruction 1 .*{message}"):
        _native.Program([tuple(good.values()), bad], COUNT * 4, np.empty(0, np.uint8), None, 0, 1, ISA)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="instruction set 'avx1024' is not usable"):
        _native.Program([], 0, np.empty(0, np.uint8), None, 0, 1, "avx1024")
    with pytest.raises(ValueError, match="no kernel 'frobnicate'"):
        _native.pack("frobnicate", {}, [], ISA)
    with pytest.raises(ValueError, match="needs the int 'rows'"):
        _native.workspace_bytes("linear", {}, 1, ISA)
    ints = {"rows": 1, "inner": 2, "columns": 3, "activation": 0, "residual_after": 0}
    with pytest.raises(ValueError, match="has no int 'stride'"):
        _native.pack("linear", {**ints, "stride": 1}, [], ISA)
    with pytest.raises(ValueError, match=r"float32 array \(inner, columns\)"):
        _native.pack("linear", ints, [np.zeros(5, np.float32)], ISA)


def test_pause_holds_the_state_still(background: Callable[[Callable[[], object]], list[object]]) -> None:
    program, values = counter(50_000)
    results = background(lambda: program.run([]))
    for _ in range(5):
        program.pause()
        assert program.wait_paused(10)
        before = values.copy()
        assert (before == before[0]).all()  # no instruction half done
        time.sleep(0.01)
        np.testing.assert_array_equal(values, before)
        program.resume()
        time.sleep(0.002)
    until(lambda: results)
    assert results == [50_000]
    assert (values == 50_000).all()


def test_pause_can_return_to_the_caller() -> None:
    program, values = counter(1000)
    program.pause()
    assert program.run([], wait=False) == 0
    program.resume()
    assert program.run([], start=400) == 1000
    assert (values == 600).all()


def test_abort_and_release(background: Callable[[Callable[[], object]], list[object]]) -> None:
    program, _ = counter(100)
    program.pause()
    results = background(lambda: program.run([]))
    until(lambda: program.state == "paused")
    with pytest.raises(RuntimeError, match="under way"):
        program.release_arena()
    with pytest.raises(RuntimeError, match="already running"):
        program.run([])
    program.abort()
    until(lambda: results)
    assert results == [0]
    assert program.state == "idle"
    program.arena[:] = 7
    program.release_arena()
    assert not program.arena.any()
    program.resume()
    assert program.run([]) == 100


def test_of_a_part_of_the_arena_whole_pages_are_released() -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    size = 8 << 20
    program = _native.Program([("fill", [(0, 0)], [size // 4], [1.0])], size, np.empty(0, np.uint8), None, 0, 1, ISA)
    for begin, end, first, last in [
        (page + 1, 4 * page + 5, 2 * page, 4 * page),
        (page + 1, 2 * page - 1, 0, 0),
        (0, page, 0, page),
        (size - page - 1, None, size - page, size),
        (7, 7, 0, 0),
    ]:
        program.arena[:] = 7
        program.release_arena(begin, end)
        kept = np.ones(size, bool)
        kept[first:last] = False
        assert (program.arena == 7 * kept).all()


def test_a_released_arena_is_the_systems_again() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 64 << 20
    program = _native.Program([("fill", [(0, 0)], [size // 4], [1.0])], size, np.empty(0, np.uint8), None, 0, 1, ISA)
    before = resident()
    program.run([])
    assert resident() - before > 0.9 * size
    program.release_arena()
    assert resident() - before < 0.1 * size


def test_a_signal_reaches_a_paused_run() -> None:
    """The main thread stands in a paused run: its Python signal handlers must still run, or nobody could resume it."""
    program, _ = counter(10)
    program.pause()
    previous = signal.signal(signal.SIGUSR1, lambda *_: program.resume())
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert program.run([]) == 10
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_ctrl_c_ends_a_run() -> None:
    program, _ = counter(10)
    program.pause()
    # Python leaves Ctrl-C ignored where its parent did, as a shell does for what it runs in the background.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            program.run([])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert program.state == "idle"


def test_a_forked_child_can_run() -> None:
    program, values = counter(10)
    program.run([])
    child = os.fork()
    if child == 0:
        os._exit(0 if program.run([]) == 10 and (values == 20).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (values == 10).all()


def test_profile() -> None:
    program, _ = counter(5)
    program.profile(True)
    program.run([])
    timings = program.timings()
    assert len(timings) == 5
    assert all(t > 0 for t in timings)
