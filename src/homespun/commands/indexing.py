"""`homespun album index`: bringing photos in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homespun.commands.output import DataOption, JsonOption, note, open_album, print_json, say
from homespun.commands.progress import progress_shown, summary

if TYPE_CHECKING:
    from homespun.album import Album
    from homespun.album.indexer import IndexReport, Progress

EXIT_INTERRUPTED = 130

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of photos, remembered for later; without any, those that are remembered.", metavar="FOLDER"
    ),
]


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun album`."""
    group.command(rich_help_panel="Begin here")(index)


def index(data: DataOption, folders: Folders = None, as_json: JsonOption = False) -> None:
    """Read new and changed photos and sort them into topics. Ctrl-C stops it; the next run goes on from there."""
    with open_album(data, read_only=False) as album, progress_shown() as on_progress:
        report = _index_until_interrupted(album, folders, on_progress)
    if as_json:
        print_json(report)
    else:
        say(summary(report))
    if report.stopped:
        raise typer.Exit(EXIT_INTERRUPTED)


def _index_until_interrupted(
    album: Album, folders: list[Path] | None, on_progress: Callable[[Progress], None]
) -> IndexReport:
    """Index in a thread of its own, so that Ctrl-C lets the photos in hand be stored."""
    stop = threading.Event()
    result: list[IndexReport | BaseException] = []

    def run() -> None:
        try:
            result.append(album.index(folders, on_progress, stop))
        except BaseException as error:  # noqa: BLE001 - raised again below, where it is waited for
            result.append(error)

    thread = threading.Thread(target=run, name="homespun-index")
    thread.start()
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            note("stopping after the photos in hand...")
            stop.set()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]
