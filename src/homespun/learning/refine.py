"""`Refiner`: trains the last block of a backbone on a family's labels, and tells whether that helped.

The album gives it a `Task` (labelled maps and what they were labelled as) and a folder; it trains with `Trainer`, on
replayed exemplars too (`replay`), once for each fold of the labels and once on all of them, and judges what it never
trained on. All that it has done lies in the folder: killed at any moment, it goes on and ends bit for bit the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

import homespun as hs
from homespun.errors import FormatError
from homespun.graph import Graph
from homespun.learning.exemplars import Exemplars, folds
from homespun.learning.head import TopicStatistics, builtin_directions
from homespun.learning.replay import TEMPERATURE, RefinementLoss, Rows, scores, scoring_head, softmax, targets
from homespun.learning.significance import Comparison, at_least, compare
from homespun.learning.space import Floats
from homespun.learning.standstill import Standstill, Stopped
from homespun.learning.storage import replace_file
from homespun.learning.tail import Maps, Tail, Weights
from homespun.learning.task import FOLDS, Foundation, Task
from homespun.runtime import Predictor
from homespun.training.checkpoint import read_extra

logger = logging.getLogger(__name__)

BATCH = 32
EPOCHS = 6
RATE = 3e-4
HEAD_RATE = 4.0
"""Of the topics' directions, beside the network's: they are in steps of `replay.SHARPNESS`."""
BUDGET = "128MB"
"""Of a trainer; what the process has beside it (Python, networks, a batch) stays below as much again."""
CHANCE = 0.05
"""A challenger must be better by more than luck explains at this rate."""
BUILTIN_LOSS = 0.01
"""Share of the built-in topics' exemplars that may be lost net of gains, if luck explains the loss."""
SECONDS_BETWEEN_CHECKPOINTS = 10.0

Booleans = npt.NDArray[np.bool_]
Answers = tuple[Booleans, npt.NDArray[np.float64]]
OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may replace the champion, and why.

    `reason` is "better", "by chance" (better, but luck would explain it), "not better" or "forgets" (built-in topics
    got worse). `topics` has, for each topic that the family labelled, how many photos were asked and the shares that
    champion and challenger got right.
    """

    reason: str
    family: Comparison
    builtin: Comparison
    topics: dict[str, tuple[int, float, float]]

    @property
    def replaces(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.reason == "better"


@dataclass(frozen=True)
class Refined:
    """What a run made: weights of the tail trained on everything, the topics' statistics there, and the verdict."""

    weights: dict[str, Floats]
    foundation: Foundation
    verdict: Verdict


