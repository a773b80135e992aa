"""Losses: small graph functions that map a model's outputs and the targets to one number.

A loss of one's own is a function of a few lines, or a subclass where targets are to be checked or are of other types
than the outputs; gradients follow from the operators it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from homespun.compile.autodiff import GraphExtension
from homespun.errors import OptionError, ShapeError, TrainingError
from homespun.graph import Array, Graph, TensorType


class Loss:
    """Base of all losses: the mean over a batch of something that `build` writes down."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        """Append the loss to a graph and return its name: float32, shape ().

        `outputs` are the model's; `targets` are as `target_types` says.
        """
        raise NotImplementedError

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        """Types of the targets for these outputs and what a caller passes; by default as the outputs."""
        return list(outputs[: len(targets)])

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        """Raise `TrainingError` for targets whose values make no sense."""

    def counted(self, targets: Sequence[Array]) -> float:
        """How much a batch counts among others: what its loss is the mean over, by default its samples."""
        return float(targets[0].shape[0])


#: How far a probability may be out of [0, 1], as sums in 16 bits make it.
_ROUNDING = 1e-3

#: What `Loss.build` is: (build, outputs, targets) -> the loss's name.
LossFunction = Callable[[GraphExtension, Sequence[str], Sequence[str]], str]


class Custom(Loss):
    """A function with the arguments of `Loss.build` as a loss; `Trainer(loss=function)` makes one."""

    def __init__(self, function: LossFunction) -> None:
        self.function = function

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        return self.function(build, outputs, targets)


def as_loss(loss: object) -> Loss:
    """A loss as it is, a function as a `Custom` one. Raises `OptionError` for anything else."""
    if isinstance(loss, Loss):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return Custom(loss)
    raise OptionError(f"loss is {loss!r}; it can be one of hs.losses, as CrossEntropy(), or a function of one's own")


def _mean(build: GraphExtension, x: str) -> str:
    axes = tuple(range(len(build.type(x).shape)))
    return build.add("reduce_mean", [x], "mean", axes=axes)


def _constant(build: GraphExtension, like: str, value: float) -> str:
    return build.add("constant_like", [like], "constant", value=float(value))


class CrossEntropy(Loss):
    """Cross entropy between softmax(output) and the target.

    Outputs are logits (..., C). Targets are integer labels (...) or probabilities (..., C), float. `smoothing` mixes
    labels with the uniform distribution (Szegedy et al. 2016, section 7). Labels equal to `ignore` count nothing: the
    loss is the mean over the others, as in masked language models (-100 is usual there).
    """

    def __init__(self, smoothing: float = 0.0, ignore: int | None = None) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise OptionError(f"smoothing is {smoothing}; it can be 0 up to but not 1")
        self.smoothing, self.ignore = smoothing, ignore

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        ignores = {} if self.ignore is None else {"ignores": True, "ignored": self.ignore}
        inputs = [outputs[0], targets[0]]
        return build.add("softmax_cross_entropy", inputs, "loss", smoothing=self.smoothing, **ignores)

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        logits, target = outputs[0], targets[0]
        if np.issubdtype(target.dtype, np.integer) and target.ndim == len(logits.shape) - 1:
            return [TensorType(logits.shape[:-1], "int32")]
        return [TensorType(logits.shape)]

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        target, classes = targets[0], outputs[0].shape[-1]
        if np.issubdtype(target.dtype, np.integer):
            counted = target if self.ignore is None else target[target != self.ignore]
            if not counted.size:
                return
            low, high = int(counted.min()), int(counted.max())
            if low < 0 or high >= classes:
                raise TrainingError(f"label {low if low < 0 else high} is out of range: labels are 0 to {classes - 1}")
        elif target.size and (target.min() < -_ROUNDING or target.max() > 1.0 + _ROUNDING):  # NaN: the loss tells
            raise TrainingError(
                "targets of cross entropy that are not labels are probabilities: they must lie in [0, 1]"
            )

    def counted(self, targets: Sequence[Array]) -> float:
        if self.ignore is None or not np.issubdtype(targets[0].dtype, np.integer):
            return super().counted(targets)
        return float(np.count_nonzero(targets[0] != self.ignore))


class Auxiliary(Loss):
    """A loss of the first output, plus `weight` times the same loss of each further one, all against the same targets:
    for networks with auxiliary heads. Source: Szegedy et al. 2015, section 5, where the weight is 0.3.
    """

    def __init__(self, loss: Loss, weight: float = 0.3) -> None:
        if not weight >= 0.0:
            raise OptionError(f"weight is {weight}; it can't be negative")
        self.loss, self.weight = loss, weight

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        total = self.loss.build(build, outputs[:1], targets)
        for output in outputs[1:]:
            further = self.loss.build(build, [output], targets)
            total = build.add("add", [total, build.add("mul", [further, _constant(build, further, self.weight)])])
        return total

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        return self.loss.target_types(outputs[:1], targets)

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        self.loss.check(outputs[:1], targets)

    def counted(self, targets: Sequence[Array]) -> float:
        return self.loss.counted(targets)


class Yolo(Loss):
    """YOLOv3's loss: box, objectness and class over all scales; mean over images, sum over all else.

    Targets are (N, M, 5) float32: class, x and y of the centre, width and height as shares of the image; a class below
    0 says that there is no further object, so that images with fewer than M are filled up. `anchors` (w, h, ...) are
    shares of the image too, smallest first. A prediction that overlaps an object by more than `ignore` without being
    the one responsible for it is not told that nothing is there. Source: Redmon & Farhadi 2018, section 2.
    """

    def __init__(self, anchors: Sequence[float], boxes: int = 3, ignore: float = 0.7) -> None:
        if not anchors or len(anchors) % (2 * boxes) or not 0.0 <= ignore <= 1.0:
            raise OptionError(f"anchors must be pairs for {boxes} boxes a scale, and ignore from 0 to 1, not {ignore}")
        self.anchors, self.boxes, self.ignore = list(map(float, anchors)), boxes, ignore

    @classmethod
    def of(cls, model: Graph, ignore: float = 0.7) -> Yolo:
        """With the anchors that a zoo model notes in its metadata."""
        if "anchors" not in model.metadata:
            raise OptionError(f"{model.name}: no anchors in its metadata; give them: losses.Yolo(anchors)")
        return cls(list(map(float, model.metadata["anchors"].split(","))), int(model.metadata["boxes"]), ignore)

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        scales = len(self.anchors) // (2 * self.boxes)
        if len(outputs) != scales:
            raise OptionError(f"there are anchors for {scales} scales, but the model has {len(outputs)} outputs")
        total = ""
        for scale, output in enumerate(outputs):  # the coarsest first, which has the largest anchors
            first = (scales - 1 - scale) * self.boxes
            given: dict[str, Any] = {
                "anchors": tuple(self.anchors),
                "first": first,
                "boxes": self.boxes,
                "ignore": self.ignore,
            }
            part = build.add("yolo_loss", [output, targets[0]], "loss", **given)
            total = build.add("add", [total, part]) if total else part
        return total

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        objects = targets[0].shape[1] if targets[0].ndim == 3 else 1
        return [TensorType((outputs[0].shape[0], objects, 5))]

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        objects = targets[0].reshape(-1, 5)
        objects = objects[objects[:, 0] >= 0]
        classes = outputs[0].shape[-1] // self.boxes - 5
        if not ((objects[:, 0] < classes) & (objects[:, 0] == np.floor(objects[:, 0]))).all():
            raise TrainingError(f"an object's class is out of range: classes are 0 to {classes - 1}")
        if (
            not ((objects[:, 1:3] >= 0) & (objects[:, 1:3] <= 1)).all()
            or not ((objects[:, 3:] > 0) & (objects[:, 3:] <= 1)).all()
        ):
            raise TrainingError("objects are given as shares of the image: centres from 0 to 1, sides above 0 up to 1")


class BinaryCrossEntropy(Loss):
    """Binary cross entropy of logits, each output for itself; targets in [0, 1] of the outputs' shape."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        # softplus(x) - x t, which is -t log s(x) - (1 - t) log (1 - s(x)) without overflow
        x, t = outputs[0], targets[0]
        return _mean(build, build.add("sub", [build.add("softplus", [x]), build.add("mul", [x, t])]))

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        if targets[0].size and not (float(targets[0].min()) >= 0.0 and float(targets[0].max()) <= 1.0):
            raise TrainingError("targets of binary cross entropy must lie in [0, 1]")


