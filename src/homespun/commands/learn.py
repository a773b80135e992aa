"""`homespun album learn ...`: what the album has learnt from its family, and what would help it most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from homespun.commands.output import DataOption, JsonOption, open_album, plural, print_json, print_table, say

if TYPE_CHECKING:
    from homespun.album.model import Learnt, TopicKnowledge

HELPS_SHOWN = 5


def add_to(group: typer.Typer) -> None:
    """Add the group `learn` to `homespun album`."""
    from homespun.commands import new_group

    learn = new_group("What the album has learnt from this family.")
    for command in (status,):
        learn.command()(command)
    group.add_typer(learn, name="learn", rich_help_panel="Correct")


def status(data: DataOption, as_json: JsonOption = False) -> None:
    """How often the album was right before it was told, how well it knows each topic, and what would help most."""
    with open_album(data) as album:
        learnt = album.learnt()
    if as_json:
        print_json(learnt)
        return
    say(f"Said by people: {plural(learnt.labels, 'label')}")
    if learnt.answers:
        share = learnt.right / learnt.answers
        say(f"Right before it was told: {learnt.right:,} of {plural(learnt.answers, 'photo')} ({share:.0%})")
    _say_curve(learnt)
    _say_helps(learnt)
    say()
    print_table(
        ("Topic", "Sure", "Photos", "May be wrong", "Put there", "Right before", "Questions"),
        [_row(known) for known in learnt.topics if known.topic.photos],
        right=("Sure", "Photos", "May be wrong", "Put there", "Right before", "Questions"),
    )


def _say_curve(learnt: Learnt) -> None:
    for stretch in learnt.curve:
        share = stretch.right / stretch.answers
        say(f"  {stretch.first[:10]} to {stretch.last[:10]}  {stretch.right} of {stretch.answers}  {share:.0%}")


def _say_helps(learnt: Learnt) -> None:
    by_key = {known.topic.key: known for known in learnt.topics}
    wants = {"photos": "more photo", "answers": "answer"}
    for number, key in enumerate(learnt.helpful[:HELPS_SHOWN]):
        known = by_key[key]
        say(
            ("Would help most: " if number == 0 else "                 ")
            + f"{plural(known.needed, wants[known.need])} {'of' if known.need == 'photos' else 'about'} {key}"
        )


def _row(known: TopicKnowledge) -> tuple[object, ...]:
    tested = f"{known.right} of {known.tested}" if known.tested else ""
    sure = f"{known.sure:.0%}" if known.sure is not None else ""
    return (
        known.topic.key,
        sure,
        known.topic.photos,
        round(known.wrong),
        known.examples or "",
        tested,
        known.questions or "",
    )
