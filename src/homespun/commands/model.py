"""`homespun model info|convert|bench`: models as files, listed, converted and measured."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homespun.commands.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from homespun import Graph
    from homespun.graph import Array

WARM_UPS = 3


class Stored(StrEnum):
    """How weights are written to a file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class Computed(StrEnum):
    """How weights are multiplied."""

    FLOAT32 = "float32"
    INT8 = "int8"


Model = Annotated[
    Path,
    typer.Argument(
        help="A model: .hsp, .onnx, .tflite or .mindir; .prototxt or .caffemodel, the other of the two beside it; "
        ".safetensors, .pth or .ckpt with --architecture.",
        metavar="MODEL",
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="What network weights are for: those of a .safetensors, .pth or .ckpt file by its name in homespun.zoo, "
        "those of a .ckpt also by a .mindir file, and of a .caffemodel by its .prototxt, where several are beside it.",
        metavar="NAME",
    ),
]


def add_to(group: typer.Typer) -> None:
    """Add these commands to `homespun model`."""
    for command in (info, convert, bench):
        group.command()(command)


def info(model: Model, architecture: Architecture = None, as_json: JsonOption = False) -> None:
    """List a model: operators, shapes, parameters, cost."""
    graph = load_model(model, architecture)
    if as_json:
        print_json({"file": str(model), "bytes": model.stat().st_size, **_facts(graph)})
    else:
        say(str(graph))


def convert(
    model: Model,
    target: Annotated[
        Path, typer.Argument(help="The file to write: .hsp, .onnx or .safetensors (weights only).", metavar="TARGET")
    ],
    weights: Annotated[Stored, typer.Option(help="How to store weights.")] = Stored.FLOAT32,
    activations: Annotated[
        Computed | None,
        typer.Option(
            help="For .onnx with weights in int8: whether activations go through 8 bits too. "
            "By default if --photos says what they range over."
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos like those to come, to measure ranges of activations on.", metavar="FOLDER"
        ),
    ] = None,
    architecture: Architecture = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model in another format, by the target's suffix, its weights in 32, 16 or 8 bits."""
    import homespun as hs
    from homespun.commands.pictures import CALIBRATION, read_photos

    graph = load_model(model, architecture)
    measured = None if photos is None else read_photos(photos, graph, CALIBRATION)
    stored = activations and activations.value
    hs.save(graph, target, weights=weights.value, activations=stored, calibrate=measured)
    before, after = model.stat().st_size, target.stat().st_size
    if as_json:
        print_json({"file": str(target), "weights": weights.value, "bytes": after, "bytes_before": before})
    else:
        say(f"{target}: {after:,} bytes (was {before:,}), weights in {weights.value}")


def bench(
    model: Model,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    weights: Annotated[Computed, typer.Option(help="How to multiply weights.")] = Computed.FLOAT32,
    runs: Annotated[int, typer.Option(min=1, help="Runs that are timed.")] = 50,
    architecture: Architecture = None,
    as_json: JsonOption = False,
) -> None:
    """Time a model on random input, and say what memory it takes."""
    import numpy as np

    import homespun as hs

    graph = load_model(model, architecture)
    predict = hs.Predictor(graph, batch=batch, weights=weights.value, threads=threads)
    inputs = random_inputs(graph, batch)
    for _ in range(WARM_UPS):
        predict(*inputs)
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        predict(*inputs)
        seconds.append(time.perf_counter() - began)
    median, least = float(np.median(seconds)), min(seconds)
    result = {
        "file": str(model),
        "batch": batch,
        "threads": threads,
        "weights": weights.value,
        "runs": runs,
        "median_ms": median * 1000,
        "min_ms": least * 1000,
        "samples_per_second": batch / median,
        "arena_bytes": predict.memory.arena,
    }
    if as_json:
        print_json(result)
        return
    print_table(
        ("", ""),
        [
            ("Median", f"{median * 1000:.2f} ms"),
            ("Least", f"{least * 1000:.2f} ms"),
            ("Samples per second", f"{batch / median:.1f}"),
            ("Arena", f"{predict.memory.arena:,} bytes"),
            ("Measured", f"batch {batch}, {threads} threads, {weights.value}, {runs} runs"),
        ],
    )


def load_model(path: Path, architecture: str | None) -> Graph:
    """A model file; `architecture` is for those that hold weights only."""
    import homespun as hs

    options: dict[str, Any] = {} if architecture is None else {"architecture": architecture}
    return hs.load(path, **options)


def _facts(graph: Graph) -> dict[str, Any]:
    """Shapes without the batch, and counts."""
    from homespun.graph import infer

    types = infer(graph)
    return {
        "inputs": {name: list(types[name].shape[1:]) for name in graph.inputs},
        "outputs": {name: list(types[name].shape[1:]) for name in graph.outputs},
        "operators": len(graph.nodes),
        "parameters": sum(types[tensor.name].size for tensor in graph.with_role("parameter")),
    }


def random_inputs(graph: Graph, batch: int) -> list[Array]:
    """Normal numbers; for inputs of whole numbers ones, which every table and mask has."""
    import numpy as np

    random = np.random.default_rng(0)
    made = []
    for name in graph.inputs:
        shape, dtype = (batch, *graph.tensors[name].shape[1:]), graph.tensors[name].dtype
        made.append(random.standard_normal(shape).astype(dtype) if dtype == "float32" else np.ones(shape, dtype))
    return made
