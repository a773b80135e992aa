"""What the album says that it has learnt: tests of its beliefs, how well it knows topics, and why photos moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homespun.album.asking_again import held_out
from homespun.album.knowledge import SHORTEST_STRETCH, Trial, curve
from homespun.album.learnt import Example
from homespun.album.model import Reason
from homespun.learning import TopicLearner
from tests.album.small_library import Picture, add, add_colours, in_topic, open_album


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path) as album:
        album.colours = add_colours(album)
        yield album


def believed(album, topic: str) -> tuple[int, int]:
    """A photo that the album puts into the topic, and one that it does not."""
    inside = in_topic(album, topic)
    return min(inside), next(photo.id for photo in album.photos(limit=1000).photos if photo.id not in inside)


def test_each_photo_spoken_of_tests_what_the_album_believed_before(album):
    inside, outside = believed(album, "red")
    album.correct([inside], positive=["red"])
    assert (album.learnt().answers, album.learnt().right) == (1, 1)
    album.answer_doubt(outside, "red", "yes")
    assert (album.learnt().answers, album.learnt().right) == (2, 1)
    known = {known.topic.key: known for known in album.learnt().topics}["red"]
    assert (known.tested, known.right, known.examples) == (2, 1, 2)


def test_none_of_these_is_right_only_if_the_album_believed_in_none(album):
    inside, _ = believed(album, "red")
    change = album.correct([inside], none=True)
    assert (album.learnt().answers, album.learnt().right) == (1, 0)
    album.undo(change.id)
    assert album.learnt().answers == 0


def test_who_speaks_of_a_photo_again_tests_nobody_but_the_last_word_counts(album):
    inside, _ = believed(album, "red")
    album.correct([inside], negative=["red"])
    assert (album.learnt().answers, album.learnt().right) == (1, 0)
    album.correct([inside], positive=["red"])
    assert (album.learnt().answers, album.learnt().right) == (1, 1)


def test_skipping_undoing_and_putting_back_are_no_tests(album):
    inside, outside = believed(album, "red")
    album.answer_doubt(outside, "red", "skip")
    assert album.learnt().answers == 0
    change = album.correct([inside], negative=["red"])
    album.correct([outside], positive=["red"])
    before = album.learnt()
    album.undo(change.id)
    album.redo(change.id)
    assert album.learnt() == before


def test_a_topic_that_was_new_is_no_test(album):
    album.add_topic("Brown", album.colours["brown"][:2])
    assert album.learnt().answers == 0
    # Nor is what it then believes of photos that it was shown.
    album.correct(album.colours["brown"][:1], negative=["brown"])
    assert album.learnt().answers == 0


def test_what_was_learnt_survives_a_restart(album):
    inside, outside = believed(album, "red")
    album.correct([inside], positive=["red"])
    album.correct([outside], positive=["red"])
    before, folder = album.learnt(), album.data_dir
    album.close()
    with open_album(folder, read_only=True) as again:
        assert again.learnt() == before


def test_a_topic_of_few_photos_asks_for_more_of_them_first(album):
    album.add_topic("Brown", album.colours["brown"][:2])
    learnt = album.learnt()
    assert learnt.helpful[0] == "brown"
    known = {known.topic.key: known for known in learnt.topics}["brown"]
    assert (known.need, known.needed, known.examples) == ("photos", 3, 2)
    album.correct(album.colours["brown"][2:3], positive=["brown"])
    assert {known.topic.key: known.needed for known in album.learnt().topics}["brown"] == 2


# Asked again


def test_what_was_learnt_since_shows_on_photos_that_were_wrong_once(album):
    """The first brown photo was a surprise; told of the others, the album would know it, and not from itself."""
    pink = album.colours["pink"]
    album.correct(pink[:1], positive=["red"])
    learnt = album.learnt()
    assert (learnt.answers, learnt.right) == (1, 0)
    assert (learnt.asked_again, learnt.right_again) == (1, 0)  # it is all that it knows of pink
    album.correct(pink[1:3], positive=["red"])
    learnt = album.learnt()
    assert (learnt.asked_again, learnt.right_again) == (3, 3)
    assert learnt.right < 3


def test_a_photo_is_asked_again_by_who_knows_nothing_of_its_part():
    examples = {str(n): Example((("left", "right")[n % 2],), ()) for n in range(8)}
    features = {key: np.roll([1.0, 0, 0, 0], 2 * (int(key) % 2)).astype(np.float16) for key in examples}
    learner = TopicLearner(4)
    whole = held_out(learner, examples, features, {key: int(key) // 2 for key in examples})
    order = learner.topics
    assert all(whole[key][order.index(example.positive[0])] for key, example in examples.items())
    assert learner.keys == set(examples)
    # With all of the left in one part, nobody knows what is left when that is asked.
    parts = {key: int(key) % 2 for key in examples}
    alone = held_out(learner, examples, features, parts)
    assert not any(alone[key][order.index(example.positive[0])] for key, example in examples.items())


def test_photos_that_can_not_be_asked_again_are_left_out_of_both(album):
    trials = [Trial(n, "2024", right=n % 2 == 0, again=None if n < 5 else True) for n in range(10)]
    stretches = curve(trials)
    assert sum(stretch.asked_again for stretch in stretches) == sum(stretch.right_again for stretch in stretches) == 5


def test_hidden_topics_are_not_spoken_of(album):
    album.hide_topic("green")
    assert {known.topic.key for known in album.learnt().topics} == {"red"}


@given(st.lists(st.booleans(), max_size=300))
def test_the_curve_is_made_of_all_answers_in_stretches_of_like_length(answers):
    tests = [Trial(number, f"2024-01-01T00:00:{number:03}", right) for number, right in enumerate(answers)]
    found = curve(tests)
    if len(answers) < SHORTEST_STRETCH:
        assert found == []
        return
    assert sum(stretch.answers for stretch in found) == len(answers)
    assert sum(stretch.right for stretch in found) == sum(answers)
    sizes = {stretch.answers for stretch in found}
    assert min(sizes) >= SHORTEST_STRETCH and max(sizes) - min(sizes) <= 1
    assert [stretch.first for stretch in found] == sorted(stretch.first for stretch in found)


# Why photos moved


def test_a_photo_that_comes_names_the_example_that_it_is_like(album):
    brown = album.colours["brown"]
    change = album.correct(brown[:1], positive=["red"])
    came = {move.photo_id: move.because for move in change.moved if move.after and move.topic == "red"}
    assert set(brown[1:]) <= came.keys()
    assert {came[photo] for photo in brown[1:]} == {Reason(brown[0], "red", True, False)}


def test_the_nearest_of_several_examples_is_named(album):
    brown, pink = album.colours["brown"], album.colours["pink"]
    change = album.correct([brown[0], pink[0]], positive=["red"])
    because = {move.photo_id: move.because for move in change.moved if move.after and move.topic == "red"}
    assert {because[photo].photo_id for photo in brown[1:]} == {brown[0]}
    assert {because[photo].photo_id for photo in pink[1:]} == {pink[0]}


def test_a_photo_that_goes_names_what_speaks_against_it(album):
    brown = album.colours["brown"]
    album.correct(brown[:1], positive=["red"])
    change = album.correct(brown[1:3], negative=["red"])
    went = {move.photo_id: move.because for move in change.moved if not move.after and move.topic == "red"}
    assert brown[3] in went
    assert went[brown[3]].photo_id in brown[1:3] and not went[brown[3]].said


def test_undoing_names_what_was_taken_back(album):
    brown = album.colours["brown"]
    change = album.correct(brown[:1], positive=["red"])
    undone = album.undo(change.id)
    went = {move.photo_id: move.because for move in undone.moved if move.topic == "red" and not move.after}
    assert {went[photo] for photo in brown[1:]} == {Reason(brown[0], "red", True, True)}


def test_moves_and_reasons_stay_in_the_history(album):
    brown = album.colours["brown"]
    change = album.correct(brown[:1], positive=["red"])
    album.add_topic("Pink", album.colours["pink"][:1])
    folder = album.data_dir
    album.close()
    with open_album(folder) as again:
        added, corrected = again.changes()
        assert corrected.moved == change.moved and corrected.moved_total == change.moved_total
        assert {move.photo_id for move in added.moved if move.topic == "pink"} == set(album.colours["pink"][1:])


def test_a_photo_that_comes_later_is_no_test_of_what_was_not_believed(album):
    (late,) = add(album, Picture("red", 70, "late.jpg"), sort=False)
    album.correct([late], positive=["red"])
    assert album.learnt().answers == 0
