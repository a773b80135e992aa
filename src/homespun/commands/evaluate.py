"""`homespun album evaluate`: how well topics are told apart and learnt, measured on folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homespun.commands.output import JsonOption, print_json


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun album`."""
    group.command(rich_help_panel="Measure")(evaluate)


def evaluate(
    known: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folders of topics that the album knows.", metavar="DIR")
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folders of topics to test with; those only here are new.", metavar="DIR"
        ),
    ] = None,
    split_by: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Instead of --test: a table of --known's photos and sources.",
            metavar="CSV",
        ),
    ] = None,
    shots: Annotated[str, typer.Option(help="Photos per new topic, comma-separated.")] = "1,2,5,10,20",
    seeds: Annotated[int, typer.Option(min=1, help="Random draws to average over.")] = 5,
    out: Annotated[Path, typer.Option(file_okay=False, help="Where results and plots go.", metavar="DIR")] = Path(
        "evaluation"
    ),
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy, few-shot learning, corrections, calibration and doubts; write JSON, a table and plots."""
    if (test is None) == (split_by is None):
        raise typer.BadParameter("give either --test DIR or --split-by CSV")
    counts = _numbers(shots)
    import homespun.learning.evaluate as evaluation
    from homespun.album.vision import Embedder

    result = evaluation.run(known, test, counts, seeds, out, embed=Embedder().embed, split_by=split_by, quiet=as_json)
    if as_json:
        print_json(result)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"shots are numbers from 1, such as 1,2,5; not {text!r}")
    return numbers
