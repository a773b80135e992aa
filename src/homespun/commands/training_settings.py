"""The settings of `homespun train`, which its checkpoint keeps, and the model, data and trainer that follow from them.

A run that goes on must be the run that began: settings that decide on its result are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.errors import FormatError, HomespunError, OptionError

if TYPE_CHECKING:
    from homespun import Graph, Trainer
    from homespun.data import ImageFolder
    from homespun.training.optim import Optimizer
    from homespun.training.schedules import Schedule

#: Learning rate where none is given, by what is trained: the more is trained, the smaller.
_RATES = {
    "adam": (3e-3, 5e-4),
    "adamw": (3e-3, 5e-4),
    "sgd": (5e-2, 1e-2),
    "rmsprop": (1e-3, 1e-4),
    "adagrad": (1e-2, 1e-3),
    "lion": (1e-3, 5e-5),
}
_HEAD = ["head"]


@dataclass(frozen=True)
class Settings:
    """All that decides on what a run learns."""

    model: str
    photos: str
    trainable: list[str]
    batch: int
    accumulate: int
    learning_rate: float | None
    optimizer: str
    schedule: str
    weight_decay: float
    label_smoothing: float
    seed: int
    pretrained: str | None
    from_scratch: bool
    image_size: int | None
    augment: str | None
    mixup: float
    cutmix: float
    validation: str | None
    validation_share: float
    precision: str
    step_every: int | None = None
    warm_up: float = 0.0
    momentum: float | None = None
    clip_norm: float = 0.0
    average: float = 0.0
    frozen_weights: str = "float32"

    @property
    def head_only(self) -> bool:
        """Whether only the last layer learns."""
        return self.trainable == _HEAD

    @property
    def keeps_features(self) -> bool:
        """Whether the frozen part sees the same pictures each epoch, so that its work can be kept."""
        return self.head_only and self.augmentation == "none" and not self.mixup and not self.cutmix

    @property
    def augmentation(self) -> str:
        """As given; else none for the head, whose features are then computed once, and light for the rest."""
        return self.augment or ("none" if self.head_only else "light")

    @property
    def rate(self) -> float:
        """The learning rate, given or usual."""
        return self.learning_rate if self.learning_rate is not None else _RATES[self.optimizer][not self.head_only]

    def check_same(self, began: dict[str, Any], checkpoint: Path) -> None:
        """Raise `OptionError` if a checkpoint's run began with other settings."""
        began = {**{f.name: f.default for f in fields(self) if f.default is not MISSING}, **began}
        for name, value in asdict(self).items():
            if began.get(name) != value:
                raise OptionError(
                    f"{checkpoint} holds a run that began with {_words(name, began.get(name))}, not "
                    f"{_words(name, value)}. Give the same options to go on with it, or another --checkpoint (or "
                    f"remove the file) to begin anew"
                )


def _words(name: str, value: Any) -> str:
    if name in ("model", "photos"):
        return str(value)
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return f"no {option}"
    return option if value is True else f"{option} {' '.join(value) if isinstance(value, list) else value}"


def load_photos(
    settings: Settings, like: Graph, classes: tuple[str, ...] | None, workers: int
) -> tuple[ImageFolder, ImageFolder | None]:
    """(to train with, to validate with if anything). Raises `OptionError` for fewer than two classes."""
    from homespun import data

    augment: list[Any] = {"none": list, "light": data.light, "strong": data.strong}[settings.augmentation]()
    share = 0.5 if settings.mixup and settings.cutmix else 1.0
    if settings.mixup:
        augment.append(data.MixUp(settings.mixup, share))
    if settings.cutmix:
        augment.append(data.CutMix(settings.cutmix, share))
    photos = data.ImageFolder(
        settings.photos, like=like, augment=augment, classes=classes, seed=settings.seed, workers=workers
    )
    names = photos.classes or ()
    if len(names) < 2:
        raise OptionError(f"{settings.photos}: one class only, {', '.join(names)}; there is nothing to tell apart")
    if settings.validation is not None:
        other = data.ImageFolder(settings.validation, like=like, classes=names, seed=settings.seed, workers=workers)
        return photos, other
    if settings.validation_share == 0:
        return photos, None
    return photos.split(settings.validation_share, settings.seed)


def begin_model(settings: Settings) -> tuple[Graph, str]:
    """The network that a run begins with, before it has a head for the photos' classes, and where it comes from."""
    import homespun as hs

    name, size = settings.model, settings.image_size
    if name in hs.zoo.__all__:
        return _from_zoo(settings, getattr(hs.zoo, name), size)
    if settings.pretrained is not None or settings.from_scratch:
        raise OptionError("--pretrained and --from-scratch are for networks of the zoo, not for a model file")
    path = Path(name)
    if not path.is_file():
        raise OptionError(f"{name}: neither a file nor a network of the zoo, which are {', '.join(hs.zoo.__all__)}")
    if path.suffix.lower() in (".pth", ".pt"):
        raise OptionError(f"{name} holds weights but no network: say which, as in `mobilenet_v2 --pretrained {name}`")
    return _resized(hs.load(path), size), f"from {path}"


