"""Topics: adding, naming, hiding and removing them, and what corrections say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from homespun.album.errors import ChangeError, LibraryError, PhotoError, TopicError
from homespun.album.topics import builtin_names, key_for
from tests.album.small_library import Picture, add, add_colours, in_topic, new_learner, open_album


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path) as album:
        album.colours = add_colours(album)
        yield album


def keys(album, **options) -> list[str]:
    return [topic.key for topic in album.topics(**options)]


def test_built_in_topics_come_from_scores(album):
    assert in_topic(album, "red") == set(album.colours["red"])
    assert in_topic(album, "green") == set(album.colours["green"])
    red = album.topic("red")
    assert (red.photos, red.confirmed, red.builtin, red.hidden) == (4, 0, True, False)
    assert red.cover_photo_id in album.colours["red"]


def test_a_correction_holds_at_once_and_reports_what_else_moved(album):
    brown = album.colours["brown"]
    change = album.correct(brown[:1], positive=["red"])
    assert in_topic(album, "red") == set(album.colours["red"]) | set(brown)
    assert {(move.photo_id, move.topic, move.before, move.after) for move in change.moved} == {
        (photo, "red", False, True) for photo in brown[1:]
    }
    assert change.moved_total == 3
    assert all(0.5 < move.confidence <= 1 for move in change.moved)
    assert change.photos == brown[:1]
    assert change.topics == ["red"]
    undone = album.undo(change.id)
    assert undone.undone
    assert {(move.photo_id, move.after) for move in undone.moved} == {(photo, False) for photo in brown[1:]}
    assert in_topic(album, "red") == set(album.colours["red"])


def test_what_a_person_said_outlives_every_later_run(album):
    photo = album.colours["blue"][0]
    album.correct([photo], positive=["green"], negative=["red"])
    album.correct(album.colours["blue"][1:], none=True)
    album.sort_new()
    add(album, Picture("green", 77, "later.jpg"))
    topics = {topic.key: topic for topic in album.photo(photo).topics}
    assert topics["green"].present
    assert topics["green"].source == topics["red"].source == "human"
    assert topics["green"].confidence is None
    for other in album.colours["blue"][1:]:
        assert not any(topic.present for topic in album.photo(other).topics)


def test_none_of_these_means_the_topics_that_there_are(album):
    photo = album.colours["red"][0]
    album.correct([photo], none=True)
    assert photo not in in_topic(album, "red")
    assert photo in {photo.id for photo in album.photos(topic="unsorted").photos}
    topic = album.add_topic("Ours", album.colours["red"][1:])
    # A topic that came later was not meant: there the album may decide.
    assert {t.key: t.source for t in album.photo(photo).topics}[topic.key] == "automatic"


def test_a_family_topic_finds_its_like(album):
    pink = album.colours["pink"]
    topic = album.add_topic("  Grandma's   garden ", pink[:1], name_zh="外婆的花园")
    assert (topic.key, topic.name_en, topic.name_zh) == ("grandmas-garden", "Grandma's garden", "外婆的花园")
    assert in_topic(album, topic.key) == set(pink)
    assert (topic.photos, topic.confirmed, topic.builtin) == (4, 1, False)
    assert keys(album) == ["red", "green", "grandmas-garden"]
    assert in_topic(album, "red") == set(album.colours["red"])
    assert album.topic("外婆的花园").key == topic.key


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Red", "a topic called Red"),
        ("红色", "a topic called Red"),
        ("  gREEN ", "a topic called Green"),
        ("", "at least one letter"),
        ("---", "at least one letter"),
        ("x" * 61, "at most 60"),
        ("Red\u202eder", "control characters"),
    ],
)
def test_names_that_cannot_be(album, name, words):
    with pytest.raises(TopicError, match=words):
        album.add_topic(name, album.colours["pink"][:1])
    with pytest.raises(TopicError, match=words):
        album.rename_topic("green" if "Red" in words else "red", name)
    assert keys(album) == ["red", "green"]
    assert album.changes() == []


def test_a_topic_wants_photos_that_there_are(album):
    with pytest.raises(TopicError, match="at least one photo"):
        album.add_topic("Ours", [])
    with pytest.raises(PhotoError, match="there is no photo 12345"):
        album.add_topic("Ours", [1, 12345])
    assert keys(album) == ["red", "green"]


def test_renaming_hiding_and_removing_can_be_undone(album):
    topic = album.add_topic("Ours", album.colours["pink"][:2])
    renamed = album.rename_topic("ours", name="Pinks", name_zh="粉红")
    assert (album.topic("ours").name_en, album.topic("粉红").key) == ("Pinks", "ours")
    album.rename_topic("ours", name_zh="粉色")
    album.undo(renamed.id)
    assert (album.topic("ours").name_en, album.topic("ours").name_zh) == ("Ours", "粉色")

    hidden = album.hide_topic("red")
    assert keys(album) == ["green", "ours"]
    assert keys(album, include_hidden=True) == ["red", "green", "ours"]
    assert in_topic(album, "red") == set(album.colours["red"])
    album.undo(hidden.id)
    assert keys(album) == ["red", "green", "ours"]

    before = in_topic(album, topic.key)
    removed = album.remove_topic("ours")
    assert keys(album) == ["red", "green"]
    with pytest.raises(TopicError, match="there is no topic 'ours'"):
        album.photos(topic="ours")
    again = album.add_topic("Ours", album.colours["blue"][:1])
    assert again.key == "ours-2"
    album.undo(removed.id)
    assert in_topic(album, "ours") == before
    assert album.topic("ours").confirmed == 2


def test_a_built_in_topic_is_hidden_not_removed(album):
    with pytest.raises(TopicError, match="hidden, not removed"):
        album.remove_topic("red")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({}, "names topics"),
        ({"positive": ["red"], "negative": ["Red"]}, "in red and not in it"),
        ({"positive": ["red"], "none": True}, "contradicts itself"),
        ({"positive": ["reed"]}, "there is no topic 'reed'"),
    ],
)
def test_corrections_that_say_nothing_or_too_much(album, says, words):
    with pytest.raises(TopicError, match=words):
        album.correct([1], **says)
    assert album.changes() == []


def test_corrections_of_no_photo(album):
    with pytest.raises(PhotoError, match="at least one photo"):
        album.correct([], positive=["red"])
    with pytest.raises(PhotoError, match="there is no photo 404"):
        album.correct([1, 404], positive=["red"])
    assert album.changes() == []


def test_undo_says_what_it_cannot_do(album):
    with pytest.raises(ChangeError, match="nothing to undo"):
        album.undo()
    with pytest.raises(ChangeError, match="there is no change 5"):
        album.undo(5)
    change = album.correct([1], positive=["green"])
    with pytest.raises(ChangeError, match="was not undone"):
        album.redo(change.id)


def test_the_history_tells_what_was_done(album):
    album.correct([1, 2], positive=["green"])
    album.add_topic("Ours", [3], name_zh="我们")
    album.undo(1)
    newest, oldest = album.changes()
    assert (oldest.id, oldest.kind, oldest.photos, oldest.topics, oldest.undone) == (
        1,
        "label",
        [1, 2],
        ["green"],
        True,
    )
    assert (newest.kind, newest.photos, newest.topics, newest.undone) == ("add-topic", [3], ["ours"], False)
    assert newest.details == {"name_en": "Ours", "name_zh": "我们"}
    assert [change.id for change in album.changes(limit=1)] == [2]


def test_a_new_version_may_bring_and_drop_built_in_topics(tmp_path):
    with open_album(tmp_path) as album:
        (photo,) = add(album, Picture("red", 1, "one.jpg"))
        album.correct([photo], negative=["green"])
        album.rename_topic("red", "Scarlet")

    def newer_learner():
        learner = new_learner()
        learner.remove_topic("green")
        learner.add_topic("blue")
        return learner

    newer = {"red": ("Crimson", "绯红"), "blue": ("Blue", "蓝色")}
    with open_album(tmp_path, learner=newer_learner, builtin=newer) as album:
        shown = [(topic.key, topic.name_en, topic.name_zh) for topic in album.topics()]
        assert shown == [("red", "Scarlet", "绯红"), ("blue", "Blue", "蓝色")]
    with open_album(tmp_path) as album:
        assert keys(album) == ["red", "green"]
        assert {t.key: t.source for t in album.photo(photo).topics}["green"] == "human"


@pytest.mark.parametrize(
    ("name", "taken", "key"),
    [
        ("Wedding", (), "wedding"),
        ("Wedding", ("wedding", "wedding-2"), "wedding-3"),
        ("Käse & Brot!", (), "käse-brot"),
        ("外婆 的花园", (), "外婆-的花园"),
        ("Unsorted", (), "unsorted-2"),
        ("a/b\\c?d#e", (), "a-b-c-d-e"),
    ],
)
def test_keys(name, taken, key):
    assert key_for(name, taken) == key


def test_topics_that_ship_have_names_in_both_languages():
    from homespun.learning import TopicLearner

    keys = TopicLearner.builtin().topics
    assert len(keys) >= 24
    for key, (english, chinese) in builtin_names(keys).items():
        assert english
        assert any("\u4e00" <= character <= "\u9fff" for character in chinese), key


def test_reading_only_changes_nothing(tmp_path, album):
    with open_album(album.data_dir, read_only=True) as reader:
        for change in (
            lambda: reader.correct([1], none=True),
            lambda: reader.add_topic("Ours", [1]),
            lambda: reader.hide_topic("red"),
            lambda: reader.answer_doubt(1, "red", "skip"),
        ):
            with pytest.raises(LibraryError, match="reading only"):
                change()
        assert reader.photo(album.colours["red"][0]) == album.photo(album.colours["red"][0])
