"""Checkpoints: everything that training goes on from, in one `.hsp` file that is also a model.

The model's parameters and statistics are the graph's own; what belongs to training (optimizer states, averages, random
state) are further states, and options, step, schedule and data cursor are JSON in the metadata. The file is written
beside, flushed and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun import _native
from homespun.errors import FormatError, OptionError
from homespun.formats import hsp
from homespun.graph import Graph
from homespun.options import not_negative
from homespun.training import losses, optim, schedules
from homespun.training.loss_scale import LossScale
from homespun.training.optim.optimizer import MOST
from homespun.training.progress import Progress

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer

KEY = "homespun_training"
_INNER = "loss"  # the attribute of a loss that holds the one it wraps
VERSION = 1
_KINDS: dict[str, type | tuple[type, ...]] = {
    "options": dict,
    "isa": str,
    "trainable": list,
    "optimizer": list,
    "loss": list,
    "schedule": (dict, type(None)),
    "loss_scale": (dict, type(None)),
    "step": int,
    "progress": dict,
    "states": list,
    "extra": dict,
}
_OPTIONS = ("batch", "accumulate", "precision", "memory_budget", "threads", "seed", "average", "backbone_weights")


def save_checkpoint(trainer: Trainer, path: str | Path, **extra: Any) -> None:
    """Write a checkpoint. `extra` is JSON of the caller's own, given back by `read_extra`."""
    with trainer.standing_still():
        graph = trainer.model()
        own = trainer.training_state()
        for name, value in own.items():
            graph.add_array(name, np.array(value), "state")
        graph.metadata[KEY] = json.dumps(
            {
                "version": VERSION,
                "options": {k: getattr(trainer, k) for k in _OPTIONS},
                "isa": trainer.isa,
                "trainable": list(trainer.trainable),
                "optimizer": [type(trainer.optimizer).__name__, dict(trainer.optimizer.options())],
                "loss": _described_loss(trainer.loss),
                "schedule": None if trainer.schedule is None else schedules.describe(trainer.schedule),
                "loss_scale": None if trainer.loss_scale is None else asdict(trainer.loss_scale),
                "step": trainer.step_count,
                "progress": asdict(trainer.progress),
                "states": list(own),
                "extra": extra,
            }
        )
        hsp.save(graph, path)


def _described_loss(loss: Any) -> list[Any]:
    """Name and options; of a loss that is not Homespun's own a name alone, since it must be given again anyway."""
    if isinstance(loss, losses.Custom):
        return [f"function {getattr(loss.function, '__name__', '')}", {}]
    name, options = type(loss).__name__, dict(vars(loss))
    if isinstance(options.get(_INNER), losses.Loss):
        options[_INNER] = _described_loss(options[_INNER])
    return [name, options] if getattr(losses, name, None) is type(loss) else [name, {}]


def _read(path: str | Path) -> tuple[Graph, dict[str, Any]]:
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: there is no such file")
    graph = hsp.load(path)
    text = graph.metadata.pop(KEY, None)
    if text is None:
        raise FormatError(f"{path}: a model, but no checkpoint: it holds no training state")
    with _readable(path):
        described = json.loads(text)
        version = described["version"]
    if version != VERSION:
        raise FormatError(f"{path}: a checkpoint of version {version}; this release reads version {VERSION}")
    for key, kind in _KINDS.items():
        if not isinstance(described.get(key), kind):
            raise FormatError(f"{path}: the training state can't be read: its {key!r} is {described.get(key)!r}")
    if not all(isinstance(name, str) for name in described["trainable"]):
        raise FormatError(f"{path}: the training state can't be read: names of parameters are no text")
    return graph, described


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Raise `FormatError` for what inside the block shows that a training state is damaged."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as e:
        raise FormatError(f"{path}: the training state can't be read ({type(e).__name__}: {e})") from None


def read_extra(path: str | Path) -> dict[str, Any]:
    """What the caller of `save_checkpoint` added."""
    return dict(_read(path)[1]["extra"])


def load_checkpoint(kind: type[Trainer], path: str | Path, **options: Any) -> Any:
    """The trainer of a checkpoint. `options` replace those it was saved with; a loss of one's own must be given."""
    graph, described = _read(path)
    states = _take_states(path, graph, described)
    loss = options.pop("loss", None) or _loss(path, described["loss"])
    optimizer = options.pop("optimizer", None) or _optimizer(path, described["optimizer"])
    isa = described["isa"] if described["isa"] in _native.isas() else None  # another sums in another order
    given = {**described["options"], "trainable": described["trainable"], "isa": isa, **options}
    trainer = kind(graph, loss, optimizer, **given)
    _restore(trainer, path, graph, described, states)
    return trainer


