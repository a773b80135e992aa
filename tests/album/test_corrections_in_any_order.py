"""Whatever a family says and takes back, in any order and across restarts, holds exactly as a simple model has it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from homespun.album.errors import ChangeError, TopicError
from tests.album.small_library import BUILTIN, COLOURS, Picture, add, feature, in_topic, new_learner, open_album

PICTURES = [Picture(colour, shade, f"{colour}/{shade}.jpg") for colour in COLOURS for shade in range(2)]
photos = st.integers(0, len(PICTURES) - 1)
selections = st.lists(photos, min_size=1, max_size=4, unique=True)


@dataclass
class Said:
    """One entry of the model's log."""

    kind: str
    topic: str | None = None
    labels: dict[tuple[int, str], bool] = field(default_factory=dict)
    name: str | None = None
    hidden: bool = False
    undone: bool = False


class Family(RuleBasedStateMachine):
    """Says things to an album and keeps a list of them; what holds is read off the list anew each time."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.log: dict[int, Said] = {}
        self.made_topics = 0
        self.album = open_album(self.folder)
        self.ids = add(self.album, *PICTURES)
        self.vanished: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "album"):
            self.album.close()
            shutil.rmtree(self.folder)

    # The model

    def holding(self) -> list[Said]:
        return [said for _, said in sorted(self.log.items()) if not said.undone]

    def topics(self) -> dict[str, str]:
        """Keys and names of the topics that there are."""
        there = {key: names[0] for key, names in BUILTIN.items()}
        originals = {said.topic: said.name for said in self.log.values() if said.kind == "add-topic"}
        for said in self.holding():
            if said.kind == "add-topic":
                there[said.topic] = originals[said.topic]
            elif said.kind == "remove-topic":
                there.pop(said.topic, None)
        for said in self.holding():
            if said.kind == "rename-topic" and said.topic in there:
                there[said.topic] = said.name
        return there

    def labels(self) -> dict[tuple[int, str], bool]:
        there = self.topics()
        labels: dict[tuple[int, str], bool] = {}
        for said in self.holding():
            labels |= said.labels
        return {pair: value for pair, value in labels.items() if pair[1] in there}

    # What a family does

    @rule(chosen=selections, data=st.data())
    def correct(self, chosen: list[int], data: st.DataObject) -> None:
        says = data.draw(st.dictionaries(st.sampled_from(sorted(self.topics())), st.booleans(), min_size=1, max_size=2))
        ids = [self.ids[index] for index in chosen]
        change = self.album.correct(
            ids,
            [topic for topic, is_in in says.items() if is_in],
            [topic for topic, is_in in says.items() if not is_in],
        )
        self.log[change.id] = Said("label", labels={(i, topic): is_in for i in ids for topic, is_in in says.items()})

    @rule(chosen=selections)
    def none_of_these(self, chosen: list[int]) -> None:
        ids = [self.ids[index] for index in chosen]
        change = self.album.correct(ids, none=True)
        self.log[change.id] = Said("label", labels={(i, topic): False for i in ids for topic in self.topics()})

    @precondition(lambda self: self.made_topics < 3)
    @rule(chosen=selections)
    def add_topic(self, chosen: list[int]) -> None:
        self.made_topics += 1
        name = f"Ours {self.made_topics}"
        topic = self.album.add_topic(name, [self.ids[index] for index in chosen])
        labels = {(self.ids[index], topic.key): True for index in chosen}
        self.log[self.album.changes(1)[0].id] = Said("add-topic", topic.key, labels, name)

    @rule(data=st.data(), hidden=st.booleans())
    def hide(self, data: st.DataObject, hidden: bool) -> None:
        topic = data.draw(st.sampled_from(sorted(self.topics())))
        self.log[self.album.hide_topic(topic, hidden).id] = Said("hide-topic", topic, hidden=hidden)

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from(sorted(self.topics())))
        name = f"Name {len(self.log)}"
        self.log[self.album.rename_topic(topic, name).id] = Said("rename-topic", topic, name=name)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        topic = data.draw(st.sampled_from(sorted(self.topics())))
        if topic in BUILTIN:
            with pytest.raises(TopicError, match="hidden"):
                self.album.remove_topic(topic)
        else:
            self.log[self.album.remove_topic(topic).id] = Said("remove-topic", topic)

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        change = data.draw(st.sampled_from(sorted(self.log)))
        if self.log[change].undone:
            with pytest.raises(ChangeError, match="undone already"):
                self.album.undo(change)
            self.album.redo(change)
        else:
            self.album.undo(change)
        self.log[change].undone = not self.log[change].undone

    @precondition(lambda self: any(not said.undone for said in self.log.values()))
    @rule()
    def undo_last(self) -> None:
        change = self.album.undo()
        assert change.id == max(number for number, said in self.log.items() if not said.undone)
        self.log[change.id].undone = True

    # What happens to it

    @rule(index=photos)
    def file_goes_or_returns(self, index: int) -> None:
        picture, photo_id = PICTURES[index], self.ids[index]
        if photo_id in self.vanished:
            self.album._store.mark_returned([picture.path])
        else:
            self.album._store.mark_vanished([picture.path])
        self.vanished ^= {photo_id}
        self.album.sort_new()

    @rule(saved=st.booleans())
    def restart(self, saved: bool) -> None:
        if saved:
            self.album.close()
        else:
            self.album._store.close()  # as a kill would: nothing of what was learnt is written
        self.album = open_album(self.folder)

    # What must hold

    @invariant()
    def topics_are_as_said(self) -> None:
        if not hasattr(self, "album"):
            return
        hidden = dict.fromkeys(self.topics(), False)
        for said in self.holding():
            if said.kind == "hide-topic" and said.topic in hidden:
                hidden[said.topic] = said.hidden
        shown = {topic.key: (topic.name_en, topic.hidden) for topic in self.album.topics(include_hidden=True)}
        assert shown == {key: (name, hidden[key]) for key, name in self.topics().items()}

    @invariant()
    def photos_are_as_said_and_learnt(self) -> None:
        if not hasattr(self, "album"):
            return
        labels, there = self.labels(), list(self.topics())
        learner = self.fresh_learner(labels, there)
        features = np.stack([feature(picture.colour, picture.shade) for picture in PICTURES])
        order = list(learner.topics)
        confidences, present = learner.confidences(features), learner.present(features)
        members: dict[str, set[int]] = {topic: set() for topic in there}
        for row, photo_id in enumerate(self.ids):
            shown = {topic.key: topic for topic in self.album.photo(photo_id).topics}
            assert set(shown) == set(there)
            for topic in there:
                column = order.index(topic)
                is_in = labels.get((photo_id, topic), bool(present[row, column]))
                if is_in and photo_id not in self.vanished:
                    members[topic].add(photo_id)
                assert shown[topic].source == ("human" if (photo_id, topic) in labels else "automatic")
                assert shown[topic].present == (is_in and photo_id not in self.vanished)
                if (photo_id, topic) not in labels:
                    assert shown[topic].confidence == pytest.approx(confidences[row, column], abs=1e-5)
        assert {topic: in_topic(self.album, topic) for topic in there} == members

    def fresh_learner(self, labels: dict[tuple[int, str], bool], there: list[str]) -> Any:
        """A learner that saw the library and was told what holds now, once, and nothing else."""
        learner = new_learner()
        library = np.stack([feature(picture.colour, picture.shade) for picture in PICTURES])
        learner.observe(learner.prepare(library), [str(photo_id) for photo_id in self.ids])
        for topic in there:
            if topic not in learner.topics:
                learner.add_topic(topic)
        for row, photo_id in enumerate(self.ids):
            said = {topic: value for (photo, topic), value in labels.items() if photo == photo_id}
            if said:
                learner.learn(
                    str(photo_id),
                    feature(PICTURES[row].colour, PICTURES[row].shade),
                    positive=[topic for topic, value in said.items() if value],
                    negative=[topic for topic, value in said.items() if not value],
                )
        return learner


Family.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestFamily = Family.TestCase
