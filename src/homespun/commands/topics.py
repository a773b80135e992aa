"""`homespun album add-topic|rename-topic|hide-topic|remove-topic`: the family's own topics."""

from __future__ import annotations

from typing import Annotated

import typer

from homespun.commands.output import DataOption, JsonOption, Photos, open_album, plural, print_change, print_json, say

TopicKey = Annotated[str, typer.Argument(help="Key or name of the topic.", metavar="TOPIC")]


def add_to(group: typer.Typer) -> None:
    """Add these commands to `homespun album`."""
    for command in (add_topic, rename_topic, hide_topic, remove_topic):
        group.command(rich_help_panel="Topics")(command)


def add_topic(
    data: DataOption,
    name: Annotated[str, typer.Argument(help='Its name, such as "Grandma\'s garden".', metavar="NAME")],
    photos: Photos,
    chinese: Annotated[str | None, typer.Option("--zh", help="Its Chinese name.", metavar="NAME")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a topic out of one photo or more; the album looks for the others."""
    with open_album(data, read_only=False) as album:
        topic = album.add_topic(name, [album.photo_id(photo) for photo in photos], chinese)
    if as_json:
        print_json(topic)
    else:
        say(f"{topic.name_en} has {plural(topic.photos, 'photo')}; its key is {topic.key}")


def rename_topic(
    data: DataOption,
    topic: TopicKey,
    name: Annotated[str | None, typer.Option("--en", help="New English name.", metavar="NAME")] = None,
    chinese: Annotated[str | None, typer.Option("--zh", help="New Chinese name.", metavar="NAME")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a topic another name; its key stays."""
    with open_album(data, read_only=False) as album:
        change = album.rename_topic(topic, name, chinese)
    if as_json:
        print_json(change)
    else:
        print_change(change, f"Renamed {change.topics[0]}")


def hide_topic(
    data: DataOption,
    topic: TopicKey,
    show: Annotated[bool, typer.Option("--show", help="Put it back instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a topic off the pages."""
    with open_album(data, read_only=False) as album:
        change = album.hide_topic(topic, hidden=not show)
    if as_json:
        print_json(change)
    else:
        print_change(change, f"{change.topics[0]} is {'shown' if show else 'hidden'}")


def remove_topic(data: DataOption, topic: TopicKey, as_json: JsonOption = False) -> None:
    """Remove a topic of your own; `undo` brings it back with its labels."""
    with open_album(data, read_only=False) as album:
        change = album.remove_topic(topic)
    if as_json:
        print_json(change)
    else:
        print_change(change, f"Removed {change.topics[0]}")
