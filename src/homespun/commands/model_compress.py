"""`homespun model compress MODEL TARGET`: fewer channels, and 8 bits where photos show that they do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homespun.commands.model import Architecture, Model, Stored, load_model
from homespun.commands.model_check import BATCH
from homespun.commands.output import JsonOption, plural, print_json, say
from homespun.commands.pictures import CALIBRATION, read_photos


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun model`."""
    group.command()(compress)


def compress(
    model: Model,
    target: Annotated[Path, typer.Argument(help="The file to write: .hsp or .onnx.", metavar="TARGET")],
    keep_flops: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Prune channels until at most this share of the operations is left. Fine-tune the result then, with "
            "`homespun train`: pruning alone ruins a network.",
        ),
    ] = None,
    weights: Annotated[Stored, typer.Option(help="How to store weights.")] = Stored.INT8,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos like those to come: what pruning folds, how weights are rounded and the ranges of "
            "activations are measured on them.",
            metavar="FOLDER",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            help="Of a hundred photos, how many may get another first answer than in float32: layers stay in 16 bits "
            "until it is no more. Needs --photos.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Photos to take at most.")] = 400,
    architecture: Architecture = None,
    as_json: JsonOption = False,
) -> None:
    """Write a smaller model: channels pruned, weights in 8 bits, or 16 where 8 would change answers."""
    import homespun as hs
    from homespun.graph.infer import flops

    if budget is not None and (photos is None or weights is not Stored.INT8):
        raise hs.OptionError("--budget says what 8 bits may change on photos: it needs --photos, and --weights int8")
    graph = load_model(model, architecture)
    facts: dict[str, Any] = {"file": str(target), "weights": weights.value, "flops_before": flops(graph)}
    pictures = None if photos is None else read_photos(photos, graph, limit)
    if keep_flops is not None:
        statistics = None if pictures is None else hs.channel_statistics(graph, pictures)
        graph = hs.prune_channels(graph, keep_flops=keep_flops, spread="global", statistics=statistics)
    facts["flops"] = flops(graph)
    if pictures is not None:
        if weights is Stored.INT8 and budget is None:
            graph = hs.round_weights(graph, pictures)
        graph = hs.calibrate(graph, pictures[:CALIBRATION])
        facts["photos"] = len(pictures)
        if budget is not None:
            answers = hs.Predictor(graph, BATCH)(pictures)
            first = answers[0] if isinstance(answers, tuple) else answers
            found = hs.mixed_precision(graph, (pictures, first.argmax(axis=-1)), budget / 100)
            graph = found.model
            facts |= {"agreement_int8": found.int8, "agreement": found.score, "layers_in_16_bits": list(found.half)}
    hs.save(graph, target, weights=weights.value, activations=_activations(target, weights, photos))
    facts |= {"bytes": target.stat().st_size, "bytes_before": model.stat().st_size}
    if as_json:
        print_json(facts)
        return
    say(f"{target}: {facts['bytes']:,} bytes (was {facts['bytes_before']:,}), weights in {weights.value}")
    if keep_flops is not None:
        share = facts["flops"] / facts["flops_before"]
        say(f"{share:.0%} of the operations are left. Fine-tune it: homespun train {target} PHOTOS --trainable all")
    if budget is not None:
        kept = plural(len(facts["layers_in_16_bits"]), "layer")
        say(f"Same first answer as float32 on {facts['agreement']:.1%} of the photos; {kept} in 16 bits")


def _activations(target: Path, weights: Stored, photos: Path | None) -> str | None:
    """How a file that can say so is to store activations: in 8 bits where photos said what they range over."""
    from homespun.formats import STORES_ACTIVATIONS

    measured = photos is not None and weights is Stored.INT8
    return "int8" if measured and target.suffix.lower() in STORES_ACTIVATIONS else None
