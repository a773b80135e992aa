"""`homespun model predict`: what a classifier says of photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homespun.commands.model import Computed
from homespun.commands.output import JsonOption, note, print_json, print_table
from homespun.errors import FormatError, OptionError

if TYPE_CHECKING:
    from homespun import Graph
    from homespun.data import Preprocessing
    from homespun.graph import Array


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun model`."""
    group.command()(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="A classifier (.hsp), as `homespun train` makes.", metavar="MODEL")],
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of them.", metavar="PHOTO")],
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each photo.")] = 1,
    weights: Annotated[Computed, typer.Option(help="How to multiply weights.")] = Computed.FLOAT32,
    batch: Annotated[int, typer.Option(min=1, help="Photos at a time.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Say what photos are of, and how sure that is. Files that can't be read are named on standard error."""
    import homespun as hs
    from homespun.data.parallel import ordered_map

    graph = hs.load(model)
    names = _names(graph)
    preprocessing = hs.data.Preprocessing.of(graph)
    paths = list(_files(photos))
    if not paths:
        raise OptionError(f"there are no photos in {', '.join(map(str, photos))}")
    network = hs.Predictor(graph, batch=batch, weights=weights.value, threads=threads)
    pictures = ordered_map(partial(_picture, preprocessing=preprocessing), paths, threads, 2 * batch)
    found: list[dict[str, Any]] = []
    problems: list[dict[str, str]] = []
    for chunk in _chunks(zip(paths, pictures, strict=True), batch):
        problems += [{"path": str(path), "reason": str(p)} for path, p in chunk if isinstance(p, FormatError)]
        readable = [(path, p) for path, p in chunk if not isinstance(p, FormatError)]
        scores = _probabilities(graph, network, [p for _, p in readable])
        found += [_told(path, row, names, top) for (path, _), row in zip(readable, scores, strict=True)]
    if as_json:
        print_json({"model": str(model), "photos": found, "unreadable": problems})
    elif found:
        columns = ["Photo", *(["Class", "Sure"] * min(top, len(names)))]
        print_table(columns, map(_cells, found), right=("Sure",))
    for problem in problems:
        note(problem["reason"])
    if not found:
        raise typer.Exit(1)


def _names(graph: Graph) -> Sequence[str]:
    """Names of the classes; their numbers for a model that has no names."""
    from homespun.graph import infer
    from homespun.graph.class_names import class_names

    shape = infer(graph, batch=1)[graph.outputs[0]].shape
    if len(graph.outputs) != 1 or len(shape) != 2:
        raise OptionError(f"{graph.name} is no classifier: its output is {list(shape[1:])}, not a value for each class")
    names = class_names(graph) or [str(i) for i in range(shape[1])]
    if len(names) != shape[1]:
        raise FormatError(f"{graph.name} has {shape[1]} outputs but names for {len(names)} classes")
    return names


def _files(given: Iterable[Path]) -> Iterator[Path]:
    """The files given, and the pictures in folders given."""
    from homespun.data.pictures import picture_files

    for path in given:
        yield from picture_files(path) if path.is_dir() else [path]


def _picture(path: Path, preprocessing: Preprocessing) -> Array | FormatError:
    from homespun.data import read_pixels

    try:
        pixels = read_pixels(path, preprocessing.height, preprocessing.width, preprocessing.channels)
    except FormatError as problem:
        return problem
    return preprocessing.apply(pixels)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _probabilities(graph: Graph, network: Any, pictures: Sequence[Array]) -> Array:
    """(N, classes) that add up to one: the model's own if it ends in a softmax."""
    import numpy as np

    if not pictures:
        return np.zeros((0, 0), np.float32)
    scores: Array = network(np.stack(pictures))
    if graph.producers()[graph.outputs[0]].op == "softmax":
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _told(path: Path, scores: Array, names: Sequence[str], top: int) -> dict[str, Any]:
    best = scores.argsort()[::-1][:top]
    return {"path": str(path), "classes": [{"class": names[i], "confidence": float(scores[i])} for i in best]}


def _cells(row: dict[str, Any]) -> list[str]:
    classes = [cell for c in row["classes"] for cell in (c["class"], f"{c['confidence']:.0%}")]
    return [row["path"], *classes]
