"""From the album's records to what a page shows: links, names and sentences in the visitor's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from homespun.album.model import Change, Doubt, Moved, Photo, PhotoTopic, Problem, Topic
from homespun.album.web.language import Speech
from homespun.album.web.query import PhotoQuery

SHARE_STEP = 5
"""Bars of confidence come in steps of this many percent: one CSS class each, as inline styles are not allowed."""


def thumbnail_url(photo: Photo) -> str:
    return f"/api/v1/photos/{photo.id}/thumbnail?v={photo.content_hash[:12]}"


def preview_url(photo: Photo) -> str:
    return f"/api/v1/photos/{photo.id}/preview?v={photo.content_hash[:12]}"


def topic_path(key: str) -> str:
    return f"/topics/{quote(key, safe='')}"


def printable(text: str) -> str:
    """`text` as UTF-8 can carry it: file names and EXIF may hold lone surrogates, which no response can encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Presenter:
    """Shows records in one language."""

    t: Speech

    def topic_name(self, topic: Topic | PhotoTopic) -> str:
        return self.t.pick(topic.name_en, topic.name_zh)

    def place(self, photo: Photo) -> str:
        return self.t.pick(photo.place or "", photo.place_zh)

    def photo(self, photo: Photo, query: PhotoQuery) -> dict[str, Any]:
        """A photo as tiles, the viewer, doubts and history show it."""
        date, place = self.t.date(photo.taken), self.place(photo)
        # What is there helps most in a spoken label; a file name helps least.
        named = [self.topic_name(topic) for topic in photo.topics if topic.present][:3]
        label = " · ".join([*named, date, *([place] if place else [])])
        return {
            "id": photo.id,
            "href": query.href(f"/photos/{photo.id}"),
            "thumbnail": thumbnail_url(photo),
            "preview": preview_url(photo),
            "title": printable(photo.name),
            "label": printable(label),
            "date": date,
            "time": self.t.time(photo.taken),
            "place": printable(place),
            "vanished": self.t("photo.vanished") if photo.status == "vanished" else "",
        }

    def verdict(self, topic: PhotoTopic) -> dict[str, Any]:
        """A topic that a photo is in: its name, how sure the album is, and who said so."""
        human = topic.source == "human"
        share = None if human or topic.confidence is None else topic.confidence
        return {
            "key": topic.key,
            "name": self.topic_name(topic),
            "source": topic.source,
            "sure": self.t("photo.you_said") if share is None else self.t("photo.sure", share=self.t.percent(share)),
            "share": None if share is None else in_steps(share),
        }

    def details(self, photo: Photo, roots: Sequence[Path]) -> list[tuple[str, str]]:
        """What is known of the file, as (name, value) pairs."""
        t = self.t
        path = PurePath(photo.paths[0]) if photo.paths else PurePath(photo.name)
        root = next((root for root in roots if path.is_relative_to(root)), None)
        # A family knows its folders by their names; the status page has the whole path.
        folder = path.parent.relative_to(root.parent) if root else path.parent
        pairs = [
            (t("details.date"), " ".join(filter(None, (t.date(photo.taken), t.time(photo.taken))))),
            (t("details.place"), self.place(photo)),
            (t("details.camera"), photo.camera or ""),
            (t("details.size"), f"{photo.width} × {photo.height} · {photo.format}"),
            (t("details.file"), photo.name),
            (t("details.folder"), str(folder) if len(path.parts) > 1 else ""),
        ]
        if len(photo.paths) > 1:
            pairs.append((t("details.copies"), t("details.copies_text", n=len(photo.paths))))
        return [(name, printable(value)) for name, value in pairs if value]

    def doubt(self, doubt: Doubt, topic: Topic) -> dict[str, Any]:
        name = self.topic_name(topic)
        return {
            "photo": self.photo(doubt.photo, PhotoQuery()),
            "topic": topic,
            "question": self.t("doubts.question", topic=name),
            "sure": self.t(
                "doubts.thinks_yes" if doubt.present else "doubts.thinks_no",
                share=self.t.percent(doubt.confidence if doubt.present else 1 - doubt.confidence),
            ),
            "reason": self.t(f"doubts.reason.{doubt.reason}"),
        }

    def change(self, change: Change, names: Mapping[str, str], pictures: Sequence[Photo]) -> dict[str, Any]:
        """A line of the history."""
        t = self.t
        topics = t("list.comma").join(printable(names.get(key, key)) for key in change.topics)
        facts = [self.moment(change.made_at)]
        if change.photos:
            facts.append(t("history.photos", n=len(change.photos)))
        if change.moved_total:
            facts.append(t("history.moved", n=change.moved_total))
        return {
            "id": change.id,
            "text": t(f"history.kind.{_kind(change)}", topics=topics),
            "facts": " · ".join(facts),
            "undone": change.undone,
            "pictures": [self.photo(photo, PhotoQuery()) for photo in pictures],
        }

    def move(self, move: Moved, names: Mapping[str, str]) -> dict[str, Any]:
        """A photo that moved, as core.js shows it too: where to, and the example that speaks for it."""
        t = self.t
        text = t("js.came" if move.after else "js.went", topic=printable(names.get(move.topic, move.topic)))
        why, example = "", None
        if move.because is not None:
            itself = move.because.photo_id == move.photo_id
            said = "back" if move.because.taken_back else "yes" if move.because.said else "no"
            topic = printable(names.get(move.because.topic, move.because.topic))
            why = t(f"js.why_{'itself' if itself else said}", topic=topic)
            example = None if itself else f"/api/v1/photos/{move.because.photo_id}/thumbnail"
        return {
            "href": f"/photos/{move.photo_id}",
            "thumbnail": f"/api/v1/photos/{move.photo_id}/thumbnail",
            "kind": "came" if move.after else "went",
            "text": text,
            "label": t("list.comma").join(filter(None, (text, why))),
            "example": example,
        }

    def moment(self, when: str) -> str:
        """A moment that the album noted (ISO 8601, with a zone), in this machine's local time."""
        with suppress(ValueError):  # what is no date is shown as it is
            noted = datetime.fromisoformat(when)
            when = (noted.astimezone() if noted.tzinfo else noted).isoformat()
        return " ".join(filter(None, (self.t.date(when), self.t.time(when))))

    def day(self, when: str) -> str:
        """The day of a moment that the album noted, in this machine's local time."""
        with suppress(ValueError):
            when = datetime.fromisoformat(when).astimezone().isoformat()
        return self.t.date(when)

    def problem(self, problem: Problem, reason: str) -> dict[str, str]:
        path = PurePath(printable(problem.path))
        return {"name": path.name or str(path), "folder": str(path.parent), "reason": reason}


def in_steps(share: float) -> int:
    """The nearest step of a bar that shows a share of 0 to 1: at least the first."""
    return SHARE_STEP * max(1, min(20, round(100 * share / SHARE_STEP)))


def _kind(change: Change) -> str:
    """What a change was, finer than its `kind` where people would use another word."""
    if change.kind == "label" and change.details.get("none"):
        return "none"
    if change.kind == "hide-topic" and not change.details.get("hidden"):
        return "show-topic"
    if change.kind == "answer" and change.details.get("answer") == "skip":
        return "skip"
    return change.kind
