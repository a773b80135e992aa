"""Labels that contradict each other, are too few, too many, mistaken or homeless: what docs/odd-labels.md promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from homespun.album.errors import StorageFullError, TopicError
from tests.album.small_library import COLOURS, Picture, add, add_colours, in_topic, open_album


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path / "data") as album:
        album.colours = add_colours(album)
        yield album


def everything(album) -> list[object]:
    """All that is believed and said of all photos."""
    return [album.photo(photo.id) for photo in album.photos(limit=1000).photos]


def learnt_bytes(album, folder: Path) -> bytes:
    path = folder / "learner.safetensors"
    album._sorting.board().family.learner.save(path)
    return path.read_bytes()


def said(album, photo: int, topic: str) -> tuple[str, bool] | None:
    found = {shown.key: shown for shown in album.photo(photo).topics}.get(topic)
    return None if found is None else (found.source, found.present)


# Contradictions


@pytest.mark.parametrize(
    "words", [{"positive": ["red"], "negative": ["red"]}, {"positive": ["Red"], "negative": ["红色"]}]
)
def test_yes_and_no_at_once_is_refused_and_nothing_of_it_is_kept(album, words):
    before, changes = everything(album), album.changes()
    with pytest.raises(TopicError, match="at once"):
        album.correct(album.colours["blue"], **words)
    assert everything(album) == before and album.changes() == changes


def test_of_yes_and_no_after_each_other_the_last_counts_wholly(album, tmp_path):
    photo = album.colours["blue"][0]
    album.correct([photo], negative=["red"])
    once = learnt_bytes(album, tmp_path)
    album.correct([photo], positive=["red"])
    assert said(album, photo, "red") == ("human", True)
    album.correct([photo], negative=["red"])
    assert said(album, photo, "red") == ("human", False)
    assert learnt_bytes(album, tmp_path) == once  # the yes left no trace
    album.undo()
    assert said(album, photo, "red") == ("human", True)


def test_twins_in_two_topics_stay_where_they_were_put(album):
    one, other, third, _ = album.colours["brown"]
    album.add_topic("Ours", [one])
    album.add_topic("Theirs", [other])
    assert said(album, one, "ours") == said(album, other, "theirs") == ("human", True)
    # What is like both is shown in one or both of them rather than nowhere: a photo may be in several topics.
    assert {topic.key for topic in album.photo(third).topics if topic.present} & {"ours", "theirs"}
    confidences = album._sorting.board().standing.confidences
    assert np.isfinite(confidences).all()


def test_two_topics_of_the_very_same_photos_are_both_shown(album):
    brown = album.colours["brown"]
    album.add_topic("Ours", brown)
    album.add_topic("Theirs", brown)
    assert in_topic(album, "ours") >= set(brown) and in_topic(album, "theirs") >= set(brown)
    assert [known.tested for known in album.learnt().topics if known.topic.key in ("ours", "theirs")] == [0, 0]


# Few


def test_a_topic_of_one_photo_works_and_asks_for_more(album):
    photo = album.colours["pink"][0]
    before = everything(album)
    album.add_topic("Ours", [photo])
    assert photo in in_topic(album, "ours")
    known = {known.topic.key: known for known in album.learnt().topics}["ours"]
    assert (known.sure, known.need, known.needed) == (None, "photos", 4)
    album.correct([photo], negative=["ours"])  # and a topic of none: it is empty, and harms nobody
    assert in_topic(album, "ours") == set()
    album.undo()
    album.undo()
    assert everything(album) == before


def test_a_topic_within_another_shares_its_photos(album):
    pink, brown = album.colours["pink"], album.colours["brown"]
    album.add_topic("Garden", [*pink[:3], *brown[:3]])
    album.add_topic("Roses", brown[:3])
    assert in_topic(album, "garden") >= {*pink[:3], *brown[:3]}
    assert in_topic(album, "roses") >= set(brown[:3])
    assert not in_topic(album, "roses") & set(pink[:3])
    # The last brown photo is found, for one or both; and what is said of one says nothing about the other.
    assert {topic.key for topic in album.photo(brown[3]).topics if topic.present} & {"garden", "roses"}
    album.correct(brown[:1], negative=["roses"])
    assert said(album, brown[0], "garden") == ("human", True)


# Mistakes


def test_a_hundred_photos_mislabelled_and_undone_leave_no_trace(album, tmp_path):
    many = add(album, *(Picture(COLOURS[n % len(COLOURS)], 100 + n, f"many/{n}.jpg") for n in range(100)))
    album.correct(many[:2], positive=["green"])
    before, learnt, figures = everything(album), learnt_bytes(album, tmp_path), album.learnt()
    mistake = album.correct(many, positive=["red"])
    assert in_topic(album, "red") >= set(many)
    kept = album.correct(album.colours["grey"][:1], negative=["red"])  # something right comes in between
    album.close()
    with open_album(tmp_path / "data") as album:
        album.undo(mistake.id)
        album.undo(kept.id)
        assert everything(album) == before
        assert learnt_bytes(album, tmp_path) == learnt
        assert album.learnt() == figures  # nor do mistakes that were taken back count against the album


# Photos that are gone


def test_labels_of_vanished_photos_go_on_teaching_and_return_with_them(album, tmp_path):
    brown = album.colours["brown"]
    album.correct(brown[:1], positive=["red"])
    learnt = learnt_bytes(album, tmp_path)
    album._store.mark_vanished([b"/photos/brown/0.jpg"])
    album.sort_new()
    assert brown[0] not in in_topic(album, "red")
    assert learnt_bytes(album, tmp_path) == learnt
    album.correct(brown[:1], negative=["green"])  # a page that was open still had it
    assert said(album, brown[0], "green") == ("human", False)
    assert brown[0] not in {doubt.photo.id for doubt in album.doubts(100)}
    album._store.mark_returned([b"/photos/brown/0.jpg"])
    album.sort_new()
    assert brown[0] in in_topic(album, "red")


# A full disk


def test_a_full_disk_refuses_a_correction_whole_and_takes_it_later(album):
    before, figures, changes = everything(album), album.learnt(), album.changes()
    connection = album._store._writer
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFullError, match="free some space"):
        for _ in range(200):
            album.correct([photo for ids in album.colours.values() for photo in ids], positive=["red"])
            changes, before, figures = album.changes(1000), everything(album), album.learnt()
    assert album.changes(1000) == changes and everything(album) == before and album.learnt() == figures
    connection.execute("PRAGMA max_page_count = 1000000")
    album.correct(album.colours["blue"], negative=["red"])
    assert said(album, album.colours["blue"][0], "red") == ("human", False)
