"""How well topics are told apart, learnt and doubted: the figures of `homespun album evaluate`.

Photos come from `folders`, topics are made by `pretraining`, learnt by `TopicLearner` and doubted by `doubt`; `report`
prints and plots what is measured here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.errors import OptionError
from homespun.learning import asking, folders, report
from homespun.learning.calibration import expected_calibration_error, reliability
from homespun.learning.doubt import doubt, signals
from homespun.learning.folders import Embed, LabelledPhoto
from homespun.learning.pretraining import FOLDS, fit_builtin
from homespun.learning.space import unit_roots
from homespun.learning.storage import replace_file
from homespun.learning.topic_learner import TopicLearner

SHOWN = 2
"""Photos of each new topic that are shown before questions are asked."""
CORRECTIONS = (0, 1, 2, 5, 10, 20, 50)
FIRST = 0.05
"""Share of a library that a family might look through: how many errors are among the most doubtful?"""

Floats = npt.NDArray[np.float32]
Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Round:
    """One division of the photos: known ones to start from, and tests of known and of new topics."""

    features: Floats
    topics: Names
    groups: Names
    known: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]

    @property
    def new_topics(self) -> list[str]:
        """Topics that are only in the test."""
        return sorted(set(self.topics[self.test]) - set(self.topics[self.known]))


def run(
    known: Path,
    test: Path | None,
    shots: Sequence[int],
    seeds: int,
    out: Path,
    embed: Embed,
    split_by: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures on folders of topics, and writes `evaluation.json`, `evaluation.txt` and plots (PNG) to `out`.

    Topics only in `test` are new ones, learnt from `shots` photos each, in `seeds` random draws. Without `test`, the
    photos of `known` are split by the sources in the table `split_by`, anew for each seed (`folders.split`). Returns
    what the JSON holds. Raises OptionError for folders that don't bear an evaluation, and when matplotlib, for the
    plots, isn't installed.
    """
    report.require_matplotlib()
    if (test is None) == (split_by is None):
        raise OptionError("give either a folder to test with, or a table of sources to split by")
    if seeds < 1 or not shots or min(shots) < 1:
        raise OptionError("seeds and shots are whole numbers from 1")
    out.mkdir(parents=True, exist_ok=True)
    photos = folders.find_photos(known)
    count = len(photos)
    if split_by is not None:
        photos = folders.read_sources(photos, split_by)
    if test is not None:
        photos += folders.find_photos(test)
    version = str(getattr(getattr(embed, "__self__", None), "version", ""))
    progress = report.silence if quiet else report.progress
    features, rows, unreadable = folders.embed_photos(photos, embed, version, out / "features.safetensors", progress)
    rounds = [_round(photos, features, rows, count if test is not None else None, seed) for seed in range(seeds)]
    for each in rounds:
        _check(each)
    measured = []
    for seed, each in enumerate(rounds):
        measured.append(_measure(each, sorted(set(shots)), seed))
        progress(seed + 1, seeds)
    result: dict[str, Any] = {
        "photos": len(rows),
        "unreadable": unreadable,
        "seeds": seeds,
        "photos_each": sorted(set(shots)),
        "backbone": version,
        "known_topics": sorted(set(rounds[0].topics[rounds[0].known])),
        "new_topics": [each.new_topics for each in rounds],
        **_mean(measured),
    }
    text = report.table(result)
    replace_file(out / "evaluation.json", (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    replace_file(out / "evaluation.txt", text.encode())
    report.plot(result, out)
    if not quiet:
        sys.stdout.write(text)
    return result


def _round(
    photos: Sequence[LabelledPhoto], features: Floats, rows: Sequence[int], known: int | None, seed: int
) -> Round:
    read = [photos[row] for row in rows]
    topics = np.array([photo.topic for photo in read])
    groups = np.array([f"{photo.source} {photo.origin}" for photo in read])
    if known is not None:
        at = np.searchsorted(np.asarray(rows), known)
        return Round(features, topics, groups, np.arange(at), np.arange(at, len(rows)))
    first, second = folders.split(read, seed)
    return Round(features, topics, groups, np.array(first, np.intp), np.array(second, np.intp))


def _check(each: Round) -> None:
    names, counts = np.unique(each.topics[each.known], return_counts=True)
    if len(names) < 2 or counts.min(initial=FOLDS) < FOLDS:
        raise OptionError(f"two known topics or more are needed, each with {FOLDS} readable photos or more")
    if not np.isin(each.topics[each.test], names).any():
        raise OptionError("no topic is both known and tested; folders of the same topic need the same name")


def _measure(each: Round, shots: Sequence[int], seed: int) -> dict[str, Any]:
    """All figures of one round."""
    random = np.random.default_rng(seed)
    built = fit_builtin(each.features[each.known], each.topics[each.known].tolist(), each.groups[each.known].tolist())
    learner = built.learner()
    is_known = np.isin(each.topics[each.test], each.topics[each.known])
    tested = each.test[is_known]
    pools, queries = _draw(each, random)
    before = _judge(learner, each, tested)
    result: dict[str, Any] = {
        "known": {"learner": before.accuracy, "nearest_mean": _nearest_mean(each, each.known, tested)},
        "calibration": before.calibration(),
        "doubts": _doubts(learner, each, tested),
        "corrections": _corrections(built.learner(), each, random.permutation(tested)),
        "weakest": _weakest(built.learner(), each, tested, before),
        "questions": {"known": _questions(built.learner, each, tested, {}, queries[:0], seed)},
    }
    if not pools:
        return result
    result["questions"]["new"] = _questions(built.learner, each, tested, pools, queries, seed)
    result["shots"] = {}
    for k in shots:
        support = np.concatenate([rows[:k] for rows in pools.values()])
        for row in support:
            learner.learn(str(row), each.features[row], positive=[str(each.topics[row])])
        alone = _judge(learner, each, queries).accuracy
        _observe(learner, each, np.concatenate([tested, queries]))
        new, old = _judge(learner, each, queries), _judge(learner, each, tested)
        everything = np.concatenate([each.known, support])
        result["shots"][str(k)] = {
            "new": new.accuracy,
            "new_alone": alone,
            "known": old.accuracy,
            "known_change": old.accuracy - before.accuracy,
            "nearest_mean_new": _nearest_mean(each, everything, queries),
            "nearest_mean_known": _nearest_mean(each, everything, tested),
            "error": _judge(learner, each, np.concatenate([tested, queries])).calibration()["error"],
            "doubts": _doubts(learner, each, np.concatenate([tested, queries])),
        }
        for row in support:
            learner.forget(str(row))
        learner.observe([], [])
    whole = np.concatenate([each.known, *pools.values()])
    if np.unique(each.topics[whole], return_counts=True)[1].min() >= FOLDS:
        full = fit_builtin(each.features[whole], each.topics[whole].tolist(), calibration=built.calibration).learner()
        result["retrained"] = {
            "new": _judge(full, each, queries).accuracy,
            "known": _judge(full, each, tested).accuracy,
        }
    return result


def _draw(each: Round, random: np.random.Generator) -> tuple[dict[str, npt.NDArray[np.intp]], npt.NDArray[np.intp]]:
    """Of each new topic half of the photos to learn from, in random order, and all other halves to ask about."""
    pools: dict[str, npt.NDArray[np.intp]] = {}
    queries = [np.zeros(0, np.intp)]
    for name in each.new_topics:
        rows = random.permutation(each.test[each.topics[each.test] == name])
        pools[name] = rows[: len(rows) // 2]
        queries.append(rows[len(rows) // 2 :])
    return pools, np.concatenate(queries)


@dataclass(frozen=True)
class Judged:
    """The best topic of photos, how confident it is, and whether it is right."""

    truth: Names
    guess: Names
    confidence: Floats

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the best topic is the folder's, (N,)."""
        same: npt.NDArray[np.bool_] = self.guess == self.truth
        return same

    @property
    def accuracy(self) -> float:
        """Share of photos whose best topic is right, each topic counting the same."""
        return float(np.mean([self.right[self.truth == name].mean() for name in np.unique(self.truth)]))

    def calibration(self) -> dict[str, Any]:
        """Expected calibration error, and the bins that it is made of."""
        return {
            "error": expected_calibration_error(self.confidence, self.right),
            "bins": [list(each) for each in reliability(self.confidence, self.right)],
        }


def _judge(learner: TopicLearner, each: Round, rows: npt.NDArray[np.intp]) -> Judged:
    confidences = learner.confidences(each.features[rows])
    best = confidences.argmax(axis=1)
    return Judged(each.topics[rows], np.array(learner.topics)[best], confidences.max(axis=1))


def _observe(learner: TopicLearner, each: Round, rows: npt.NDArray[np.intp]) -> None:
    """Lets a learner see photos without their topics, as the album lets it see its library."""
    learner.observe(learner.prepare(each.features[rows]), [str(row) for row in rows])


def _nearest_mean(each: Round, train: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]) -> float:
    """Accuracy of the lower reference: the nearest class mean of square-rooted, centred features by cosine."""
    roots = unit_roots(each.features[train])
    centre = roots[np.isin(train, each.known)].mean(axis=0)
    names, label = np.unique(each.topics[train], return_inverse=True)
    near = _unit(roots - centre)
    means = _unit(np.stack([near[label == index].mean(axis=0) for index in range(len(names))]))
    guess = names[(_unit(unit_roots(each.features[rows]) - centre) @ means.T).argmax(axis=1)]
    return Judged(each.topics[rows], guess, np.zeros(len(rows), np.float32)).accuracy


def _unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return scaled


def _doubts(learner: TopicLearner, each: Round, rows: npt.NDArray[np.intp]) -> dict[str, float]:
    """How well doubts find the photos whose best topic is wrong, beside confidence alone."""
    prepared = learner.prepare(each.features[rows])
    confidences = learner.confidences(prepared)
    topic = confidences.argmax(axis=1)
    wrong = np.array(learner.topics)[topic] != each.topics[rows]
    doubts = doubt(signals(prepared.matrix, confidences, topic))
    first = np.argsort(-doubts, kind="stable")[: max(1, round(FIRST * len(rows)))]
    return {
        "auroc": auroc(doubts, wrong),
        "auroc_confidence": auroc(1 - confidences.max(axis=1), wrong),
        "first": float(wrong[first].mean()),
        "errors": float(wrong.mean()),
    }


def auroc(score: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive has a higher score than a negative, ties counting half; NaN without one of either."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    values, place = np.unique(score, return_inverse=True)
    count = np.bincount(place, minlength=len(values))
    middle = np.cumsum(count) - (count - 1) / 2
    return float((middle[place][positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _correct(learner: TopicLearner, each: Round, row: int) -> bool:
    """What a user does on seeing a photo: nothing if its best topic is right; else says what it is, and is not."""
    guess = learner.topics[int(learner.scores(each.features[row][None])[0].argmax())]
    truth = str(each.topics[row])
    if guess == truth:
        return False
    learner.learn(str(row), each.features[row], positive=[truth], negative=[guess])
    return True


def _corrections(learner: TopicLearner, each: Round, rows: npt.NDArray[np.intp]) -> dict[str, float]:
    """Accuracy on one half of photos after a user corrected wrong ones of the other half, in the order they came."""
    seen, asked = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    _observe(learner, each, rows)
    curve = {"0": _judge(learner, each, asked).accuracy}
    done = 0
    for row in seen:
        done += _correct(learner, each, int(row))
        if done in CORRECTIONS and str(done) not in curve:
            curve[str(done)] = _judge(learner, each, asked).accuracy
    return curve


def _questions(
    start: Callable[[], TopicLearner],
    each: Round,
    tested: npt.NDArray[np.intp],
    pools: Mapping[str, npt.NDArray[np.intp]],
    queries: npt.NDArray[np.intp],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Accuracy on photos that are not asked about, by the number of answers about others, and how these were chosen.

    Half of the tested photos of known topics, and those of new topics that are not queries, may be asked about; of each
    new topic `SHOWN` photos are known from the start.
    """
    mixed = np.random.default_rng(seed).permutation(tested)
    shown = [row for rows in pools.values() for row in rows[:SHOWN]]
    asked = np.concatenate([mixed[: len(mixed) // 2], *(rows[SHOWN:] for rows in pools.values())])
    held = np.concatenate([mixed[len(mixed) // 2 :], queries])

    def begin() -> TopicLearner:
        learner = start()
        for row in shown:
            learner.learn(str(row), each.features[row], positive=[str(each.topics[row])])
        _observe(learner, each, np.concatenate([asked, held]))
        return learner

    def judge(learner: TopicLearner) -> float:
        return _judge(learner, each, held).accuracy

    return asking.curves(begin, each.features[asked], each.topics[asked], list(pools), judge, seed)


def _weakest(learner: TopicLearner, each: Round, rows: npt.NDArray[np.intp], before: Judged) -> dict[str, Any]:
    """The known topic that fails most on these photos, after ten corrections of it; and what that did to the others."""
    scores = {
        str(name): float(before.right[before.truth == name].mean())
        for name in np.unique(before.truth)
        if (before.truth == name).sum() >= 20
    }
    if not scores:
        return {}
    name = min(scores, key=lambda topic: scores[topic])
    mine, others = rows[each.topics[rows] == name], rows[each.topics[rows] != name]
    spoken: list[int] = []
    _observe(learner, each, rows)
    for row in mine:
        if len(spoken) < 10 and _correct(learner, each, int(row)):
            spoken.append(int(row))
    left = np.setdiff1d(mine, spoken)
    start = before.right[np.isin(rows, left)]
    return {
        "before": float(start.mean()) if len(left) else float("nan"),
        "after": _judge(learner, each, left).accuracy if len(left) else float("nan"),
        "others_before": float(before.right[before.truth != name].mean()),
        "others_after": float(_judge(learner, each, others).right.mean()),
        "corrections": len(spoken),
    }


def _mean(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Number by number the mean over rounds of nested results; where a round has no number, over the others."""
    result: dict[str, Any] = {}
    for key in dict.fromkeys(key for each in measured for key in each):
        values = [each[key] for each in measured if key in each]
        if isinstance(values[0], dict):
            result[key] = _mean(values)
        elif isinstance(values[0], list):
            result[key] = [entry for value in values for entry in value]
        else:
            numbers = [float(value) for value in values if value == value]
            result[key] = sum(numbers) / len(numbers) if numbers else None
    return result
