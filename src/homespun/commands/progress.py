"""How far an index run is, shown while it goes on: a bar on a terminal, a line now and then elsewhere.

All of it goes to standard error, so that standard output holds nothing but the answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from homespun.commands.output import note

if TYPE_CHECKING:
    from homespun.album.indexer import IndexReport, Progress

    OnProgress = Callable[[Progress], None]

# Where there is no terminal, a line of progress so often.
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_shown() -> Iterator[OnProgress]:
    """A callback for `Album.index` that shows what it is told, until the end of the block."""
    if sys.stderr.isatty():
        with _bar() as on_progress:
            yield on_progress
    else:
        yield _lines()


PHASES = {
    "": "Beginning",
    "paused": "Waiting while somebody uses the album",
    "looking": "Looking at the photos that people spoke of",
    "training": "Training",
    "features": "Looking at all photos with the refined network",
}


@contextmanager
def phases_shown() -> Iterator[Callable[[str, float], None]]:
    """A callback for `Refining.refine` that shows what it is told, until the end of the block."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bars

        with Bars(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("Beginning", total=1.0)
            yield lambda phase, share: bars.update(task, description=PHASES[phase], completed=share)
    else:
        told = ""
        told_at = 0.0

        def on_progress(phase: str, share: float) -> None:
            nonlocal told, told_at
            if phase != told or time.monotonic() - told_at >= SECONDS_BETWEEN_LINES:
                told, told_at = phase, time.monotonic()
                note(f"{PHASES[phase]}: {share:.0%}")

        yield on_progress


def summary(report: IndexReport) -> str:
    """What a run did, in a sentence or two."""
    counts = [
        (report.new, "new"),
        (report.changed, "changed"),
        (report.moved, "moved"),
        (report.duplicates, "copies"),
        (report.returned, "returned"),
        (report.vanished, "gone"),
        (report.embedded, "looked at again"),
        (report.unchanged, "as before"),
    ]
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count) or "no photos"
    lines = [f"{'Stopped' if report.stopped else 'Done'} in {duration(report.seconds)}: {told}."]
    if report.damaged:
        lines.append(f"{report.damaged:,} of them are cut short, but show enough to be kept.")
    if report.unreadable:
        lines.append(f"{report.unreadable:,} can't be read; `homespun album status --problems` says why.")
    if report.other_files:
        lines.append(f"{report.other_files:,} are no photos (videos, documents and the like) and were left alone.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A length of time for people: "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


@contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("Looking for photos", total=None, told="")

        def on_progress(progress: Progress) -> None:
            doing = "Looking for photos" if progress.total is None else "Reading photos"
            bars.update(task, description=doing, completed=progress.done, total=progress.total, told=_told(progress))

        yield on_progress


def _lines() -> OnProgress:
    told_at = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= SECONDS_BETWEEN_LINES:
            told_at = time.monotonic()
            note(_told(progress))

    return on_progress


def _told(progress: Progress) -> str:
    if progress.total is None:
        return f"{progress.done:,} files found"
    words = [f"{progress.done:,} of {progress.total:,} photos"]
    if progress.photos_per_second:
        words.append(f"{progress.photos_per_second:.1f} photos/s")
    if progress.seconds_left:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)
