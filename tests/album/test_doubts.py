"""Questions: worth asking, answered with one key, never asked twice, and taken back with undo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from homespun.album.errors import PhotoError, TopicError
from tests.album.small_library import BUILTIN, Embedder, Picture, add, add_colours, new_learner, open_album


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
    assert len(seen) > 20


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