class MSE(Loss):
    """Mean of the squared differences."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        return _mean(build, build.add("square", [build.add("sub", [outputs[0], targets[0]])]))


class L1(Loss):
    """Mean of the absolute differences."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        return _mean(build, build.add("abs", [build.add("sub", [outputs[0], targets[0]])]))


class Huber(Loss):
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2). Source: Huber 1964."""

    def __init__(self, delta: float = 1.0) -> None:
        if delta <= 0:
            raise OptionError(f"delta is {delta}; it must be positive")
        self.delta = delta

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        size = build.add("abs", [build.add("sub", [outputs[0], targets[0]])])
        near = build.add("minimum", [size, _constant(build, size, self.delta)])
        far = build.add("sub", [size, near])
        half = build.add("mul", [build.add("square", [near]), _constant(build, size, 0.5)])
        return _mean(build, build.add("add", [half, build.add("mul", [far, _constant(build, size, self.delta)])]))


class SmoothL1(Huber):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2: Huber's loss over beta. Source: Girshick 2015."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        huber = super().build(build, outputs, targets)
        return build.add("mul", [huber, _constant(build, huber, 1.0 / self.delta)])


class Distillation(Loss):
    """KL divergence from a teacher's softened predictions to the model's, times temperature squared.

    Targets are the teacher's logits. With `labels` above 0 they are labels, or probabilities, and the logits, and the
    loss is labels * cross entropy + (1 - labels) * KL. Further targets are the teacher's features, those of the model
    its last outputs (`match_features`): `features` times the mean of their squared errors, each relative to the mean
    square of its target, is added. `Trainer.distill` makes such targets.
    Source: Hinton et al. 2015, section 2; features: Romero et al. 2015, "FitNets: hints for thin deep nets".
    """

    def __init__(self, temperature: float = 2.0, labels: float = 0.0, features: float = 1.0) -> None:
        if temperature <= 0:
            raise OptionError(f"temperature is {temperature}; it must be positive")
        if not 0.0 <= labels < 1.0:
            raise OptionError(f"labels is {labels}; it is the weight of the labels, 0 up to but not 1")
        if not features > 0.0:
            raise OptionError(f"features is {features}; it is the weight of features, above 0")
        self.temperature, self.labels, self.features = temperature, labels, features

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        given = targets[1:] if self.labels else targets
        total = self._divergence(build, outputs[0], given[0])
        if self.labels:
            hard = CrossEntropy().build(build, outputs, targets)
            total = self._weighted(build, (hard, self.labels), (total, 1.0 - self.labels))
        for feature, target in zip(_last(outputs, len(given) - 1), given[1:], strict=True):
            error = build.add("square", [build.add("sub", [feature, target])])
            size = _mean(build, build.add("square", [target]))
            relative = build.add("div", [_mean(build, error), size])
            total = self._weighted(build, (total, 1.0), (relative, self.features / (len(given) - 1)))
        return total

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        count = len(targets) - (2 if self.labels else 1)
        floats = [TensorType(o.shape) for o in (outputs[0], *_last(outputs[1:], count))]
        return [*CrossEntropy().target_types(outputs, targets), *floats] if self.labels else floats

    def check(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> None:
        if self.labels:
            CrossEntropy().check(outputs, targets)

    @staticmethod
    def _weighted(build: GraphExtension, *parts: tuple[str, float]) -> str:
        return build.add("add", [build.add("mul", [part, _constant(build, part, w)]) for part, w in parts])

    def _divergence(self, build: GraphExtension, output: str, teacher: str) -> str:
        soften = _constant(build, output, 1.0 / self.temperature)
        log_p = build.add("log_softmax", [build.add("mul", [teacher, soften])])
        log_q = build.add("log_softmax", [build.add("mul", [output, soften])])
        p = build.add("exp", [log_p])
        each = build.add("mul", [p, build.add("sub", [log_p, log_q])])
        rows = build.type(each).size // build.type(each).shape[-1]
        total = build.add("reduce_sum", [each], axes=tuple(range(len(build.type(each).shape))))
        return build.add("mul", [total, _constant(build, total, self.temperature**2 / rows)])


def _last(values: Sequence[Any], count: int) -> Sequence[Any]:
    return values[len(values) - max(count, 0) :]


def as_targets(
    loss: Loss, outputs: Sequence[TensorType], targets: Sequence[Array]
) -> tuple[list[TensorType], list[Array]]:
    """Types and arrays of the targets, converted and checked. Raises `ShapeError` or `TrainingError`."""
    types = loss.target_types(outputs, targets)
    if len(types) != len(targets):
        raise ShapeError(f"the loss takes {len(types)} targets, {len(targets)} given")
    arrays = []
    for t, given in zip(types, targets, strict=True):
        if given.dtype.kind not in "biuf":
            raise TrainingError(f"targets are {given.dtype}, not numbers; a label is the whole number of its class")
        if tuple(given.shape) != t.shape:
            raise ShapeError(f"targets have the shape {tuple(given.shape)}, expected {t.shape} ({t.dtype})")
        arrays.append(np.ascontiguousarray(given, dtype=t.dtype))
    loss.check(outputs, targets)
    return types, arrays
