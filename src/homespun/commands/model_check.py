"""`homespun model check A B`: whether two files hold the same network, by what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homespun.commands.model import Architecture, load_model, random_inputs
from homespun.commands.output import JsonOption, print_json, print_table, say
from homespun.commands.pictures import read_photos

if TYPE_CHECKING:
    from homespun import Graph
    from homespun.graph import Array

BATCH = 8


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun model`."""
    group.command()(check)


def check(
    first: Annotated[Path, typer.Argument(help="A model.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="The model to compare it with.", metavar="B")],
    photos: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos to compare on too, prepared as the models say, else as -1 to 1.", metavar="FOLDER"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Photos to take at most.")] = 64,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference that is let pass, relative to the largest output.")
    ] = 1e-3,
    architecture: Architecture = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on random inputs and on photos. Ends with 1 if they differ by more than the tolerance."""
    from homespun.formats import WEIGHTS_ONLY

    a, b = (load_model(p, architecture if p.suffix.lower() in WEIGHTS_ONLY else None) for p in (first, second))
    _check_inputs(first, a, second, b)
    rows = _compared("random", a, b, random_inputs(a, BATCH))
    if photos is not None:
        rows += _compared("photos", a, b, [read_photos(photos, a if a.metadata.get("input_mean") else b, limit)])
    worst = max(row["difference"] for row in rows)
    same = worst <= tolerance
    if as_json:
        print_json({"same": same, "tolerance": tolerance, "outputs": rows})
    else:
        print_table(
            ("Inputs", "Output", "Difference", "Cosine", "Same first choice"),
            [
                (r["inputs"], r["output"], f"{r['difference']:.2e}", f"{r['cosine']:.6f}", f"{r['agreement']:.1%}")
                for r in rows
            ],
        )
        say(f"{'The same' if same else 'Different'}: at most {worst:.2e} of the largest output, {tolerance:g} allowed")
    if not same:
        raise typer.Exit(1)


def _check_inputs(first: Path, a: Graph, second: Path, b: Graph) -> None:
    from homespun import ModelError
    from homespun.graph import infer

    kinds = [[(g.tensors[n].shape[1:], g.tensors[n].dtype) for n in g.inputs] for g in (a, b)]
    results = [[infer(g)[o].shape for o in g.outputs] for g in (a, b)]
    if kinds[0] != kinds[1] or results[0] != results[1]:
        raise ModelError(
            f"{first} and {second} can't be compared: inputs {kinds[0]} and {kinds[1]}, "
            f"outputs {results[0]} and {results[1]}"
        )


def _compared(kind: str, a: Graph, b: Graph, inputs: list[Array]) -> list[dict[str, Any]]:
    """One row for each output: the largest difference relative to the largest value, cosine, equal first choices."""
    import numpy as np

    import homespun as hs

    batch = min(BATCH, inputs[0].shape[0])
    found = []
    for graph in (a, b):
        predict = hs.Predictor(graph, batch=batch)
        parts = [predict(*(x[i : i + batch] for x in inputs)) for i in range(0, inputs[0].shape[0], batch)]
        listed = [part if isinstance(part, tuple) else (part,) for part in parts]
        found.append([np.concatenate(each).astype(np.float64) for each in zip(*listed, strict=True)])
    rows = []
    for name, x, y in zip(a.outputs, *found, strict=True):
        scale = float(np.abs(x).max(initial=0.0)) or 1.0
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        rows.append(
            {
                "inputs": kind,
                "output": name,
                "difference": float(np.abs(x - y).max(initial=0.0)) / scale,
                "cosine": float((x * y).sum()) / norm if norm else 1.0,
                "agreement": float((x.argmax(-1) == y.argmax(-1)).mean()),
            }
        )
    return rows
