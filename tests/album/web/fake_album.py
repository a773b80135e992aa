"""An album in memory with the facade's face, for tests of pages and API that need no photos on disk.

It holds whatever records a test puts in, hostile ones too, and writes down what was asked of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from homespun.album.errors import ChangeError, PhotoError, RefiningError, SearchError, TopicError
from homespun.album.model import (
    Change,
    Doubt,
    Learnt,
    Month,
    Moved,
    Neighbours,
    Page,
    Photo,
    PhotoTopic,
    Place,
    Problem,
    Reason,
    Refinement,
    RefiningStatus,
    Status,
    Stretch,
    Topic,
    TopicKnowledge,
)

NAMES = {"food": ("Food", "美食"), "cats": ("Cats", "猫"), "space": ("Space", "太空")}


def make_photo(photo_id: int, **facts: Any) -> Photo:
    """A photo with plausible facts, of which a test may change any."""
    photo = Photo(
        id=photo_id,
        name=f"photo-{photo_id}.jpg",
        paths=[f"/pictures/holiday/photo-{photo_id}.jpg"],
        content_hash=f"{photo_id:064x}",
        taken=f"2021-06-{photo_id % 28 + 1:02d}T10:30:00",
        sort_date=f"2021-06-{photo_id % 28 + 1:02d}T10:30:00",
        width=4000,
        height=3000,
        byte_size=3_000_000,
        latitude=None,
        longitude=None,
        place=None,
        place_zh=None,
        place_key=None,
        camera="Camera One",
        format="JPEG",
        status="ok",
    )
    return replace(photo, **facts)


class FakeRefining:
    """What pages need of `Album.refining`."""

    def __init__(self) -> None:
        self.made_way = 0
        self.on = True
        self.labelled = 12
        self.doing: dict[str, Any] = {}
        """What differs in `status` from that of an album at rest."""
        self.last: Refinement | None = Refinement(
            id=1,
            began_at="2024-05-01T02:00:00+00:00",
            ended_at="2024-05-01T02:20:00+00:00",
            outcome="adopted",
            reason="better",
            photos=80,
            before=0.7,
            after=0.8,
            gained=9,
            lost=1,
            chance=0.01,
            builtin_before=0.9,
            builtin_after=0.91,
            topics=[],
            seconds=1200.0,
            cpu_seconds=2000.0,
            peak_bytes=200_000_000,
            current=True,
        )

    def status(self) -> RefiningStatus:
        current = self.last is not None and self.last.current
        resting = RefiningStatus(self.on, False, False, False, "", 0.0, self.labelled, 40, current, self.last)
        return replace(resting, **self.doing)

    def start(self) -> RefiningStatus:
        if self.labelled < 40:
            raise RefiningError("people have said something about 12 photos; refining needs 40")
        self.doing = {"running": True, "phase": "training", "share": 0.25}
        return self.status()

    def end_run(self) -> RefiningStatus:
        self.doing = {"interrupted": True}
        return self.status()

    def set_automatic(self, on: bool) -> None:
        self.on = on

    def rollback(self) -> Refinement:
        assert self.last is not None
        self.last = replace(self.last, outcome="rolled back", current=False)
        return self.last

    def make_way(self) -> None:
        self.made_way += 1


class FakeAlbum:
    """What `create_app` needs of an album. Topics are what `members` says: {topic key: photo ids}."""

    def __init__(self, folder: Path, photos: Sequence[Photo]) -> None:
        self.folder = folder
        self.records = {photo.id: photo for photo in photos}
        self.names = dict(NAMES)
        self.hidden: set[str] = set()
        self.members: dict[str, set[int]] = {key: set() for key in self.names}
        self.log: list[Change] = []
        self.queue: list[Doubt] = []
        self.unreadable: list[Problem] = []
        self.calls: list[tuple[str, Any]] = []
        self.gone: set[int] = set()
        self.refining = FakeRefining()
        self.failure: Exception | None = None
        self.before_index: Callable[[], None] = lambda: None

    # What pages read

    def topics(self, include_hidden: bool = False) -> list[Topic]:
        if self.failure:
            raise self.failure
        return [
            Topic(
                key=key,
                name_en=en,
                name_zh=zh,
                builtin=key in NAMES,
                hidden=key in self.hidden,
                photos=len(self.members[key]),
                confirmed=0,
                doubtful=0,
                cover_photo_id=min(self.members[key], default=None),
            )
            for key, (en, zh) in self.names.items()
            if include_hidden or key not in self.hidden
        ]

    def topic(self, key: str) -> Topic:
        for topic in self.topics(include_hidden=True):
            if key in (topic.key, topic.name_en):
                return topic
        raise TopicError(f"there is no topic {key!r}")

    def photos(
        self,
        topic: str | None = None,
        text: str | None = None,
        date_from: str | None = None,
        date_to: str | None = None,
        place: str | None = None,
        sort: str = "date",
        offset: int = 0,
        limit: int = 60,
    ) -> Page:
        self.calls.append(("photos", (topic, text, date_from, date_to, place, sort, offset, limit)))
        found = self._find(topic, text, date_from)
        return Page([self.photo(i) for i in found[offset : offset + limit]], len(found), offset, limit)

    def _find(self, topic: str | None, text: str | None, date_from: str | None) -> list[int]:
        if date_from is not None and not date_from[:4].isdigit():
            raise SearchError(f"{date_from!r} is no date")
        found = sorted(self.records, reverse=True)
        if topic == "unsorted":
            found = [i for i in found if not any(i in ids for ids in self.members.values())]
        elif topic:
            found = [i for i in found if i in self.members[self.topic(topic).key]]
        if text:
            found = [i for i in found if text.lower() in self.records[i].name.lower()]
        return [i for i in found if not date_from or self.records[i].sort_date >= date_from]

    def photo(self, photo_id: int) -> Photo:
        if photo_id not in self.records:
            raise PhotoError(f"there is no photo {photo_id}")
        photo = self.records[photo_id]
        if photo.topics:
            return photo
        topics = [
            PhotoTopic(key, *self.names[key], 0.9, "automatic", True)
            for key, ids in self.members.items()
            if photo_id in ids
        ]
        return replace(photo, topics=topics)

    def neighbours(self, photo_id: int, topic: str | None = None, *rest: Any, **more: Any) -> Neighbours:
        found = self._find(topic, more.get("text"), more.get("date_from"))
        if photo_id not in found:
            return Neighbours(None, None, None, len(found))
        at = found.index(photo_id)
        before = found[at - 1] if at else None
        return Neighbours(before, found[at + 1] if at + 1 < len(found) else None, at, len(found))

    def places(self) -> list[Place]:
        return [Place("cn-beijing", "Beijing", "北京", 39.9, 116.4, 2)]

    def timeline(self) -> list[Month]:
        return [Month("2021-06", 3, 1), Month("2020-01", 1, 2)]

    def doubts(self, limit: int = 20) -> list[Doubt]:
        return self.queue[:limit]

    def changes(self, limit: int = 50) -> list[Change]:
        return self.log[::-1][:limit]

    def learnt(self) -> Learnt:
        known = [
            TopicKnowledge(topic, 0.9 if topic.photos else None, 0.1 * topic.photos, 2, 4, 3, 1, "photos", 3)
            for topic in self.topics()
        ]
        days = "2024-05-01T12:00:00+00:00", "2024-05-02T12:00:00+00:00"
        curve = [Stretch(*days, 5, right, 5, again) for right, again in ((2, 4), (3, 4), (5, 5))]
        return Learnt(15, 10, 21, curve, topics=known, helpful=["cats"], asked_again=15, right_again=13)

    def roots(self) -> list[Path]:
        return [Path("/pictures")]

    def problems(self) -> list[Problem]:
        return self.unreadable

    def status(self) -> Status:
        return Status(
            data_dir="/home/family/.local/share/homespun",
            roots=["/pictures"],
            photos=len(self.records),
            vanished=0,
            files=len(self.records),
            unreadable=sum(problem.photo for problem in self.unreadable),
            other_files=sum(not problem.photo for problem in self.unreadable),
            without_features=0,
            topics=len(self.names),
            family_topics=0,
            labels=0,
            changes=len(self.log),
            backbone="fake",
            last_indexed="2024-05-01T12:00:00",
            indexing=False,
        )

    def index(self, roots: Any = None, on_progress: Any = None, stop: Any = None) -> None:
        self.calls.append(("index", roots))
        self.before_index()

    # Pictures

    def thumbnail_path(self, photo_id: int) -> Path:
        path = self.folder / f"{self.photo(photo_id).content_hash}.jpg"
        if not path.exists():
            path.write_bytes(self.render(photo_id, 480))
        return path

    def render(self, photo_id: int, long_side: int) -> bytes:
        self.calls.append(("render", (photo_id, long_side)))
        self.photo(photo_id)
        if photo_id in self.gone and long_side > 480:
            raise PhotoError(f"photo {photo_id} has no file now")
        buffer = io.BytesIO()
        Image.new("RGB", (48, 36), (photo_id * 40 % 256, 90, 120)).save(buffer, "JPEG")
        return buffer.getvalue()

    # What people say

    def correct(
        self, photo_ids: Sequence[int], positive: Sequence[str] = (), negative: Sequence[str] = (), none: bool = False
    ) -> Change:
        for photo_id in photo_ids:
            self.photo(photo_id)
        for key in positive:
            self.members[self.topic(key).key].update(photo_ids)
        for key in self.members if none else negative:
            self.members[self.topic(key).key].difference_update(photo_ids)
        others = [i for i in self.records if i not in photo_ids][:1] if positive else []
        because = Reason(photo_ids[0], positive[0], True, False) if positive else None
        moved = [Moved(i, positive[0], False, True, 0.8, because) for i in others]
        return self._log("label", photo_ids, [*positive, *negative], moved, {"none": True} if none else {})

    def answer_doubt(self, photo_id: int, topic: str, answer: str) -> Change:
        self.calls.append(("answer", (photo_id, topic, answer)))
        self.queue = [doubt for doubt in self.queue if (doubt.photo.id, doubt.topic) != (photo_id, topic)]
        return self._log("answer", [photo_id], [topic], [], {"answer": answer})

    def undo(self, change_id: int | None = None) -> Change:
        return self._mark(change_id, True)

    def redo(self, change_id: int) -> Change:
        return self._mark(change_id, False)

    def add_topic(self, name: str, photo_ids: Sequence[int], name_zh: str | None = None) -> Topic:
        if any(name in names for names in self.names.values()):
            raise TopicError(f"{name} is taken")
        key = name.lower().replace(" ", "-")
        self.names[key] = (name, name_zh or name)
        self.members[key] = set(photo_ids)
        self._log("add-topic", photo_ids, [key], [], {})
        return self.topic(key)

    def rename_topic(self, key: str, name: str | None = None, name_zh: str | None = None) -> Change:
        en, zh = self.names[key]
        self.names[key] = (name or en, name_zh or zh)
        return self._log("rename-topic", [], [key], [], {})

    def hide_topic(self, key: str, hidden: bool = True) -> Change:
        (self.hidden.add if hidden else self.hidden.discard)(key)
        return self._log("hide-topic", [], [key], [], {"hidden": hidden})

    def remove_topic(self, key: str) -> Change:
        if key in NAMES:
            raise TopicError(f"{key} is built in")
        del self.names[key], self.members[key]
        return self._log("remove-topic", [], [key], [], {})

    def _log(
        self, kind: str, photos: Sequence[int], topics: Sequence[str], moved: list[Moved], details: dict[str, Any]
    ) -> Change:
        change = Change(
            id=len(self.log) + 1,
            kind=kind,
            photos=list(photos),
            topics=list(topics),
            made_at="2024-05-01T12:00:00",
            undone=False,
            moved=moved,
            moved_total=len(moved),
            seconds=0.01,
            details=details,
        )
        self.log.append(change)
        return change

    def _mark(self, change_id: int | None, undone: bool) -> Change:
        index = (change_id or len(self.log)) - 1
        if not 0 <= index < len(self.log) or self.log[index].undone is undone:
            raise ChangeError(f"change {change_id} cannot be undone")
        self.log[index] = replace(self.log[index], undone=undone)
        return self.log[index]
