"""`homespun album topics|show|status|export`: looking at the album, and taking what it knows elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homespun.commands.output import (
    DataOption,
    JsonOption,
    file_of,
    open_album,
    plural,
    print_json,
    print_table,
    say,
    topic_words,
)

if TYPE_CHECKING:
    from homespun.album.model import Photo


class Sort(StrEnum):
    """Orders of photos."""

    DATE = "date"
    DATE_ASCENDING = "date-ascending"
    CONFIDENCE = "confidence"
    DOUBT = "doubt"


class Format(StrEnum):
    """Formats of an export."""

    JSON = "json"
    CSV = "csv"


def add_to(group: typer.Typer) -> None:
    """Add these commands to `homespun album`."""
    for command in (topics, show, status, export):
        group.command(rich_help_panel="Look")(command)


def topics(
    data: DataOption,
    everything: Annotated[bool, typer.Option("--all", help="Hidden topics, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the topics with their numbers of photos."""
    with open_album(data) as album:
        found = album.topics(include_hidden=everything)
    if as_json:
        print_json(found)
        return
    columns = ("Key", "Name", "名称", "Photos", "Said by you", "Unsure", "")
    rows = [
        (
            topic.key,
            topic.name_en,
            topic.name_zh,
            f"{topic.photos:,}",
            topic.confirmed or "",
            topic.doubtful or "",
            " ".join([*(["hidden"] if topic.hidden else []), *([] if topic.builtin else ["yours"])]),
        )
        for topic in found
    ]
    print_table(columns, rows, right=("Photos", "Said by you", "Unsure"))


def show(
    data: DataOption,
    photo: Annotated[
        str | None, typer.Argument(help="One photo: its number or the path of a file.", metavar="PHOTO")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help='Key or name of a topic; "unsorted" for photos that are in none.')
    ] = None,
    text: Annotated[str | None, typer.Option(help="Words in names of files, folders, topics, places, cameras.")] = None,
    date_from: Annotated[str | None, typer.Option("--from", help="2024, 2024-05 or 2024-05-31.")] = None,
    date_to: Annotated[str | None, typer.Option("--to", help="The same; inclusive.")] = None,
    place: Annotated[str | None, typer.Option(help="Name of a place.")] = None,
    sort: Annotated[Sort, typer.Option(help="Order.")] = Sort.DATE,
    offset: Annotated[int, typer.Option(min=0, help="Photos to pass over.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Photos to list.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Show one photo, or list photos by topic, words, date and place."""
    with open_album(data) as album:
        if photo is not None:
            _show_one(album.photo(album.photo_id(photo)), as_json)
            return
        page = album.photos(topic, text, date_from, date_to, place, sort.value, offset, limit)
    if as_json:
        print_json(page)
        return
    rows = [(p.id, (p.taken or "")[:10], p.place or "", topic_words(p.topics), file_of(p)) for p in page.photos]
    print_table(("Photo", "Taken", "Place", "Topics", "File"), rows, right=("Photo",))
    shown = f"{offset + 1:,} to {offset + len(rows):,} of " if len(rows) < page.total else ""
    say(f"{shown}{plural(page.total, 'photo')}")


def _show_one(photo: Photo, as_json: bool) -> None:
    if as_json:
        print_json(photo)
        return
    facts = [
        ("Photo", photo.id),
        ("Files", "\n".join(photo.paths) or f"none now; it was {photo.name}"),
        ("Taken", photo.taken or "unknown"),
        ("Size", f"{photo.width} x {photo.height}, {photo.format}, {photo.byte_size:,} bytes"),
        ("Place", photo.place),
        ("Camera", photo.camera),
        ("Topics", topic_words(photo.topics) or "none"),
        ("Not in (said)", ", ".join(t.key for t in photo.topics if not t.present and t.source == "human")),
        (
            "Perhaps",
            ", ".join(
                f"{t.key} {t.confidence:.0%}"
                for t in photo.topics
                if not t.present and t.confidence is not None and t.confidence >= 0.05
            ),
        ),
    ]
    print_table(("", ""), [(name, value) for name, value in facts if value])


def status(
    data: DataOption,
    problems: Annotated[bool, typer.Option("--problems", help="List the files that are not shown, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The album in numbers."""
    from homespun.album.imaging.reasons import explain

    with open_album(data) as album:
        now, unreadable = album.status(), album.problems() if problems else []
    if as_json:
        print_json({"status": now, "problems": unreadable} if problems else now)
        return
    print_table(
        ("", ""),
        [
            ("Album", now.data_dir),
            ("Folders", "\n".join(now.roots) or "none yet"),
            ("Photos", f"{now.photos:,} in {plural(now.files, 'file')}"),
            ("Without a file now", f"{now.vanished:,}" if now.vanished else ""),
            ("Can't be read", f"{now.unreadable:,}" if now.unreadable else ""),
            ("Other files", f"{now.other_files:,} (videos, documents and the like)" if now.other_files else ""),
            ("Waiting to be looked at", f"{now.without_features:,}" if now.without_features else ""),
            ("Topics", f"{now.topics} ({now.family_topics} of your own)"),
            ("Said by you", f"{plural(now.labels, 'label')} in {plural(now.changes, 'change')}"),
            ("Last indexed", now.last_indexed or "never"),
        ],
    )
    for problem in unreadable:
        say(f"{problem.path}: {explain(problem.reason)}" + (f" ({problem.detail})" if problem.detail else ""))


def export(
    data: DataOption,
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")],
    format: Annotated[
        Format | None, typer.Option(help="Format.", show_default="by the file's suffix, else json")
    ] = None,
    sidecars: Annotated[
        Path | None,
        typer.Option(help="Also write XMP sidecars with topics as keywords into this folder.", metavar="DIR"),
    ] = None,
    beside: Annotated[
        bool, typer.Option("--sidecars-beside-originals", help="Also write XMP sidecars beside the photos themselves.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write all photos with topics and labels to a file. Originals are never changed."""
    if sidecars is not None and beside:
        raise typer.BadParameter("sidecars go into a folder or beside the originals, not both")
    chosen = format or (Format.CSV if target.suffix.lower() == ".csv" else Format.JSON)
    with open_album(data) as album:
        count = album.export(target, chosen.value, sidecars=sidecars if sidecars is not None else beside)
    if as_json:
        print_json({"file": str(target), "format": chosen.value, "photos": count})
    else:
        say(f"{plural(count, 'photo')} written to {target}")
