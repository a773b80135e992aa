"""`homespun album correct|undo|doubts`: telling the album where it is wrong, and taking that back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from homespun.commands.output import (
    DataOption,
    JsonOption,
    Photos,
    file_of,
    open_album,
    plural,
    print_change,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from homespun.album import Album
    from homespun.album.model import Answer

ANSWERS: dict[str, Answer] = {"y": "yes", "n": "no", "s": "skip"}
ASKED_AT_A_TIME = 20


def add_to(group: typer.Typer) -> None:
    """Add these commands to `homespun album`."""
    for command in (correct, undo, doubts):
        group.command(rich_help_panel="Correct")(command)


def correct(
    data: DataOption,
    photos: Photos,
    positive: Annotated[
        list[str] | None, typer.Option("--is", help="A topic that they are in (repeatable).", metavar="TOPIC")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option("--not", help="A topic that they are not in (repeatable).", metavar="TOPIC")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="They are in none of the topics.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what photos are, and what they are not. It holds for good, and the rest of the album learns from it.

    homespun album correct 17 18 --is wedding --not christmas
    """
    with open_album(data, read_only=False) as album:
        ids = [album.photo_id(photo) for photo in photos]
        change = album.correct(ids, positive or [], negative or [], none)
    if as_json:
        print_json(change)
    else:
        print_change(change, f"Noted for {plural(len(change.photos), 'photo')}")


def undo(
    data: DataOption,
    change: Annotated[
        int | None, typer.Argument(help="Number of the change; the last one if left out.", metavar="CHANGE")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List changes, newest first, and change nothing.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Put the change back that was undone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take back a change, in whatever order; what holds then is what would hold without it."""
    if list_:
        _list_changes(data, as_json)
        return
    if redo and change is None:
        raise typer.BadParameter("--redo needs the number of a change; --list shows them")
    with open_album(data, read_only=False) as album:
        result = album.redo(change) if redo and change is not None else album.undo(change)
    if as_json:
        print_json(result)
    else:
        print_change(result, "Put back" if redo else "Undone")


def _list_changes(data: DataOption, as_json: bool) -> None:
    with open_album(data) as album:
        changes = album.changes()
    if as_json:
        print_json(changes)
        return
    rows = [
        (
            change.id,
            change.made_at[:16].replace("T", " "),
            change.kind,
            ", ".join(change.topics),
            len(change.photos) or "",
            change.moved_total or "",
            "undone" if change.undone else "",
        )
        for change in changes
    ]
    print_table(("Change", "Made", "What", "Topics", "Photos", "Moved", ""), rows, right=("Change", "Photos", "Moved"))


def doubts(
    data: DataOption,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Questions to list.")] = 20,
    ask: Annotated[bool, typer.Option("--ask", help="Ask them one by one, each answered with one key.")] = False,
    answer: Annotated[
        tuple[str, str, str] | None,
        typer.Option(help="Answer one: photo, topic, and yes, no or skip.", metavar="PHOTO TOPIC ANSWER"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Photos that the album is probably wrong about, the most useful to ask about first."""
    if answer is not None:
        _answer(data, answer, as_json)
    elif ask:
        if as_json or not sys.stdin.isatty():
            raise typer.BadParameter("--ask needs a terminal; use --answer PHOTO TOPIC yes|no|skip in scripts")
        with open_album(data, read_only=False) as album:
            _ask(album)
    else:
        with open_album(data) as album:
            found = album.doubts(limit)
        if as_json:
            print_json(found)
            return
        rows = [
            (d.photo.id, d.topic, "in" if d.present else "not in", f"{d.confidence:.0%}", d.reason, file_of(d.photo))
            for d in found
        ]
        print_table(("Photo", "Topic", "Now", "Sure", "Why", "File"), rows, right=("Photo", "Sure"))


def _answer(data: DataOption, given: tuple[str, str, str], as_json: bool) -> None:
    photo, topic, word = given
    if word not in ANSWERS.values():
        raise typer.BadParameter(f"an answer is {', '.join(ANSWERS.values())}, not {word!r}")
    with open_album(data, read_only=False) as album:
        change = album.answer_doubt(album.photo_id(photo), topic, word)  # type: ignore[arg-type]
    if as_json:
        print_json(change)
    else:
        print_change(change, f"Answered: {word}")


def _ask(album: Album) -> None:
    say("y: yes   n: no   s: skip   u: undo the last answer   q: leave")
    answered: list[int] = []
    while found := album.doubts(ASKED_AT_A_TIME):
        doubt = found[0]
        say(f"\n{file_of(doubt.photo)}")
        say(f"Is photo {doubt.photo.id} in the topic {doubt.topic}? (the album: {doubt.confidence:.0%} likely)")
        key = _key()
        if key == "q":
            break
        if key == "u" and answered:
            album.undo(answered.pop())
            say("undone")
        elif key in ANSWERS:
            change = album.answer_doubt(doubt.photo.id, doubt.topic, ANSWERS[key])
            answered.append(change.id)
            say(f"{ANSWERS[key]}; {plural(change.moved_total, 'move')} followed")
    else:
        say("\nNo more questions.")
    say(f"{plural(len(answered), 'answer')} given.")


def _key() -> str:
    while True:
        pressed = typer.getchar().lower()
        if pressed in ("\x03", "\x04", "\x1b"):
            return "q"
        if pressed in (*ANSWERS, "u", "q"):
            return pressed
