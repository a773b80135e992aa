"""What commands print: JSON for programs, tables and sentences for people; and the options that all of them share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from homespun.album import Album
    from homespun.album.model import Change, Moved, Photo, PhotoTopic

# Moves that a person is told one by one; --json has more of them.
MOVES_SHOWN = 10


def default_data_dir() -> Path:
    """Where the album is if nobody says: `$XDG_DATA_HOME/homespun`, else `~/.local/share/homespun`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "homespun"


DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="HOMESPUN_DATA",
        default_factory=default_data_dir,
        show_default="$XDG_DATA_HOME/homespun or ~/.local/share/homespun",
        help="The album's own folder: database, thumbnails, what was learnt.",
        metavar="DIR",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Photos = Annotated[
    list[str], typer.Argument(help="Photos: their numbers (see `show`) or paths of their files.", metavar="PHOTO")
]


def open_album(data: Path, *, read_only: bool = True) -> Album:
    """The album in a data folder, to be used as a context manager."""
    from homespun.album import Album

    return Album(data, read_only=read_only)


def say(line: str = "") -> None:
    """Print a line of the answer."""
    typer.echo(line)


def note(line: str) -> None:
    """Print a line beside the answer, on standard error."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print records, or lists and mappings of them, as one JSON document."""
    say(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print a table; `right` names the columns of numbers. Piped, rows are lines of tab-separated fields."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            say("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # names of files and topics are no markup
    Console().print(table)


def print_change(change: Change, done: str) -> None:
    """Tell what a change did, and what else moved."""
    say(f"{done} (change {change.id})")
    if not change.moved_total:
        say("Nothing else moved.")
        return
    say(f"{plural(change.moved_total, 'move')} followed, in {change.seconds * 1000:.0f} ms:")
    for move in change.moved[:MOVES_SHOWN]:
        way = "into" if move.after else "out of"
        say(f"  photo {move.photo_id} {way} {move.topic} ({move.confidence:.0%} sure){_why(move)}")
    if change.moved_total > MOVES_SHOWN:
        say(f"  ... and {change.moved_total - MOVES_SHOWN:,} more")


def _why(move: Moved) -> str:
    """The example that speaks for a move: ", like photo 3, said to be wedding"."""
    because = move.because
    if because is None:
        return ""
    said = "no longer said" if because.taken_back else "said"
    which = "itself" if because.photo_id == move.photo_id else f"like photo {because.photo_id}"
    return f", {which}, {said} {'' if because.said else 'not '}to be {because.topic}"


def file_of(photo: Photo) -> str:
    """A file of a photo, or its name where it has no file any more."""
    return photo.paths[0] if photo.paths else photo.name


def topic_words(topics: Iterable[PhotoTopic]) -> str:
    """The topics of a photo in one line: "wedding 93%, family (said)"."""
    words = []
    for topic in topics:
        if topic.present:
            words.append(f"{topic.key} (said)" if topic.confidence is None else f"{topic.key} {topic.confidence:.0%}")
    return ", ".join(words)


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 photo", "2,000 photos"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
