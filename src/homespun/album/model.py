"""What the album tells its callers: plain records that the facade, the command line and the web share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Source = Literal["human", "automatic"]
PhotoStatus = Literal["ok", "vanished"]
Answer = Literal["yes", "no", "skip"]
Need = Literal["photos", "answers", "nothing"]
Order = Literal["date", "date-ascending", "confidence", "doubt"]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and how it stands in the library.

    `photos` counts the photos shown in it, `confirmed` those that a person put there, `doubtful` the automatic
    ones that the album is not sure of.
    """

    key: str
    name_en: str
    name_zh: str
    builtin: bool
    hidden: bool
    photos: int
    confirmed: int
    doubtful: int
    cover_photo_id: int | None


@dataclass(frozen=True, slots=True)
class PhotoTopic:
    """How a photo stands to a topic. `confidence` is a calibrated probability, None where a person has said."""

    key: str
    name_en: str
    name_zh: str
    confidence: float | None
    source: Source
    present: bool


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo (one content), where its files are and what is known of it.

    `taken` is local time, ISO 8601 without a zone; `sort_date` is that, or else the file's time. `paths` is for
    people to read (names that are not UTF-8 show replacement characters). `topics` holds every topic that it is
    in and those that a person said it is not in; on a photo's own page also the likeliest others.
    """

    id: int
    name: str
    paths: list[str]
    content_hash: str
    taken: str | None
    sort_date: str
    width: int
    height: int
    byte_size: int
    latitude: float | None
    longitude: float | None
    place: str | None
    place_zh: str | None
    place_key: str | None
    camera: str | None
    format: str
    status: PhotoStatus
    topics: list[PhotoTopic] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: its photos, and how many photos the whole search has."""

    photos: list[Photo]
    total: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The photos before and after one in the order of a search; `position` counts from 0, None if not in it."""

    previous: int | None
    next: int | None
    position: int | None
    total: int


@dataclass(frozen=True, slots=True)
class Reason:
    """The example that speaks most for a move: the nearest photo of which a person said that it is in `topic`, or
    (`said` false) that it is not. With `taken_back` a person no longer says so.
    """

    photo_id: int
    topic: str
    said: bool
    taken_back: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """A photo that entered or left a topic because of a change, and why; `confidence` is the new one."""

    photo_id: int
    topic: str
    before: bool
    after: bool
    confidence: float
    because: Reason | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a person changed, and what else moved because of it.

    `moved` holds the most certain moves (fewer once it is read from the log), `moved_total` counts all; both leave out
    what was said itself. Of a change that was undone they tell what the undoing moved.
    `kind` is one of "label", "answer", "add-topic", "rename-topic", "hide-topic", "remove-topic", "edited".
    """

    id: int
    kind: str
    photos: list[int]
    topics: list[str]
    made_at: str
    undone: bool
    moved: list[Moved] = field(default_factory=list)
    moved_total: int = 0
    seconds: float = 0.0
    details: dict[str, str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A question to the family: is this photo in this topic?

    `present` is what the album believes now, `reason` a short code of why it asks.
    """

    photo: Photo
    topic: str
    confidence: float
    present: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of photos that a person spoke of, between two moments, and of how many the album had believed the same.

    Of those, `asked_again` can be asked once more, each as if nobody had spoken of it; of so many it is `right_again`.
    """

    first: str
    last: str
    answers: int
    right: int
    asked_again: int = 0
    right_again: int = 0


@dataclass(frozen=True, slots=True)
class TopicKnowledge:
    """How well a topic is known.

    Of the photos that the album put there itself, `sure` is the share that is probably right by calibrated confidence
    (None where there are none, or for a family's topic of so few examples that confidence is too high), and `wrong` the
    number that is probably not. `examples` are photos that people put there; `tested` those that they spoke of after
    the album had a belief of its own, which was `right` so often. `questions` wait about it. What would help most is
    `needed` more of `need`: photos that show the topic, or answers to questions.
    """

    topic: Topic
    sure: float | None
    wrong: float
    examples: int
    tested: int
    right: int
    questions: int
    need: Need
    needed: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the album has learnt from its family.

    Each photo that a person spoke of tests what the album believed just before: of `answers` it was `right`, and
    `curve` tells that over time, oldest first. Asked once more today, each as if nobody had spoken of it or of others
    of its day, `right_again` of `asked_again` are right. `labels` is all that people said that holds. `topics` are the
    shown ones, best known first, and `helpful` the keys of those that help would do most for, most first.
    """

    answers: int
    right: int
    labels: int
    curve: list[Stretch]
    topics: list[TopicKnowledge]
    helpful: list[str]
    asked_again: int = 0
    right_again: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A place with photos; `key` is what a search takes (its names do too)."""

    key: str
    name: str
    name_zh: str
    latitude: float
    longitude: float
    photos: int


@dataclass(frozen=True, slots=True)
class Month:
    """A month ("2024-05") with its number of photos."""

    month: str
    photos: int
    cover_photo_id: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not shown: a code for programs, a detail for the curious.

    `photo` is False for a video, a document or another file that is no photo and doesn't say that it is.
    """

    path: str
    reason: str
    detail: str
    photo: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """The library in numbers. `other_files` are videos, documents and the like; `unreadable` should be photos."""

    data_dir: str
    roots: list[str]
    photos: int
    vanished: int
    files: int
    unreadable: int
    other_files: int
    without_features: int
    topics: int
    family_topics: int
    labels: int
    changes: int
    backbone: str | None
    last_indexed: str | None
    indexing: bool


@dataclass(frozen=True, slots=True)
class TopicGain:
    """How many held-out photos of a topic there were, and the shares that came out right before and after."""

    key: str
    photos: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Refinement:
    """A run of refining that ended.

    `outcome`: "adopted"; "kept" (what was there before stayed); "outdated" (too many labels had changed meanwhile);
    "rolled back". `reason`: "better"; "by chance" (better, but luck would explain it); "not better"; "forgets" (it cost
    built-in topics). `before` and `after` are shares right of `photos` that it had not trained on, which people had
    labelled; `gained` and `lost` photos changed, which `chance` is the probability of by luck alone. `builtin_before`
    and `builtin_after` are the same of exemplars of the built-in topics. `current` says that its network is in use.
    """

    id: int
    began_at: str
    ended_at: str
    outcome: str
    reason: str
    photos: int
    before: float
    after: float
    gained: int
    lost: int
    chance: float
    builtin_before: float
    builtin_after: float
    topics: list[TopicGain]
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    current: bool


@dataclass(frozen=True, slots=True)
class RefiningStatus:
    """How refining stands. `phase` of a run: "looking" (at labelled photos), "training", "features" (of all photos),
    "" while there is none; `share` of the phase that is done. `labelled` photos were spoken of, `needed` are enough.
    `interrupted`: a run was cut off, and the next goes on with it. `problem`: why the last one ended early since the
    album was opened, "disk full" or "failed" (the log says more), "" if nothing went wrong."""

    automatic: bool
    running: bool
    paused: bool
    interrupted: bool
    phase: str
    share: float
    labelled: int
    needed: int
    refined: bool
    last: Refinement | None
    problem: str = ""
