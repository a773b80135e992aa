"""Questions: worth asking, answered with one key, never asked twice, and taken back with undo."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from homespun.album.errors import PhotoError, TopicError
from homespun.album.model import Answer
from homespun.learning import questions
from tests.album.small_library import BUILTIN, COLOURS, Embedder, Picture, add, add_colours, new_learner, open_album


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path) as album:
        album.colours = add_colours(album)
        yield album


def asked(album, limit: int = 500) -> list[tuple[int, str]]:
    return [(doubt.photo.id, doubt.topic) for doubt in album.doubts(limit)]


def test_a_question_says_what_the_album_believes(album):
    for doubt in album.doubts(5):
        shown = {topic.key: topic for topic in album.photo(doubt.photo.id).topics}[doubt.topic]
        assert (doubt.present, doubt.confidence) == (shown.present, shown.confidence)
        assert doubt.reason
    assert len(album.doubts(5)) == 5


def test_no_question_is_asked_twice(album):
    rng = np.random.default_rng(3)
    seen: set[tuple[int, str]] = set()
    for number in range(60):
        doubts = album.doubts(3)
        if not doubts:
            break
        pair = (doubts[0].photo.id, doubts[0].topic)
        assert pair not in seen
        seen.add(pair)
        answer = ("yes", "no", "skip")[rng.integers(3)]
        change = album.answer_doubt(*pair, answer)
        assert (change.kind, change.photos) == ("answer", [] if answer == "skip" else [pair[0]])
        if number % 7 == 0:
            album.close()
            album.__init__(album.data_dir, embedder=Embedder(), learner=new_learner, builtin=BUILTIN)
            album.sort_new()
            assert not seen & set(asked(album))
    # Photos of one colour are copies of each other, asked about once for each topic at most; and all colours are asked.
    colour = {photo: name for name, ids in album.colours.items() for photo in ids}
    kinds = [(colour[photo], topic) for photo, topic in seen]
    assert len(kinds) == len(set(kinds))
    assert {name for name, _ in kinds} == set(COLOURS)


def test_answers_are_labels(album):
    (photo, topic), (other, other_topic), (skipped, skipped_topic) = asked(album, 3)
    album.answer_doubt(photo, topic, "yes")
    album.answer_doubt(other, other_topic, "no")
    album.answer_doubt(skipped, skipped_topic, "skip")

    def said(photo_id: int, key: str) -> tuple[str, bool]:
        shown = {topic.key: topic for topic in album.photo(photo_id).topics}[key]
        return shown.source, shown.present

    assert said(photo, topic) == ("human", True)
    assert said(other, other_topic) == ("human", False)
    assert said(skipped, skipped_topic)[0] == "automatic"


def test_an_undone_answer_is_a_question_again(album):
    pair = asked(album, 1)[0]
    change = album.answer_doubt(*pair, "skip")
    assert pair not in asked(album)
    album.undo(change.id)
    # It may be asked again: a wrong key was pressed.
    album.correct([photo for photo, _ in asked(album) if photo != pair[0]], none=True)
    assert pair[0] in {photo for photo, _ in asked(album)}


def test_nothing_is_asked_of_what_was_said_or_is_not_shown(album):
    everything = [photo for ids in album.colours.values() for photo in ids]
    album.hide_topic("green")
    assert {topic for _, topic in asked(album)} == {"red"}
    album.correct(everything[:10], negative=["red"])
    album._store.mark_vanished([b"/photos/brown/0.jpg"])
    album.sort_new()
    left = {photo for photo, _ in asked(album)}
    assert not left & set(everything[:10])
    assert album.colours["brown"][0] not in left
    album.correct(everything, none=True)
    assert asked(album) == []


def test_answers_that_cannot_be(album):
    with pytest.raises(TopicError, match="yes, no or skip, not 'maybe'"):
        album.answer_doubt(1, "red", "maybe")
    with pytest.raises(TopicError, match="there is no topic"):
        album.answer_doubt(1, "reed", "yes")
    with pytest.raises(PhotoError, match="there is no photo 99"):
        album.answer_doubt(99, "red", "yes")


def test_the_order_of_questions_is_always_the_same(album, tmp_path):
    add(album, Picture("brown", 50, "b.jpg"), Picture("pink", 50, "p.jpg"))
    first = asked(album)
    album.close()
    with open_album(album.data_dir) as again:
        assert asked(again) == first


def test_a_batch_of_questions_asks_of_each_picture_once(album):
    queue = asked(album)
    assert len({photo for photo, _ in queue}) == len(queue)
    # The first ones are of different colours: photos of one colour are as good as copies.
    colour = {photo: name for name, ids in album.colours.items() for photo in ids}
    assert len({(colour[photo], topic) for photo, topic in queue[:3]}) == 3


def test_a_skipped_photo_that_is_edited_is_not_asked_about_again(album, monkeypatch):
    monkeypatch.setattr(questions, "TWIN", 2.0)  # a photo that was turned is no twin by its features, but the same
    (photo,) = add(album, Picture("blue", 70, "edited.jpg"))
    skipped = [album.answer_doubt(photo, topic, "skip") for topic in BUILTIN]
    (edited,) = add(album, Picture("blue", 71, "edited.jpg"))
    assert edited != photo
    assert edited not in {photo for photo, _ in asked(album)}
    for change in skipped:
        album.undo(change.id)
    album.correct([photo for photo, _ in asked(album) if photo != edited], none=True)
    assert edited in {photo for photo, _ in asked(album)}


class Asking(RuleBasedStateMachine):
    """Answers, skips, takes back, edits and copies photos, restarts: what was asked and stands is not asked again."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.album = open_album(self.folder)
        self.pictures: dict[int, Picture] = {}
        self.names: dict[int, int] = {}
        for name in range(2 * len(COLOURS)):
            self.put(name, f"{name}.jpg", name % 2)
        self.answers: dict[int, tuple[int, str]] = {}
        self.undone: dict[int, tuple[int, str]] = {}
        self.shade = 100

    def put(self, name: int, path: str, shade: int) -> None:
        picture = Picture(COLOURS[name // 2], shade, path)
        (photo,) = add(self.album, picture)
        self.pictures[name], self.names[photo] = picture, name

    def teardown(self) -> None:
        self.album.close()
        shutil.rmtree(self.folder)

    @rule(answer=st.sampled_from(["yes", "no", "skip"]), place=st.integers(0, 2))
    def answer(self, answer: Answer, place: int) -> None:
        for doubt in self.album.doubts(3)[place : place + 1]:
            change = self.album.answer_doubt(doubt.photo.id, doubt.topic, answer)
            self.answers[change.id] = (self.names[doubt.photo.id], doubt.topic)

    @rule(data=st.data())
    @precondition(lambda self: self.answers)
    def undo(self, data: st.DataObject) -> None:
        change = data.draw(st.sampled_from(sorted(self.answers)))
        self.album.undo(change)
        self.undone[change] = self.answers.pop(change)

    @rule(data=st.data())
    @precondition(lambda self: self.undone)
    def redo(self, data: st.DataObject) -> None:
        change = data.draw(st.sampled_from(sorted(self.undone)))
        self.album.redo(change)
        self.answers[change] = self.undone.pop(change)

    @rule()
    def restart(self) -> None:
        self.album.close()
        self.album = open_album(self.folder)

    @rule(name=st.integers(0, 2 * len(COLOURS) - 1))
    def edit(self, name: int) -> None:
        """Another program changes a photo in place: a new content that shows the same picture."""
        self.shade += 1
        self.put(name, f"{name}.jpg", self.shade)

    @rule(name=st.integers(0, 2 * len(COLOURS) - 1))
    def copy(self, name: int) -> None:
        """The same content, somewhere else."""
        self.put(name, f"copy of {name}.jpg", self.pictures[name].shade)

    @invariant()
    def nothing_is_asked_twice(self) -> None:
        questions = [(self.names[doubt.photo.id], doubt.topic) for doubt in self.album.doubts(100)]
        assert not set(questions) & set(self.answers.values())


Asking.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAsking = Asking.TestCase
