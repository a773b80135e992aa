"""`homespun album learn ...`: what the album has learnt from its family, and what would help it most."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from homespun.album.errors import LibraryBusyError
from homespun.commands.output import DataOption, JsonOption, note, open_album, plural, print_json, print_table, say
from homespun.commands.progress import duration, phases_shown
from homespun.commands.served import Served

if TYPE_CHECKING:
    from homespun.album.model import Learnt, Refinement, RefiningStatus, TopicKnowledge
    from homespun.album.refining_process import OnProgress

HELPS_SHOWN = 5


def add_to(group: typer.Typer) -> None:
    """Add the group `learn` to `homespun album`."""
    from homespun.commands import new_group

    learn = new_group("What the album has learnt from this family.")
    for command in (status, refine, rollback, automatic):
        learn.command()(command)
    group.add_typer(learn, name="learn", rich_help_panel="Correct")


def status(data: DataOption, as_json: JsonOption = False) -> None:
    """How often the album was right before it was told, how well it knows each topic, and what would help most."""
    with open_album(data) as album:
        learnt, refining = album.learnt(), album.refining.status()
    if as_json:
        print_json({**asdict(learnt), "refining": asdict(refining)})
        return
    say(f"Said by people: {plural(learnt.labels, 'label')}")
    if learnt.answers:
        share = learnt.right / learnt.answers
        say(f"Right before it was told: {learnt.right:,} of {plural(learnt.answers, 'photo')} ({share:.0%})")
    if learnt.asked_again:
        share = learnt.right_again / learnt.asked_again
        again = f"{learnt.right_again:,} of {plural(learnt.asked_again, 'photo')} ({share:.0%})"
        say(f"Right today, each asked as if it had not been told of it: {again}")
    _say_curve(learnt)
    _say_helps(learnt)
    say()
    print_table(
        ("Topic", "Sure", "Photos", "May be wrong", "Put there", "Right before", "Questions"),
        [_row(known) for known in learnt.topics if known.topic.photos],
        right=("Sure", "Photos", "May be wrong", "Put there", "Right before", "Questions"),
    )
    _say_refining(refining)


def refine(data: DataOption, as_json: JsonOption = False) -> None:
    """Train the network itself on what this family said, in minutes. It replaces the old one only if it is better.

    Ctrl-C stops; the same command goes on from there, after a power cut too. While it is served, its server does it.
    """
    try:
        with open_album(data, read_only=False) as album:
            refinement = _refined(album.refining.refine)
    except LibraryBusyError as busy:
        served = Served.of(busy)
        note(f"The album is open at {served.address}: it is refined there, and stands still while somebody uses it.")
        refinement = _refined(served.refine)
    if as_json:
        print_json(refinement)
    elif refinement is None:
        say("Stopped. The same command goes on from there.")
    else:
        for line in _told(refinement):
            say(line)


def _refined(refine: Callable[[OnProgress, threading.Event], Refinement | None]) -> Refinement | None:
    stop = threading.Event()
    result: list[Refinement | None] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with phases_shown() as show:
                result.append(refine(show, stop))
        except BaseException as error:  # noqa: BLE001 - raised again below, by the thread that waits
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            stop.set()
    if failed:
        raise failed[0]
    return result[0]


def rollback(data: DataOption, as_json: JsonOption = False) -> None:
    """Go back to the network before the last refinement. What people said stays."""
    try:
        with open_album(data, read_only=False) as album:
            refinement = album.refining.rollback()
    except LibraryBusyError as busy:
        refinement = Served.of(busy).rollback()
    if as_json:
        print_json(refinement)
    else:
        say(f"The network that was in use before refinement {refinement.id} is back.")


def automatic(
    data: DataOption,
    on: Annotated[bool, typer.Option("--on/--off", help="Whether refinements begin by themselves.")],
    as_json: JsonOption = False,
) -> None:
    """Let the album refine its network by itself while nobody looks at it, or not."""
    try:
        with open_album(data, read_only=False) as album:
            album.refining.set_automatic(on)
    except LibraryBusyError as busy:
        Served.of(busy).set_automatic(on)
    if as_json:
        print_json({"automatic": on})
    else:
        say(f"Refinements {'begin by themselves while the album is served' if on else 'begin only when asked for'}.")


WHY = {
    "better": "it is better on what people said, and no worse on the built-in topics",
    "by chance": "it did a little better, but luck would explain that",
    "not better": "it did no better on what people said",
    "forgets": "it did better on what people said, but worse on the built-in topics",
}


def _told(refinement: Refinement) -> list[str]:
    """A refinement in sentences."""
    kept = {
        "adopted": "The refined network is in use",
        "kept": "The network stays as it was",
        "outdated": "The network stays as it was: too much of what people said has changed since the run began",
        "rolled back": "The refined network was in use, and was taken back",
    }[refinement.outcome]
    why = f": {WHY[refinement.reason]}" if refinement.outcome in ("adopted", "kept") else ""
    lines = [
        f"{kept}{why}.",
        f"Of {plural(refinement.photos, 'photo')} that it had not trained on, {refinement.before:.1%} came out right "
        f"before and {refinement.after:.1%} after ({refinement.gained} gained, {refinement.lost} lost; "
        f"by luck with a probability of {refinement.chance:.2g}).",
        f"Built-in topics: {refinement.builtin_before:.1%} before, {refinement.builtin_after:.1%} after.",
        f"It took {duration(refinement.seconds)}, {refinement.cpu_seconds:,.0f} CPU seconds "
        f"and {refinement.peak_bytes / 2**20:,.0f} MB.",
    ]
    if refinement.current:
        lines.append("To go back: homespun album learn rollback")
    return lines


def _say_refining(status: RefiningStatus) -> None:
    say()
    say(f"Refining the network: {'begins by itself' if status.automatic else 'only when asked for'}")
    if status.interrupted:
        say("  A run was cut off; `homespun album learn refine` goes on with it.")
    elif status.labelled < status.needed and status.last is None:
        say(f"  People have spoken of {plural(status.labelled, 'photo')}; {status.needed} are needed.")
    if status.last is not None:
        say(f"  {status.last.ended_at[:10]}:")
        for line in _told(status.last):
            say(f"  {line}")


def _say_curve(learnt: Learnt) -> None:
    for stretch in learnt.curve:
        share = stretch.right / stretch.answers
        again = f"  today {stretch.right_again / stretch.asked_again:.0%}" if stretch.asked_again else ""
        say(f"  {stretch.first[:10]} to {stretch.last[:10]}  {stretch.right} of {stretch.answers}  {share:.0%}{again}")


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
