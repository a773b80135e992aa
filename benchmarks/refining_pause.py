"""How soon a refinement stands still when somebody asks the server for a page, and what pages cost meanwhile.

    python benchmarks/refining_pause.py DATA     # an album's data folder (a copy: its network may be replaced)
    --rounds N    how often a page is asked for (default: 100)

Serves the album over a real socket and lets it refine. Each round waits until training has gone on for a moment, then
asks for a page from another process. Printed in milliseconds: from the moment that the server is told until the
refining process has run for the last time, and until none of its threads waits for a core any more, be it only to stop
(a third process watches both in /proc, for 0.15 seconds), until it has given its memory back, how
much CPU time it takes in the 0.4 seconds after that moment, and how long the page took: with a refinement to stop, and
before there was any.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn

from homespun.album import Album, refining_process
from homespun.album.web import create_app

CLIENT = """
import sys, time, urllib.request
for line in sys.stdin:
    began = time.perf_counter()
    urllib.request.urlopen(line.strip()).read()
    print(1000 * (time.perf_counter() - began), flush=True)
"""
WATCHER = """
import glob, sys, time

def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""

for line in sys.stdin:
    tasks, began, queued = glob.glob(f"/proc/{line.split()[0]}/task/*"), time.monotonic(), 0.0
    samples = []
    print("ready", flush=True)
    while time.monotonic() - began < 0.15:
        if any(read(task + "/stat").rpartition(")")[2].split()[:1] == ["R"] for task in tasks):
            queued = time.monotonic()
        spent = sum(int((read(task + "/schedstat") or "0").split()[0]) for task in tasks)
        samples.append((time.monotonic(), spent))
        time.sleep(0.0003)
    # It ran for the last time before the first sample after which less than a tenth of a millisecond was spent.
    ran = next(at for at, spent in samples if samples[-1][1] - spent < 100_000)
    print(queued, ran, flush=True)
"""
PORT = 8397
RAN = "until it has run for the last time"
STILL, MEMORY = "until none of it waits for a core", "until its memory is given back"
CPU, PAGE = "CPU time after the word", "page, a refinement to stop"
Ask = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    refining_process.QUIET_SECONDS = 0.8
    stop = threading.Event()
    with Album(options.data) as album:
        server = uvicorn.Server(uvicorn.Config(create_app(album), port=PORT, log_level="error"))
        threading.Thread(target=server.run, daemon=True).start()
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:

            def ask() -> float:
                assert client.stdin is not None and client.stdout is not None
                client.stdin.write(f"http://127.0.0.1:{PORT}/topics\n")
                client.stdin.flush()
                return float(client.stdout.readline())

            while not server.started:
                time.sleep(0.01)
            alone = [ask() for _ in range(options.rounds + 5)][5:]
            run = threading.Thread(target=album.refining.refine, kwargs={"stop": stop})
            run.start()
            found = measure(album, run, ask, options.rounds)
            stop.set()
            run.join()
            assert client.stdin is not None
            client.stdin.close()
        server.should_exit = True
    for what in (RAN, STILL, MEMORY, CPU, PAGE):
        tell(what, [each[what] for each in found])
    tell("page, nothing else to do", alone)


def measure(album: Album, run: threading.Thread, ask: Ask, rounds: int) -> list[dict[str, float]]:
    """Milliseconds of each round that fell into a run."""
    found: list[dict[str, float]] = []
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdin is not None and watcher.stdout is not None
        while run.is_alive() and len(found) < rounds:
            process = album.refining._worker
            if process is None or process.paused:
                time.sleep(0.01)
                continue
            time.sleep(random.uniform(0.1, 0.5))
            told = len(process.pause_milliseconds)
            watcher.stdin.write(f"{process.pid}\n")
            watcher.stdin.flush()
            watcher.stdout.readline()
            heard: list[float] = []
            process.make_way = noting(process.make_way, heard, spent := [], process.pid)  # type: ignore[method-assign]
            page = ask()
            last, ran = map(float, watcher.stdout.readline().split())
            deadline = time.monotonic() + 0.4
            while len(process.pause_milliseconds) == told and time.monotonic() < deadline and run.is_alive():
                time.sleep(0.001)
            if len(process.pause_milliseconds) == told or not heard:
                continue  # it had just come to its end, or needs another turn
            found.append(
                {
                    RAN: 1000 * max(0.0, ran - heard[0]),
                    STILL: 1000 * max(0.0, last - heard[0]),
                    MEMORY: process.pause_milliseconds[-1],
                    CPU: 1000 * (cpu_seconds(process.pid) - spent[0]),
                    PAGE: page,
                }
            )
            del process.make_way
        watcher.stdin.close()
    return found


def noting(make_way: Callable[[], None], heard: list[float], spent: list[float], pid: int) -> Callable[[], None]:
    """The same, but notes when it was called first, and what the process had run by then."""

    def noted() -> None:
        heard.append(time.monotonic())
        make_way()
        spent.append(cpu_seconds(pid))

    return noted


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have run."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        return 0.0


def tell(what: str, milliseconds: list[float]) -> None:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    figures = f"median {p50:6.1f}  p95 {p95:6.1f}  p99 {p99:6.1f}  most {max(milliseconds):6.1f}"
    print(f"{what:<38} {figures}  ({len(milliseconds)})")


if __name__ == "__main__":
    main()
