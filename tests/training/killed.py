"""Runs that are killed at random moments and started again, until one comes to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def killed_and_resumed(
    checkpoint: Path, script: Callable[[int], str], *, attempts: int, most_kills: int, longest: float
) -> int:
    """Run Python on `script(attempt)`, which goes on from `checkpoint`, and kill it at most `longest` seconds after it
    wrote one; returns how often it was killed."""
    random = np.random.default_rng(0)
    kills = 0
    for attempt in range(attempts):
        process = subprocess.Popen([sys.executable, "-c", script(attempt)])
        if kills < most_kills:
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
                time.sleep(0.002)  # at least one step further each time, else a slow machine would never get on
            time.sleep(float(random.uniform(0, longest)))
            os.kill(process.pid, signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
    return kills