class Refiner:
    """One run of refining, in a folder of its own. A `standstill` that is given pauses and stops it.

    `champion` is the folder of the run whose network is in use now, None while that is the one that shipped.
    """

    def __init__(
        self,
        backbone: Graph,
        foundation: Foundation,
        exemplars: Exemplars,
        task: Task,
        folder: Path,
        *,
        champion: Path | None = None,
        standstill: Standstill | None = None,
        threads: int = 2,
        on_progress: OnProgress | None = None,
        epochs: int = EPOCHS,
    ) -> None:
        self._tail = Tail(backbone)
        self._foundation, self._exemplars, self._task = foundation, exemplars, task
        self._folder, self._champion = folder, champion
        self._threads, self._epochs = threads, epochs
        self._standstill = standstill or Standstill(BATCH, threads)
        self._on_progress = on_progress or (lambda share: None)
        self._exemplar_folds = folds(exemplars.topics, FOLDS)
        self._shipped = self._tail.weights
        self._network_in_hand: tuple[Weights, Predictor] | None = None
        self._exemplars_before: Floats | None = None

    # The run

    def run(self) -> Refined:
        """Train and judge, from where the folder says that the last run stopped. Raises `Stopped`.

        Raises OSError when the disk is full; what was done before is kept.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        networks = []
        for fold in [*range(FOLDS), None]:
            networks.append(self._network(fold))
        verdict = self._judge(networks[:-1])
        foundation = self._moved(networks[-1], np.ones(len(self._exemplars.topics), np.bool_))
        return Refined(dict(networks[-1]), foundation, verdict)

    def _network(self, fold: int | None) -> Weights:
        """The tail's weights trained on all but one fold, or on everything (None): made, or read if made before."""
        path = self._folder / network_file(fold)
        done = FOLDS if fold is None else fold
        if (known := read_network(path)) is not None:
            self._on_progress((done + 1) / (FOLDS + 1))
            return known
        checkpoint = self._folder / "checkpoint.hsp"
        loss, mark = RefinementLoss(), {"part": done, "epochs": self._epochs}
        rows, first, second = self._prepared(fold)
        trainer = self._resumed(checkpoint, loss, mark) or self._begun(loss, rows, first, second, seed=done)
        steps = max(1, self._epochs * (len(rows) // trainer.batch))

        def tell(step: int) -> None:
            self._on_progress((done + step / steps) / (FOLDS + 1))

        with self._standstill.pausing(trainer):
            trainer.fit(
                rows, epochs=self._epochs, callbacks=[_Keeper(checkpoint, mark, self._standstill.breathe, tell)]
            )
            parameters = trainer.parameters()
        weights = {name: parameters[name] for name in self._tail.names}
        replace_file(path, save({name: np.ascontiguousarray(value) for name, value in weights.items()}))
        checkpoint.unlink(missing_ok=True)
        return weights

    def _begun(self, loss: RefinementLoss, rows: Rows, first: Floats, second: Floats, seed: int) -> hs.Trainer:
        own = set(self._tail.graph.parameters())
        head = scoring_head(self._foundation.space, first, second)
        trainer = hs.Trainer(
            hs.splice(self._tail.graph, head, at=self._tail.graph.outputs[0]),
            loss,
            hs.optim.AdamW(RATE, groups=[hs.optim.Group(("*shown.weight", "*own.weight"), rate=HEAD_RATE)]),
            batch=min(BATCH, len(rows)),
            trainable=lambda name: name in self._tail.names or name not in own,
            memory_budget=BUDGET,
            threads=self._threads,
            seed=seed,
        )
        trainer.schedule = hs.schedules.Cosine(self._epochs * (len(rows) // trainer.batch))
        return trainer

    def _resumed(self, checkpoint: Path, loss: RefinementLoss, mark: Mapping[str, int]) -> hs.Trainer | None:
        if not checkpoint.exists():
            return None
        try:
            if read_extra(checkpoint) == mark:
                return hs.Trainer.from_checkpoint(checkpoint, loss=loss, threads=self._threads)
        except FormatError as error:
            logger.warning("a refinement begins a part anew: %s", error)
        return None

    # What is trained on

    def _family(self, fold: int | None) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self._task.folds != (-1 if fold is None else fold))

    def _replayed(self, fold: int | None) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self._exemplar_folds != (-1 if fold is None else fold))

    def _directions(self, family: npt.NDArray[np.intp], coordinates: Floats) -> tuple[Floats, Floats]:
        """Two directions (T, d) for each topic: what shipped and what the family showed, or twice the one there is."""
        topics = self._task.topics
        shipped = dict(zip(self._foundation.statistics, builtin_directions(self._foundation.statistics), strict=True))
        first = np.zeros((len(topics), self._foundation.space.rank), np.float32)
        second = first.copy()
        for column, topic in enumerate(topics):
            shown = coordinates[self._task.positive[family, column]]
            total = shown.sum(axis=0) if len(shown) else shipped.get(topic, first[column])
            second[column] = total / max(float(np.linalg.norm(total)), 1e-12)
            first[column] = shipped.get(topic, second[column])
        return first, second

    def _prepared(self, fold: int | None) -> tuple[Rows, Floats, Floats]:
        """Rows to train on, and where the topics' directions begin."""
        task, exemplars, topics = self._task, self._exemplars, self._task.topics
        family, replayed = self._family(fold), self._replayed(fold)
        own = self._coordinates(self._shipped, task.maps, family)
        old = self._before()[replayed]
        first, second = self._directions(family, own)
        teacher = scores(np.concatenate([own, old]), first, second)
        column = {topic: index for index, topic in enumerate(topics)}
        shown = np.zeros((len(replayed), len(topics)), np.bool_)
        shown[np.arange(len(replayed)), [column[exemplars.topics[row]] for row in replayed]] = True
        positive = np.concatenate([task.positive[family], shown])
        negative = np.concatenate([task.negative[family], np.zeros_like(shown)])
        said = targets(positive, negative, teacher, np.arange(len(positive)) < len(family))
        soft = softmax(teacher / np.float32(TEMPERATURE))
        parts = [(task.maps, family), (exemplars.maps, replayed)]
        return Rows(parts, said, soft, seed=FOLDS if fold is None else fold), first, second

    # What is judged

    def _predictor(self, weights: Weights) -> Predictor:
        """A network in 8 bits. Rounding its weights takes longer than a thousand maps: the last one is at hand."""
        if self._network_in_hand is None or self._network_in_hand[0] is not weights:
            self._network_in_hand = weights, self._standstill.predictor(self._tail.with_weights(weights))
        return self._network_in_hand[1]

    def _features(self, weights: Weights, maps: Maps, rows: npt.NDArray[np.intp]) -> Iterator[Floats]:
        """Features (n, D) of some maps, batch after batch, in 8 bits as the album computes them."""
        network = self._predictor(weights)
        for start in range(0, len(rows), BATCH):
            self._standstill.breathe()
            some = rows[start : start + BATCH]
            whole = np.resize(some, BATCH)  # a batch of another size would be another program
            yield np.asarray(network(maps.take(whole)))[: len(some)]

    def _coordinates(self, weights: Weights, maps: Maps, rows: npt.NDArray[np.intp]) -> Floats:
        parts = [np.zeros((0, self._foundation.space.rank), np.float32)]
        parts += [self._foundation.space.project(features) for features in self._features(weights, maps, rows)]
        return np.concatenate(parts)

    def _before(self) -> Floats:
        """Coordinates (N, d) of all exemplars with the network that ships."""
        if self._exemplars_before is None:
            rows = np.arange(len(self._exemplars.topics))
            self._exemplars_before = self._coordinates(self._shipped, self._exemplars.maps, rows)
        return self._exemplars_before

    def _moved(self, weights: Weights, chosen: Booleans) -> Foundation:
        """The built-in topics where a network puts them: old sums, moved as far as the exemplars moved on average."""
        rows = np.flatnonzero(chosen)
        moves = self._coordinates(weights, self._exemplars.maps, rows) - self._before()[rows]
        names = np.array(self._exemplars.topics)[rows]
        statistics = {}
        for name, old in self._foundation.statistics.items():
            mine = moves[names == name]
            move = mine.mean(axis=0, dtype=np.float64) if len(mine) else np.zeros(self._foundation.space.rank)
            statistics[name] = TopicStatistics(old.count, old.total + old.count * move)
        return Foundation(self._foundation.space, statistics, self._foundation.calibration)

    def _judge(self, challengers: list[Weights]) -> Verdict:
        counts = len(self._task), len(self._exemplars.topics)
        family, builtin = (np.zeros((2, count), np.bool_) for count in counts)
        family_gaps, builtin_gaps = (np.zeros((2, count)) for count in counts)
        champions: list[Weights] = [self._shipped] * len(challengers)
        if self._champion is not None:
            champions = [read_network(self._champion / network_file(fold)) or self._shipped for fold in range(FOLDS)]
        for row, networks in enumerate((champions, challengers)):
            for fold, weights in enumerate(networks):
                held, asked = self._task.folds == fold, self._exemplar_folds == fold
                answers = self._answers(weights, held, asked)
                family[row, held], family_gaps[row, held] = answers[0]
                builtin[row, asked], builtin_gaps[row, asked] = answers[1]
        ours, theirs = compare(family, family_gaps), compare(builtin, builtin_gaps)
        lost = (theirs.lost - theirs.gained) / max(theirs.photos, 1)
        if ours.gain <= 0:
            reason = "not better"
        elif ours.chance >= CHANCE:
            reason = "by chance"
        else:
            worse = at_least(theirs.lost, theirs.lost + theirs.gained) < CHANCE
            reason = "forgets" if worse or lost > BUILTIN_LOSS else "better"
        topics = {
            topic: (int(mine.sum()), float(family[0, mine].mean()), float(family[1, mine].mean()))
            for topic, mine in zip(self._task.topics, self._task.positive.T, strict=True)
            if mine.any()
        }
        return Verdict(reason, ours, theirs, topics)

    def _answers(self, weights: Weights, held: Booleans, asked: Booleans) -> tuple[Answers, Answers]:
        """Of labels and of exemplars that were held out: what the analytic learner gets right with a network and all
        other labels, and the Brier scores of its confidences."""
        learner = self._moved(weights, ~asked).learner()
        task = self._task
        rows = np.flatnonzero(~held)
        for row, feature in zip(rows, chain.from_iterable(self._features(weights, task.maps, rows)), strict=True):
            self._standstill.breathe()
            yes, no = task.said(int(row))
            learner.learn(task.keys[row], feature, positive=yes, negative=no)
        for topic in task.topics:
            if topic not in learner.topics:
                learner.add_topic(topic)
        columns = [learner.topics.index(topic) for topic in task.topics]

        def answers(maps: Maps, rows: npt.NDArray[np.intp], positive: Booleans, negative: Booleans) -> Answers:
            parts = [np.zeros((0, len(columns)), np.float32)]
            parts += [learner.confidences(features)[:, columns] for features in self._features(weights, maps, rows)]
            confidences = np.concatenate(parts).astype(np.float64)
            said: Booleans = np.asarray(positive.any(axis=1))
            best = positive[np.arange(len(rows)), confidences.argmax(axis=1)]
            right = np.where(said, best, ~(negative & (confidences > 0.5)).any(axis=1))
            spoken = negative | said[:, None]  # of a photo that is only known not to be something, the rest is open
            return right, (np.square(confidences - positive) * spoken).sum(axis=1)

        rows = np.flatnonzero(held)
        ours = answers(task.maps, rows, task.positive[rows], task.negative[rows])
        rows = np.flatnonzero(asked)
        shown = np.array(self._exemplars.topics)[rows][:, None] == np.array(task.topics)
        return ours, answers(self._exemplars.maps, rows, shown, np.zeros_like(shown))


class _Keeper(hs.callbacks.Callback):
    """Saves from time to time, tells how far training is, and stops where it is asked to."""

    def __init__(
        self, path: Path, extra: Mapping[str, int], breathe: Callable[[], None], tell: Callable[[int], None]
    ) -> None:
        self._path, self._extra, self._breathe, self._tell = path, extra, breathe, tell
        self._saved = time.monotonic()

    def on_step(self, trainer: hs.Trainer, result: hs.StepResult) -> bool | None:
        try:
            self._breathe()
        except Stopped:
            self._save(trainer)
            raise
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self._save(trainer)
        self._tell(result.step)
        return None

    def _save(self, trainer: hs.Trainer) -> None:
        trainer.save_checkpoint(self._path, **self._extra)
        self._saved = time.monotonic()


def network_file(fold: int | None) -> str:
    """Name of the file with the tail's weights that never saw one fold, or that saw everything (None)."""
    return "network-all.safetensors" if fold is None else f"network-{fold}.safetensors"


def read_network(path: Path) -> dict[str, Floats] | None:
    """Weights that a run has written; None if it has not yet."""
    if not path.exists():
        return None
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise FormatError(f"{path}: damaged: {error}") from error
