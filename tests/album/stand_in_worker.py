"""Stands in for the process that refines, in tests of the album around it: obeys, and ends as `plan` says.

The file `plan` beside its folder holds one word: "finish" (what `made_refinement` made is the result), "wait" (work for
ever), "full" (as when the disk is), "die" (as when it is killed).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[2])
    plan = (folder.parent / "plan").read_text()
    running, over = threading.Event(), threading.Event()
    running.set()
    threading.Thread(target=obey, args=(running, over), daemon=True).start()
    print(json.dumps({"phase": "training", "share": 0.5}), flush=True)
    if plan == "finish":
        (folder.parent / "made").rename(folder)
    elif plan == "full":
        print(json.dumps({"error": "the disk is full", "kind": "LibraryError"}), flush=True)
        sys.exit(1)
    elif plan == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        while not over.wait(0.01):
            running.wait()
        sys.exit(3)


def obey(running: threading.Event, over: threading.Event) -> None:
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == "pause":
            running.clear()
            print(json.dumps({"paused": True, "milliseconds": 1000 * (time.perf_counter() - began)}), flush=True)
        elif line.strip() == "resume":
            running.set()
            print(json.dumps({"paused": False}), flush=True)
        else:
            break
    over.set()
    running.set()


if __name__ == "__main__":
    main()
