"""Stands in for the process that refines, in tests of the album around it: obeys, and ends as `plan` says.

The file `plan` beside its folder holds one word: "finish" (what `made_refinement` made is the result), "wait" (work for
ever), "deaf" (the same, and never stand still by itself), "full" (as when the disk is), "damaged" (as when a file
of the run is), "die" (as when it is killed).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from homespun.album.refining_process import go_on_when_abandoned


def main() -> None:
    go_on_when_abandoned()
    folder = Path(sys.argv[2])
    plan = (folder.parent / "plan").read_text()
    running, over = threading.Event(), threading.Event()
    running.set()
    threading.Thread(target=obey, args=(running, over, plan == "deaf"), daemon=True).start()
    print(json.dumps({"phase": "training", "share": 0.5}), flush=True)
    if plan == "finish":
        made = folder.parents[1] / "made"
        if made.exists():  # else it was so in a run before, which was killed
            made.rename(folder)
    elif plan == "full":
        print(json.dumps({"error": "the disk is full", "kind": "StorageFullError"}), flush=True)
        sys.exit(1)
    elif plan == "damaged":
        print(json.dumps({"error": "task: damaged", "kind": "FormatError"}), flush=True)
        sys.exit(1)
    elif plan == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        while not over.wait(0.01):
            running.wait()
        sys.exit(3)


def obey(running: threading.Event, over: threading.Event, deaf: bool) -> None:
    try:
        for line in sys.stdin:
            word, *number = line.split()
            if word == "pause" and deaf:
                continue
            if word == "pause":
                running.clear()
                print(json.dumps({"paused": int(number[0])}), flush=True)
            elif word == "resume":
                running.set()
            else:
                break
    finally:
        over.set()
        running.set()


if __name__ == "__main__":
    main()
