"""What a refinement learns from: a family's photos beside exemplars of the built-in topics, and what each should say.

`Refiner` trains on these rows. Targets are what people said; the teacher is the head that the family had before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from homespun.compile.autodiff import GraphExtension
from homespun.graph import Array, Graph, GraphBuilder, TensorType
from homespun.learning.space import FeatureSpace, Floats
from homespun.learning.tail import Maps
from homespun.training.losses import Loss

Places = npt.NDArray[np.intp]

TEMPERATURE = 2.0
"""Softens the teacher's scores and the pupil's (Hinton, Vinyals and Dean 2015)."""
SHARPNESS = 12.5
"""Scores are cosines times this."""
SMOOTHING = 0.1
"""Share of a target that is spread over all topics (Szegedy et al. 2016)."""
FAMILY = 2.0
"""What a photo of the family counts beside an exemplar."""


class RefinementLoss(Loss):
    """Cross entropy with what was said, plus `weight` times the divergence from the teacher's softened scores.

    Outputs are scores (N, T). Targets are what was said as probabilities (N, T), each row times what the photo counts,
    and the teacher's probabilities (N, T) at `TEMPERATURE`. Li and Hoiem, "Learning without Forgetting", 2016,
    equations 1 to 4; what does not depend on the network is left out of the divergence.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        return [outputs[0], outputs[0]]

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        scores = outputs[0]
        rows = build.type(scores).shape[0]

        def constant(value: float) -> str:
            return build.add("constant_like", [scores], "constant", value=value)

        def cross_entropy(of: str, target: str, weight: float) -> str:
            each = build.add("mul", [target, build.add("log_softmax", [of])])
            return build.add("reduce_sum", [build.add("mul", [each, constant(-weight / rows)])], axes=(0, 1))

        softened = build.add("mul", [scores, constant(1 / TEMPERATURE)])
        distilled = cross_entropy(softened, targets[1], self.weight * TEMPERATURE**2)
        return build.add("add", [cross_entropy(scores, targets[0], 1.0), distilled])


def scoring_head(space: FeatureSpace, first: Floats, second: Floats) -> Graph:
    """From features (N, D) to scores (N, T): the space of the topics, fixed, and two directions for each, trained.

    `first` and `second` are (T, d), where training begins; a topic scores by the nearer one, as in `head.Head`.
    """
    build = GraphBuilder("scores")

    def constant(name: str, value: npt.ArrayLike) -> str:
        return build.graph.add_array(name, np.asarray(value, np.float32), "constant")

    def unit(x: str, name: str) -> str:
        squares = build.op(
            "reduce_sum", build.op("square", x, name=f"{name}.squares"), name=f"{name}.sum", axes=(1,), keep_axes=True
        )
        length = build.op("sqrt", build.op("add", squares, tiny, name=f"{name}.positive"), name=f"{name}.length")
        return str(build.op("div", x, length, name=name))

    x = build.input("features", (space.dimensions,))
    tiny = constant("tiny", [1e-6])
    roots = unit(str(build.op("sqrt", build.op("add", x, tiny, name="lifted"), name="roots")), "unit_roots")
    matrix = np.asarray(space.projection, np.float32)
    place = build.op(
        "linear", roots, constant("projection", matrix), constant("offset", -(space.mean @ matrix)), name="place"
    )
    place = unit(str(place), "coordinates")
    near = [
        build.op("linear", place, build.parameter(f"{name}.weight", SHARPNESS * directions.T), name=name)
        for name, directions in (("shown", first), ("own", second))
    ]
    return build.build(str(build.op("maximum", *near, name="scores")))


def scores(coordinates: Floats, first: Floats, second: Floats) -> Floats:
    """What `scoring_head` gives before training, for coordinates (N, d)."""
    best: Floats = np.maximum(coordinates @ first.T, coordinates @ second.T) * np.float32(SHARPNESS)
    return best


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Floats = (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)
    return out


def targets(
    positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_], teacher: Floats, family: npt.NDArray[np.bool_]
) -> Floats:
    """What was said of photos as probabilities (N, T), each row times what its photo counts.

    `positive` and `negative` are (N, T); `teacher` are scores (N, T), which stand in where only is known what a photo
    is not. The more photos a topic has, the less each counts (by the square root); the `family`'s count more.
    """
    count = positive.shape[1]
    said = positive.any(axis=1)
    probabilities = softmax(np.where(negative, np.float32(-1e4), teacher))
    shares = positive / np.maximum(positive.sum(axis=1, keepdims=True), 1)
    smooth = np.where(negative, 0, SMOOTHING / count)
    probabilities[said] = ((1 - SMOOTHING) * shares + smooth)[said]
    worth = np.where(family, FAMILY, 1.0)
    crowd = (positive * worth[:, None]).sum(axis=0)
    mean = crowd[crowd > 0].mean() if (crowd > 0).any() else 1.0
    own = np.where(said, (positive * crowd).sum(axis=1) / np.maximum(positive.sum(axis=1), 1), mean)
    worth = worth / np.sqrt(own)
    result: Floats = (probabilities * (worth / worth.mean())[:, None]).astype(np.float32)
    return result


class Rows:
    """Batches of maps and targets for `Trainer.fit`: in an order of its own for each epoch, half of them mirrored."""

    def __init__(self, parts: Sequence[tuple[Maps, Places]], said: Floats, teacher: Floats, seed: int) -> None:
        """`parts` are maps and the places in them of the rows; `said` and `teacher` (N, T) belong to all, in order."""
        self._where = [(maps, int(place)) for maps, places in parts for place in places]
        self._said, self._teacher, self._seed = said, teacher, seed

    def __len__(self) -> int:
        return len(self._where)

    def batches(self, *, epoch: int, start: int, size: int) -> Iterator[tuple[Floats, list[Floats]]]:
        """(maps, [said, teacher]) of the whole batches of one epoch, from batch `start` on; a rest is left out."""
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(len(self))
        mirrored = random.random(len(self)) < 0.5
        for at in range(start * size, len(self) - size + 1, size):
            rows = order[at : at + size]
            x = np.stack([maps.take(place) for maps, place in (self._where[row] for row in rows)])
            x[mirrored[rows]] = x[mirrored[rows], :, ::-1]
            yield x, [self._said[rows], self._teacher[rows]]