def restore(trainer: Trainer, path: str | Path) -> None:
    """Bring a trainer to the state of a checkpoint of the same model. Raises `FormatError`, with nothing changed."""
    graph, described = _read(path)
    states = _take_states(path, graph, described)
    _restore(trainer, path, graph, described, states)


def _take_states(path: str | Path, graph: Graph, described: dict[str, Any]) -> dict[str, Any]:
    states = {}
    for name in described["states"]:
        if not isinstance(name, str) or name not in graph.tensors:
            raise FormatError(f"{path}: the state {name!r} is missing")
        states[name] = graph.tensors.pop(name).data
    return states


def _restore(
    trainer: Trainer, path: str | Path, graph: Graph, described: dict[str, Any], states: dict[str, Any]
) -> None:
    with _readable(path):
        began, ours_now = (int(o["batch"]) * int(o["accumulate"]) for o in (described["options"], vars(trainer)))
        scale = LossScale(**described["loss_scale"]) if described["loss_scale"] is not None else None
        schedule = None if described["schedule"] is None else schedules.from_description(described["schedule"])
        progress, step = Progress(**described["progress"]), int(described["step"])
        rate = not_negative("learning_rate", described["optimizer"][1]["learning_rate"], MOST)
    if step < 0:
        raise FormatError(f"{path}: the training state can't be read: its step is {step}")
    if progress.batch and began != ours_now:
        raise OptionError(
            f"{path}: stands within an epoch of steps of {began} samples; with steps of {ours_now} (batch times "
            f"accumulate) some would come twice, or never. Change that between two epochs"
        )
    if described["trainable"] != list(trainer.trainable):
        raise FormatError(f"{path}: the checkpoint trained other parameters than this trainer does")
    for what, ours in (("parameter", trainer.parameters(copy=False)), ("state", trainer.state(copy=False))):
        theirs = {t.name: t.shape for t in graph.tensors.values() if t.role == what}
        if theirs != {n: v.shape for n, v in ours.items()}:
            different = sorted(set(theirs) ^ set(ours)) or [n for n in theirs if theirs[n] != ours[n].shape]
            raise FormatError(f"{path}: a checkpoint of another model: {what} {different[0]!r} differs")
    expected = {n: v.shape for n, v in trainer.training_state().items()}
    found = {n: v.shape for n, v in states.items()}
    if expected != found:
        name = (sorted(set(expected) ^ set(found)) or ["?"])[0]
        raise FormatError(f"{path}: a checkpoint of another optimizer: state {name!r} differs")
    if (scale is None) != (trainer.loss_scale is None):
        raise FormatError(
            f"{path}: the checkpoint's precision is {described['options'].get('precision')!r}, ours is not"
        )
    trainer.take_over(graph, states)  # what could go wrong has gone right
    trainer.loss_scale, trainer.schedule, trainer.progress, trainer.step_count = scale, schedule, progress, step
    trainer.optimizer.learning_rate = rate


def _kind(path: str | Path, module: Any, described: list[Any], base: type, what: str) -> tuple[Any, dict[str, Any]]:
    """(class, its options). Raises `OptionError` for a class that is not Homespun's own."""
    with _readable(path):
        name, options = described
        kind = getattr(module, name, None)
        options = dict(options)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise OptionError(f"{path}: the checkpoint's {what} is {name!r}, which is not Homespun's own: pass {what}=...")
    return kind, options


def _loss(path: str | Path, described: list[Any]) -> losses.Loss:
    kind, options = _kind(path, losses, described, losses.Loss, "loss")
    if isinstance(options.get(_INNER), list):
        options[_INNER] = _loss(path, options[_INNER])
    with _readable(path):
        made: losses.Loss = kind(**options)
    return made


def _optimizer(path: str | Path, described: list[Any]) -> optim.Optimizer:
    kind, options = _kind(path, optim, described, optim.Optimizer, "optimizer")
    with _readable(path):
        groups = [optim.Group(tuple(p), rate, decay) for p, rate, decay in options["groups"]]
        made: optim.Optimizer = kind(**{**options, "groups": groups})
    return made
