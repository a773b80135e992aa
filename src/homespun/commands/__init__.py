"""The command line, one module for each group of commands; `homespun.cli` runs what `build_app` puts together.

Only what shapes the commands is imported here: a command imports what it works with when it runs, so that
`homespun --help` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from homespun import __version__


def build_app() -> typer.Typer:
    """The whole command line."""
    from homespun.commands import (
        corrections,
        evaluate,
        indexing,
        learn,
        model,
        model_check,
        model_compress,
        photos,
        predict,
        serving,
        topics,
        train,
    )

    root = new_group("Train and run networks where the data lives, and keep a family's photo album.")

    @root.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
        ] = False,
    ) -> None:
        pass

    album_group = new_group(
        "A family's photos, sorted into topics. Nothing leaves this machine, and originals are never changed."
    )
    for module in (indexing, serving, photos, corrections, topics, learn, evaluate):
        module.add_to(album_group)
    root.add_typer(album_group, name="album")
    train.add_to(root)
    model_group = new_group("Look at models, convert them and measure them.")
    for module in (model, model_check, model_compress, predict):
        module.add_to(model_group)
    root.add_typer(model_group, name="model")
    return root


def new_group(help: str) -> typer.Typer:
    """A group of commands with this help, that shows it when called without a command."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"homespun {__version__}")
        raise typer.Exit
