"""Engines that take turns, step by step: each in a process of its own, asleep while another works.

A noisy machine so hits all alike, and working sets (peak less what the import took) can be told apart. A process may be
of another Python environment: it is told "step" by lines on its input, and answers by lines on its output.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Step = Callable[[], object]
_MARK = "turn:"  # what engines print themselves does not begin like this


@dataclass
class Report:
    """What one engine did. `first_s`: from the import's end to the end of the first step, compilation included."""

    times: list[float] = field(default_factory=list)
    first_s: float = 0.0
    working_set_mb: float = 0.0

    @property
    def ms(self) -> float:
        return 1e3 * statistics.median(self.times)

    @property
    def least_ms(self) -> float:
        return 1e3 * min(self.times)


def peak() -> float:
    """Largest resident set of this process so far, MB. (`getrusage` counts the process that started it as well.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def serve(module: str, build: Callable[[], Step]) -> None:
    """The engine's side: import its module, build, step once for each line, report at the end."""
    importlib.import_module(module)
    before, began = peak(), time.perf_counter()
    step = build()
    step()
    first = time.perf_counter() - began
    step()
    _say(None)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        began = time.perf_counter()
        step()
        _say(time.perf_counter() - began)
    _say({"first_s": first, "working_set_mb": peak() - before})


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, Report]:
    """Run processes that call `serve`, by name; each steps `turns` times, in turn. One that fails is left out."""
    processes = {n: subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
                 for n, c in commands.items()}  # fmt: skip
    reports = {n: Report() for n in commands}
    try:
        for name, process in list(processes.items()):
            if _hear(process) is _FAILED:
                print(f"{name} failed and is left out", file=sys.stderr)
                del processes[name], reports[name]
        for _ in range(turns):
            for name, process in processes.items():
                reports[name].times.append(_asked(process, "step"))
        for name, process in processes.items():
            end = _asked(process, "end")
            reports[name].first_s, reports[name].working_set_mb = end["first_s"], end["working_set_mb"]
    finally:
        for process in processes.values():
            process.kill()
    return reports


_FAILED = object()


def _say(value: Any) -> None:
    print(_MARK + json.dumps(value), flush=True)


def _hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    return _FAILED


def _asked(process: subprocess.Popen[str], what: str) -> Any:
    assert process.stdin is not None
    process.stdin.write(what + "\n")
    answer = _hear(process)
    if answer is _FAILED:
        raise RuntimeError(f"{process.args} ended before its last turn")
    return answer
