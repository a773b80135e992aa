"""Knowledge distillation: a trainer learns from a teacher's logits beside, or instead of, the labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.compression.statistics import mixing_layers
from homespun.data.preprocessing import MEAN_KEY, SCALE_KEY, Preprocessing
from homespun.errors import ModelError, OptionError, ShapeError
from homespun.graph import Array, Graph, infer
from homespun.graph.graph import AUXILIARY_KEY, MATCHED_KEY
from homespun.training.fit import FitResult, batches, fit
from homespun.training.losses import Distillation

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


def distill(trainer: Trainer, teacher: Graph, data: Any, epochs: int = 1, **options: Any) -> FitResult:
    """Fit a trainer, whose loss is `losses.Distillation`, to what a teacher says about the data.

    The teacher sees each batch as the student does, augmented, but normalised as its own metadata say. It must take
    pictures of the student's size and have its classes. It pauses with the trainer, and a run from a checkpoint goes on
    exactly as with `Trainer.fit`, whose options these are. A student of `match_features` learns those of the teacher
    too. Raises `OptionError` for another loss, `ShapeError` for a
    teacher of other shapes.
    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2; the same view for both: Beyer
    et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", section 3.
    """
    loss = trainer.loss
    if not isinstance(loss, Distillation):
        raise OptionError(f"the trainer's loss is {type(loss).__name__}; to learn from a teacher it is Distillation()")
    taught = Taught(trainer, teacher, data, labels=loss.labels > 0)
    if options.get("validation") is not None:
        options["validation"] = Taught(trainer, teacher, options["validation"], labels=loss.labels > 0)
    return fit(trainer, taught, epochs, **options)


class Taught:
    """A data set's batches with the teacher's logits as targets, behind the labels where the loss takes those too."""

    def __init__(self, trainer: Trainer, teacher: Graph, data: Any, *, labels: bool) -> None:
        student = trainer.model()
        shapes = [[infer(g)[n].shape[1:] for n in (*g.inputs, g.outputs[0])] for g in (student, teacher)]
        matched = [n for n in student.metadata.get(MATCHED_KEY, "").split(",") if n]
        if shapes[0] != shapes[1]:
            ours, theirs = (" -> ".join(str(list(s)) for s in each) for each in shapes)
            raise ShapeError(f"the student is {ours}, its teacher {theirs}; build it with the same image_size, classes")
        self.data, self.labels = data, labels
        self._predict = trainer.predictor(_with_outputs(teacher, [teacher.outputs[0], *matched]))
        self._normalised = _between(student, teacher)

    def batches(self, *, epoch: int = 0, start: int = 0, size: int) -> Iterator[tuple[Any, Any]]:
        """Batches of an epoch from batch `start` on, as the data set's own."""
        return self._taught(batches(self.data, epoch, start, size))

    def evaluation_batches(self, *, size: int) -> Iterator[tuple[Any, Any]]:
        """All samples, as they are."""
        plain = getattr(self.data, "evaluation_batches", None)
        return self._taught(batches(self.data, 0, 0, size) if plain is None else plain(size=size))

    def _taught(self, source: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for x, y in source:
            inputs = x if isinstance(x, (list, tuple)) else [x]
            made = self._predict(*(self._normalised(a) for a in inputs))
            taught = made if isinstance(made, tuple) else (made,)
            yield x, (y, *taught) if self.labels else taught


def match_features(student: Graph, teacher: Graph) -> Graph:
    """A copy of the student with more outputs, which only training needs: features that it has in common with the
    teacher, for `losses.Distillation`. Exported models go without them.

    Of the tensors that layers of all channels read, and that both have by the same name and in the same shape, it is
    the last of each height and width: for a network and its pruned self the ends of its stages. Raises `ModelError` if
    there are none.
    """
    types, others = infer(student, 1), infer(teacher, 1)
    read = dict.fromkeys(node.inputs[0] for node in mixing_layers(student))
    made = {o for node in teacher.nodes for o in node.outputs} - set(student.outputs)
    common = [n for n in read if n in made and n in types and types[n].shape == others[n].shape]
    names = list({types[n].shape[1:-1]: n for n in common}.values())
    if not names:
        raise ModelError(f"{student.name} and {teacher.name} have no tensor of the same name and shape in common")
    result = _with_outputs(student, [*student.outputs, *names])
    earlier = student.metadata.get(AUXILIARY_KEY, "")
    result.metadata[AUXILIARY_KEY] = ",".join([*filter(None, earlier.split(",")), *names])
    result.metadata[MATCHED_KEY] = ",".join(names)
    return result


def _with_outputs(model: Graph, outputs: list[str]) -> Graph:
    result = model.copy()
    result.outputs = outputs
    return result


def _between(student: Graph, teacher: Graph) -> Any:
    """From inputs as the student takes them to the teacher's, where both say how pixels are normalised."""
    if not all(key in g.metadata for g in (student, teacher) for key in (MEAN_KEY, SCALE_KEY)):
        return lambda x: x
    ours, theirs = Preprocessing.of(student), Preprocessing.of(teacher)
    if (ours.mean, ours.scale) == (theirs.mean, theirs.scale):
        return lambda x: x

    def again(x: Array) -> Array:
        pixels = np.asarray(x, np.float32) * np.asarray(ours.scale, np.float32) + np.asarray(ours.mean, np.float32)
        return theirs.apply(pixels)

    return again