def _from_zoo(settings: Settings, build: Callable[..., Graph], size: int | None) -> tuple[Graph, str]:
    import homespun as hs
    from homespun.album.vision import ASSETS, BACKBONE, verified_checksum

    if "image_size" not in signature(build).parameters:
        raise OptionError(f"{settings.model} is no network for pictures")
    sizes = {} if size is None else {"image_size": size}
    if settings.pretrained is not None:
        return build(weights=settings.pretrained, **sizes), f"with the weights in {settings.pretrained}"
    if settings.from_scratch:
        if settings.head_only:
            raise OptionError("--from-scratch begins with random weights: train all of it, with --trainable all")
        return build(seed=settings.seed, **sizes), "with random weights"
    if settings.model != "efficientnet_lite0":
        raise OptionError(
            f"{settings.model} needs weights to begin with: --pretrained FILE.pth (as torchvision has them), or "
            f"--from-scratch for random ones. efficientnet_lite0 has its weights here"
        )
    verified_checksum(ASSETS / BACKBONE)
    model = _resized(hs.load(ASSETS / BACKBONE), size)
    model.name = settings.model
    return model, "with the weights that come with Homespun"


def _resized(model: Graph, size: int | None) -> Graph:
    """The model for pictures of another size. Raises `OptionError` if it can't take them."""
    from homespun.graph import infer

    if size is None:
        return model
    resized = model.copy()
    picture = resized.tensors[resized.inputs[0]]
    if len(picture.shape) != 4:
        raise OptionError(f"{model.name} does not take pictures, so that --image-size says nothing to it")
    picture.shape = (picture.shape[0], size, size, picture.shape[3])
    try:
        infer(resized, batch=1)
    except HomespunError as error:
        raise OptionError(f"{model.name} can't take pictures of {size}x{size}: {error}") from error
    return resized


def with_head(model: Graph, classes: tuple[str, ...], seed: int) -> Graph:
    """The model with a last layer for these classes: its own if it has been trained for them, else a new one."""
    import homespun as hs
    from homespun.graph.class_names import class_names

    if class_names(model) == classes:
        return model
    return hs.splice(model, classes, at=_features(model), seed=seed)


def _features(model: Graph) -> str:
    """The tensor that a new last layer reads: what the old one read, if there is one."""
    if "features" in model.tensors:
        return "features"
    if len(model.outputs) != 1:
        raise FormatError(f"{model.name} has {len(model.outputs)} outputs; it must have one to be trained so")
    name = model.outputs[0]
    producers = model.producers()
    while name in producers and producers[name].op in ("softmax", "linear"):
        node = producers[name]
        name = node.inputs[0]
        if node.op == "linear":
            return name
    return model.outputs[0]


def new_trainer(
    model: Graph, settings: Settings, *, memory_budget: str | None, threads: int, epochs: int, steps: int
) -> Trainer:
    """A trainer at the beginning of a run of so many epochs of so many steps."""
    import homespun as hs

    trainable: Any = settings.trainable[0] if len(settings.trainable) == 1 else settings.trainable
    trainer = hs.Trainer(
        model,
        hs.losses.CrossEntropy(settings.label_smoothing),
        _optimizer(settings),
        batch=settings.batch,
        accumulate=settings.accumulate,
        trainable=trainable,
        precision=settings.precision,
        memory_budget=memory_budget,
        threads=threads,
        seed=settings.seed,
        average=settings.average,
        backbone_weights=settings.frozen_weights,
    )
    trainer.schedule = new_schedule(settings, epochs, steps)
    return trainer


def _optimizer(settings: Settings) -> Optimizer:
    from homespun import optim

    kinds: dict[str, type[Optimizer]] = {
        "sgd": optim.SGD,
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "rmsprop": optim.RMSprop,
        "adagrad": optim.Adagrad,
        "lion": optim.Lion,
    }
    options: dict[str, Any] = {"weight_decay": settings.weight_decay, "clip_norm": settings.clip_norm}
    if settings.optimizer == "sgd":
        momentum = 0.9 if settings.momentum is None else settings.momentum
        options |= {"momentum": momentum, "nesterov": momentum > 0}
    elif settings.momentum is not None:
        options["momentum"] = settings.momentum
    return kinds[settings.optimizer](settings.rate, **options)


def new_schedule(settings: Settings, epochs: int, steps: int) -> Schedule:
    """How the learning rate goes over so many epochs of so many steps."""
    from homespun import schedules

    rising = round(settings.warm_up * steps)
    left = max(2, epochs * steps - rising)
    then: Schedule
    if settings.schedule == "cosine":
        then = schedules.Cosine(left)
    elif settings.schedule == "one-cycle":
        then = schedules.OneCycle(left)
    elif settings.schedule == "step":
        then = schedules.StepDecay((settings.step_every or max(1, epochs // 3)) * steps)
    elif settings.schedule == "plateau":
        then = schedules.Plateau()
    else:
        then = schedules.Constant()
    return schedules.WarmUp(rising, then) if rising else then
