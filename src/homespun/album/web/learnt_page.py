"""The page "What I have learnt": the album's figures as sentences, bars, and a line over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from homespun.album.model import Learnt, RefiningStatus, TopicKnowledge
from homespun.album.web import curve
from homespun.album.web.language import Speech
from homespun.album.web.presentation import Presenter, in_steps, topic_path

HELPS_SHOWN = 3


def learnt_context(present: Presenter, learnt: Learnt) -> dict[str, Any]:
    """What learnt.html needs of the figures."""
    t = present.t
    by_key = {known.topic.key: known for known in learnt.topics}
    unseen = [present.topic_name(known.topic) for known in learnt.topics if not known.topic.photos]
    return {
        "told": t("learnt.told", n=learnt.labels) if learnt.labels else t("learnt.told_nothing"),
        "curve": _curve(present, learnt),
        "helps": [_help(present, by_key[key]) for key in learnt.helpful[:HELPS_SHOWN]],
        "known": [_known(present, known) for known in learnt.topics if known.topic.photos],
        "unseen": t("list.comma").join(unseen),
    }


def refining_context(present: Presenter, status: RefiningStatus) -> dict[str, Any]:
    """What learnt.html needs of how refining stands: the last one with its before and after, and the switch."""
    t, last = present.t, status.last
    sentences = []
    if status.running:
        sentences.append(t("refining.running"))
    elif status.problem:
        sentences.append(t(f"refining.stopped.{status.problem.replace(' ', '_')}"))
    elif status.interrupted:
        sentences.append(t("refining.interrupted"))
    if last is None and not status.running:
        few = status.labelled < status.needed
        sentences.append(
            t("refining.needed", labelled=status.labelled, needed=status.needed) if few else t("refining.never")
        )
    shown: dict[str, Any] = {
        "automatic": status.automatic,
        "current": last is not None and last.current,
        "running": status.running,
        "state": _running(t, status),
        "share": round(status.share, 3),
        "begin": _begin(t, status),
        "sentences": sentences,
        "bars": [],
    }
    if last is None:
        return shown
    outcome = [t(f"refining.outcome.{last.outcome.replace(' ', '_')}")]
    if last.outcome != "outdated":
        outcome.append(t(f"refining.reason.{last.reason.replace(' ', '_')}"))
    sentences.append(f"{present.moment(last.ended_at)} {t.sentences(outcome)}")
    before, after = t.share(last.builtin_before), t.share(last.builtin_after)
    shown["bars"] = [
        {"text": t("refining.before", share=t.share(last.before)), "share": in_steps(last.before)},
        {"text": t("refining.after", share=t.share(last.after)), "share": in_steps(last.after)},
    ]
    builtin = t("refining.builtin", before=before, after=after)
    shown["facts"] = " · ".join((t("refining.held_out", n=last.photos), builtin))
    return shown


def _running(t: Speech, status: RefiningStatus) -> str:
    """What a run does now, as learnt.js says it, too."""
    if status.paused or not status.phase:
        return t("js.refining_paused" if status.paused else "js.refining_begin")
    return t(f"js.refining_{status.phase}", share=t.share(status.share))


def _begin(t: Speech, status: RefiningStatus) -> str:
    """The words on the button that begins a run, "" where none can begin."""
    if status.running or (status.labelled < status.needed and not status.interrupted):
        return ""
    return t("refining.go_on") if status.interrupted else t("refining.now")


def _curve(present: Presenter, learnt: Learnt) -> Mapping[str, Any]:
    t = present.t
    days = {present.day(moment) for stretch in learnt.curve for moment in (stretch.first, stretch.last)}
    shares, weights = [stretch.right / stretch.answers for stretch in learnt.curve], [s.answers for s in learnt.curve]
    again = [s.right_again / s.asked_again for s in learnt.curve if s.asked_again]
    if len(again) < len(shares):
        again = []  # a line has no gaps
    sentences = []
    if learnt.answers:
        share = t.share(learnt.right / learnt.answers)
        sentences.append(t("learnt.summary", answers=learnt.answers, right=learnt.right, share=share))
    if len(shares) > 1:
        last = t.share(shares[-1])
        sentences.append(t("learnt.summary_last", answers=learnt.curve[-1].answers, share=last))
    if learnt.asked_again:
        share = t.share(learnt.right_again / learnt.asked_again)
        asked = {"asked": learnt.asked_again, "right": learnt.right_again, "share": share}
        sentences.append(t("learnt.summary_again", **asked))
    if not shares:
        sentences.append(t("learnt.summary_few"))
    spoken = [t("learnt.curve_spoken", shares=t("list.comma").join(map(t.share, shares)))]
    if again:
        spoken.append(t("learnt.curve_spoken_again", shares=t("list.comma").join(map(t.share, again))))
    return {
        "summary": t.sentences(sentences),
        "spoken": " ".join(spoken),
        "width": curve.WIDTH,
        "height": curve.HEIGHT,
        "left": curve.LEFT,
        "end": curve.WIDTH - curve.RIGHT,
        "marks": curve.marks(),
        "dots": curve.dots(shares, weights),
        "dots_again": curve.dots(again, weights[: len(again)]),
        "first": present.day(learnt.curve[0].first) if shares else "",
        "last": present.day(learnt.curve[-1].last) if len(days) > 1 else "",
    }


def _help(present: Presenter, known: TopicKnowledge) -> dict[str, str]:
    """What a topic needs, and where to give it: questions about it where there are any, else all photos."""
    t, name, key = present.t, present.topic_name(known.topic), known.topic.key
    asked = {"href": f"/doubts?{urlencode({'topic': key})}", "action": t("learnt.answer")}
    if known.need == "answers":
        wrong = max(1, round(known.wrong))
        facts = t("learnt.need_answers_facts", photos=known.topic.photos, wrong=wrong)
        return {"text": t("learnt.need_answers", n=known.needed, topic=name), "facts": facts, **asked}
    place = asked if known.questions else {"href": "/photos", "action": t("learnt.choose")}
    facts = t("learnt.need_photos_facts", n=known.examples)
    return {"text": t("learnt.need_photos", n=known.needed, topic=name), "facts": facts, **place}


def _known(present: Presenter, known: TopicKnowledge) -> dict[str, Any]:
    t = present.t
    facts = [t("grid.count", n=known.topic.photos)]
    if known.examples:
        facts.append(t("learnt.examples", n=known.examples))
    if known.tested:
        facts.append(t("learnt.tested", right=known.right, tested=known.tested))
    return {
        "name": present.topic_name(known.topic),
        "href": topic_path(known.topic.key),
        "share": None if known.sure is None else in_steps(known.sure),
        "share_text": "" if known.sure is None else t.percent(known.sure),
        "facts": " · ".join(facts),
    }
