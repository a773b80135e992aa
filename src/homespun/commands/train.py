"""`homespun train`: fine-tunes a network on a folder of photos, pausable, resumable, within a memory budget."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from homespun.commands.model import Computed, Stored
from homespun.commands.output import JsonOption, note, plural, print_json, say
from homespun.errors import OptionError


class Augment(StrEnum):
    """How pictures are varied from epoch to epoch."""

    NONE = "none"
    LIGHT = "light"
    STRONG = "strong"


class Precision(StrEnum):
    """How activations are stored while training."""

    FLOAT32 = "float32"
    MIXED = "mixed"
    MIXED_FLOAT16 = "mixed_float16"


class Optimizer(StrEnum):
    """How weights follow gradients."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAGRAD = "adagrad"
    LION = "lion"


class Schedule(StrEnum):
    """How the learning rate goes over the run."""

    COSINE = "cosine"
    CONSTANT = "constant"
    STEP = "step"
    ONE_CYCLE = "one-cycle"
    PLATEAU = "plateau"


EXIT_INTERRUPTED = 130

_LEARNING, _DATA, _MACHINE, _FILES = "How it learns", "Photos", "Memory and time", "Files"


def add_to(root: typer.Typer) -> None:
    """Add `homespun train`."""
    root.command()(train)


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="A model file (.hsp, .onnx, .tflite, .mindir, .prototxt or .caffemodel), or a network of the zoo: "
            "mobilenet_v2, efficientnet_lite0...",
            metavar="MODEL",
        ),
    ],
    data: Annotated[Path, typer.Argument(help="A folder with a folder of photos for each class.", metavar="PHOTOS")],
    head: Annotated[
        bool,
        typer.Option(
            "--head", help="Train the last layer only: the same as --trainable head.", rich_help_panel=_LEARNING
        ),
    ] = False,
    trainable: Annotated[
        list[str] | None,
        typer.Option(
            help="What is trained: head, last:2 (blocks), all, or patterns of parameter names (repeat the option).",
            show_default="head",
            metavar="WHAT",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(min=1, help="How often every photo is learnt from.", rich_help_panel=_LEARNING),
    ] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Photos of a step.", rich_help_panel=_LEARNING)] = 16,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches that make one step together.", rich_help_panel=_LEARNING)
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="The learning rate.", show_default="by what is trained", rich_help_panel=_LEARNING),
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option(help="The optimizer.", rich_help_panel=_LEARNING)] = Optimizer.ADAM,
    schedule: Annotated[
        Schedule, typer.Option(help="How the learning rate goes.", rich_help_panel=_LEARNING)
    ] = Schedule.COSINE,
    step_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs after which --schedule step takes a tenth of the rate.",
            show_default="a third of them",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    warm_up: Annotated[
        float,
        typer.Option(min=0.0, help="Epochs over which the rate rises first, 0.5 or so.", rich_help_panel=_LEARNING),
    ] = 0.0,
    momentum: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9999,
            help="Momentum of sgd and rmsprop.",
            show_default="0.9 for sgd, 0 for rmsprop",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Weight decay.", rich_help_panel=_LEARNING)] = 0.0,
    clip_norm: Annotated[
        float,
        typer.Option(min=0.0, help="The most that gradients may measure together.", rich_help_panel=_LEARNING),
    ] = 0.0,
    average: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.99999,
            help="Keep a moving average of the weights, 0.99 or so, and export that.",
            rich_help_panel=_LEARNING,
        ),
    ] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Label smoothing.", rich_help_panel=_LEARNING)
    ] = 0.0,
    early_stop: Annotated[
        int,
        typer.Option(min=0, help="End after so many epochs without a better one; 0: never.", rich_help_panel=_LEARNING),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.", rich_help_panel=_LEARNING)] = 0,
    pretrained: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Weights (.pth) for a network of the zoo.",
            metavar="FILE",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights.", rich_help_panel=_LEARNING)
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=32,
            help="Side of the network's pictures; smaller is faster and sees less.",
            show_default="the model's",
            rich_help_panel=_DATA,
        ),
    ] = None,
    augment: Annotated[
        Augment | None,
        typer.Option(
            help="How photos are varied.", show_default="none for the head, else light", rich_help_panel=_DATA
        ),
    ] = None,
    mixup: Annotated[
        float, typer.Option(min=0.0, help="Mix photos: mixup's alpha, 0.2 or so.", rich_help_panel=_DATA)
    ] = 0.0,
    cutmix: Annotated[
        float, typer.Option(min=0.0, help="Mix parts of photos: cutmix's alpha, 1 or so.", rich_help_panel=_DATA)
    ] = 0.0,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="A folder of other photos to validate with, instead of a share of PHOTOS.",
            metavar="DIR",
            rich_help_panel=_DATA,
        ),
    ] = None,
    validation_share: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Share of each class kept for validation.", rich_help_panel=_DATA),
    ] = 0.2,
    precision: Annotated[
        Precision,
        typer.Option(help="mixed takes half the memory, and less time.", rich_help_panel=_MACHINE),
    ] = Precision.FLOAT32,
    frozen_weights: Annotated[
        Computed,
        typer.Option(help="How the part that is not trained is computed.", rich_help_panel=_MACHINE),
    ] = Computed.FLOAT32,
    memory_budget: Annotated[
        str | None,
        typer.Option(help="The most that training may take, as 128MB.", metavar="SIZE", rich_help_panel=_MACHINE),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.", rich_help_panel=_MACHINE)] = 2,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read photos ahead.", rich_help_panel=_MACHINE)] = 2,
    export: Annotated[
        Path | None,
        typer.Option(
            help="The model to write (.hsp).", show_default="PHOTOS.hsp", metavar="FILE", rich_help_panel=_FILES
        ),
    ] = None,
    weights: Annotated[
        Stored, typer.Option(help="How weights are stored; int8 is four times smaller.", rich_help_panel=_FILES)
    ] = Stored.FLOAT32,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure ranges of activations on photos that it has learnt from, for predictors in 8 bits.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="A picture to draw: loss and accuracy over epochs.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an exported model that is there.", rich_help_panel=_FILES)
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Where the run is kept; a run that is there goes on.",
            show_default="beside the model",
            metavar="FILE",
            rich_help_panel=_FILES,
        ),
    ] = None,
    save_every: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds between two checkpoints, besides each epoch's.", rich_help_panel=_FILES),
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a network on your photos.

    Ctrl-C pauses: the run is saved, and the same command goes on with it,
    exactly where it was. If the process was killed, it goes on from the last
    checkpoint, to the same result.
    """
    from homespun.commands.training_run import Run, require_drawing
    from homespun.commands.training_settings import Settings

    if head and trainable not in (None, ["head"]):
        raise typer.BadParameter("--head trains the last layer only; leave out --trainable, or --head")
    if validation is not None and not validation.is_dir():
        raise typer.BadParameter(f"{validation}: there is no such folder", param_hint="--validation")
    if early_stop and validation is None and validation_share == 0:
        raise typer.BadParameter("--early-stop looks at validation, which --validation-share 0 leaves out")
    if step_every is not None and schedule is not Schedule.STEP:
        raise typer.BadParameter("--step-every goes with --schedule step")
    if momentum is not None and optimizer not in (Optimizer.SGD, Optimizer.RMSPROP):
        raise typer.BadParameter("--momentum goes with --optimizer sgd or rmsprop")
    if plot is not None:
        require_drawing(plot)
    target = export or Path(f"{data.resolve().name}.hsp")
    if target.suffix.lower() != ".hsp":
        raise typer.BadParameter(f"{target}: the name of a model ends in .hsp", param_hint="--export")
    if not target.absolute().parent.is_dir():
        raise typer.BadParameter(f"{target.absolute().parent}: there is no such folder", param_hint="--export")
    settings = Settings(
        model=model,
        photos=str(data),
        trainable=trainable or ["head"],
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        optimizer=optimizer.value,
        schedule=schedule.value,
        step_every=step_every,
        warm_up=warm_up,
        momentum=momentum,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        average=average,
        label_smoothing=label_smoothing,
        seed=seed,
        pretrained=None if pretrained is None else str(pretrained),
        from_scratch=from_scratch,
        image_size=image_size,
        augment=None if augment is None else augment.value,
        mixup=mixup,
        cutmix=cutmix,
        validation=None if validation is None else str(validation),
        validation_share=validation_share,
        precision=precision.value,
        frozen_weights=frozen_weights.value,
    )
    run = Run(
        settings,
        checkpoint or target.with_suffix(".checkpoint.hsp"),
        epochs=epochs,
        early_stop=early_stop,
        memory_budget=memory_budget,
        threads=threads,
        workers=workers,
        save_every=save_every,
    )
    if target.exists() and not replace and not run.checkpoint.exists():
        raise OptionError(f"{target} exists already: give another name with --export, or --replace")
    trainer, outcome = run.finish()
    if outcome is None:
        note(f"Paused at step {trainer.step_count} and saved to {run.checkpoint}. The same command goes on.")
        if as_json:
            print_json({"paused": True, "step": trainer.step_count, "checkpoint": str(run.checkpoint)})
        raise typer.Exit(EXIT_INTERRUPTED)
    measured = run.calibration() if calibrate else None
    trainer.export(target, weights=weights.value, averaged=average > 0, calibrate=measured)
    if plot is not None:
        from homespun.training.fit import FitResult

        FitResult(trainer.progress.history).plot(str(plot))
    size = target.stat().st_size
    if as_json:
        print_json({"paused": False, "model": str(target), "bytes": size, **outcome})
        return
    say(f"{target}: {size / 1e6:.1f} MB, tells {len(outcome['classes'])} classes apart.")
    if outcome["validation_accuracy"] is not None:
        photos = plural(outcome["validation_photos"], "photo")
        say(f"Right for {outcome['validation_accuracy']:.1%} of {photos} that it has not learnt from.")
    say(f"Try it: homespun model predict {shlex.quote(str(target))} PHOTO...")
