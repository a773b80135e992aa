"""Refines on a disk of its own that is full: `unshare -Urm python -m tests.album.full_disk ALBUM DISK`.

Mounts a small file system at DISK, copies the album there and fills it up. Each try leaves more room than the one
before, so that the disk is full at another moment. Prints what came of each, and the network's digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from homespun.album import Album, refining, refining_process
from homespun.album.errors import StorageFullError
from homespun.album.refining_worker import TOPICS
from homespun.album.vision import BACKBONE
from homespun.learning import task
from tests.album.refining_albums import scores

LEFT = [2**14, 2**17, 3 * 2**20, 12 * 2**20, 19 * 2**20, 41 * 2**19, 64 * 2**20]
"""Bytes that are free in each try."""


def main(album_folder: str, disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "none", disk], check=True)
    data = disk / "data"
    shutil.copytree(album_folder, data)
    task.FEWEST, refining_process.WORKER = 1, "tests.album.quick_worker"
    for left in LEFT:
        fill(disk, left)
        reached: list[str] = []
        try:
            album = Album(data)
        except StorageFullError:
            print(json.dumps({"outcome": "full", "phase": "opening"}), flush=True)
            continue
        with album:
            before = scores(album)
            try:
                album.refining.refine(lambda phase, share, reached=reached: reached.append(phase))  # type: ignore[misc]
                outcome = "done"
            except StorageFullError:
                outcome = "full"
            status, same = album.refining.status(), np.array_equal(scores(album), before)
        with Album(data) as album:
            same_again = np.array_equal(scores(album), before)
        phase = reached[-1] if reached else ""
        told = {"outcome": outcome, "phase": phase, "problem": status.problem, "same": same, "same_again": same_again}
        print(json.dumps(told), flush=True)
        if outcome == "done":
            break
    for name in (BACKBONE, TOPICS):
        (path,) = (data / refining.FOLDER).glob(f"*/{name}")
        print(json.dumps(hashlib.sha256(path.read_bytes()).hexdigest()))


def fill(disk: Path, left: int) -> None:
    """Leave so much room."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    space = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - left)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
