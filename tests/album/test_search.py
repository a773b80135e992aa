"""Finding photos: by topic, words, dates and place, in every order, page by page, with neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.album.errors import PhotoError, SearchError, TopicError
from tests.album.small_library import Picture, add, open_album

PICTURES = [
    Picture("red", 1, "2019/春节/IMG_0001.JPG", taken="2019-02-05T18:00:00", camera="Nikon D70"),
    Picture("red", 2, "2019/春节/IMG_0002.JPG", taken="2019-02-05T18:00:00", camera="Nikon D70"),
    Picture("green", 1, "2021/Garden/rose.jpg", taken="2021-06-30T23:59:59", latitude=47.38, longitude=8.54),
    Picture("green", 2, "2021/Garden/Käse.jpg", taken="2021-07-01T00:00:00", latitude=47.38, longitude=8.54),
    Picture("blue", 1, "Sea/ROSE-2.jpg", taken="2021-12-31T10:00:00", latitude=30.25, longitude=120.15),
    Picture("grey", 1, "scan 100%_final.jpg", taken="1987-01-01T00:00:00"),
    Picture("grey", 2, "no date.jpg"),
]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory):
    with open_album(tmp_path_factory.mktemp("search")) as album:
        album.ids = add(album, *PICTURES)
        yield album


def found(album, **search) -> list[int]:
    """Positions in PICTURES of what a search finds, in its order."""
    return [album.ids.index(photo.id) for photo in album.photos(**search).photos]


CASES = [
    ({}, [6, 4, 3, 2, 1, 0, 5]),
    ({"sort": "date-ascending"}, [5, 0, 1, 2, 3, 4, 6]),
    ({"topic": "red"}, [1, 0]),
    ({"topic": "Red"}, [1, 0]),
    ({"topic": "红色"}, [1, 0]),
    ({"topic": "unsorted"}, [6, 4, 5]),
    ({"text": "rose"}, [4, 2]),
    ({"text": "ROSE garden"}, [2]),
    ({"text": "春节"}, [1, 0]),
    ({"text": "绿色"}, [3, 2]),
    ({"text": "green rose"}, [2]),
    ({"text": "nikon img_0002"}, [1]),
    ({"text": "ka\u0308se"}, [3]),
    ({"text": "zürich"}, [3, 2]),
    ({"text": "苏黎世"}, [3, 2]),
    ({"text": "100%_"}, [5]),
    ({"text": "%"}, [5]),
    ({"text": "'; DROP TABLE photo; --"}, []),
    ({"text": "   "}, [6, 4, 3, 2, 1, 0, 5]),
    ({"date_from": "2021-06", "date_to": "2021-06"}, [2]),
    ({"date_from": "2021-07-01", "date_to": "2021"}, [4, 3]),
    ({"date_to": "1987"}, [5]),
    ({"date_from": "2021", "date_to": "2021", "topic": "green", "text": "rose"}, [2]),
    ({"place": "Zürich, Switzerland"}, [3, 2]),
    ({"place": "苏黎世, 瑞士"}, [3, 2]),
    ({"place": "geonames-1808926"}, [4]),
    ({"place": "Atlantis"}, []),
]


@pytest.mark.parametrize(("search", "expected"), CASES)
def test_search(album, search, expected):
    assert found(album, **search) == expected
    assert album.photos(**search).total == len(expected)


@pytest.mark.parametrize(("search", "expected"), CASES)
def test_neighbours_follow_the_same_order(album, search, expected):
    ids = [album.ids[index] for index in expected]
    for position, photo_id in enumerate(ids):
        near = album.neighbours(photo_id, **search)
        assert near.position == position
        assert near.total == len(ids)
        assert near.previous == (ids[position - 1] if position else None)
        assert near.next == (ids[position + 1] if position + 1 < len(ids) else None)
    if len(ids) < len(PICTURES):
        outside = next(photo_id for photo_id in album.ids if photo_id not in ids)
        assert album.neighbours(outside, **search).position is None


@pytest.mark.parametrize(
    ("search", "error", "words"),
    [
        ({"topic": "weding"}, TopicError, "there is no topic 'weding'; the topics are: red, green"),
        ({"date_from": "05/2021"}, SearchError, "2024-05-31"),
        ({"date_to": "2021-13"}, SearchError, "'2021-13' is no date"),
        ({"date_from": "2021-02-30"}, SearchError, "is no date"),
        ({"date_from": "2022", "date_to": "2021"}, SearchError, "before it begins"),
        ({"sort": "confidence"}, SearchError, "only within a topic"),
        ({"offset": -1}, SearchError, "can't begin at -1"),
        ({"limit": 0}, SearchError, "1 to 1000 photos, not 0"),
        ({"limit": 100_000}, SearchError, "1 to 1000"),
    ],
)
def test_what_cannot_be_searched_is_explained(album, search, error, words):
    with pytest.raises(error, match=words):
        album.photos(**search)


def test_by_confidence_a_persons_word_comes_first(tmp_path: Path):
    with open_album(tmp_path) as album:
        ids = add(album, *(Picture("red", shade, f"{shade}.jpg") for shade in range(6)), Picture("blue", 1, "blue.jpg"))
        album.correct(ids[-1:], positive=["red"])
        page = album.photos(topic="red", sort="confidence")
        assert page.photos[0].id == ids[-1]
        sure = [photo.topics[0].confidence for photo in page.photos[1:]]
        assert sure == sorted(sure, reverse=True)
        doubtful = album.photos(topic="red", sort="doubt")
        assert doubtful.photos[-1].id == ids[-1]
        assert [photo.topics[0].confidence for photo in doubtful.photos[:-1]] == sure[::-1]


def test_places_and_months(album):
    assert [(place.name, place.name_zh, place.photos) for place in album.places()] == [
        ("Zürich, Switzerland", "苏黎世, 瑞士", 2),
        ("Hangzhou, China", "杭州, 中国", 1),
    ]
    months = [(month.month, month.photos, album.ids.index(month.cover_photo_id)) for month in album.timeline()]
    assert months[1:] == [
        ("2021-12", 1, 4),
        ("2021-07", 1, 3),
        ("2021-06", 1, 2),
        ("2019-02", 2, months[4][2]),
        ("1987-01", 1, 5),
    ]
    assert months[4][2] in (0, 1)


def test_a_photo_has_all_that_is_known_of_it(album):
    photo = album.photo(album.ids[2])
    assert (photo.name, photo.paths, photo.taken) == (
        "rose.jpg",
        ["/photos/2021/Garden/rose.jpg"],
        "2021-06-30T23:59:59",
    )
    assert (photo.place, photo.place_zh, photo.status) == ("Zürich, Switzerland", "苏黎世, 瑞士", "ok")
    topics = {topic.key: topic for topic in photo.topics}
    assert topics["green"].present
    assert topics["green"].source == "automatic"
    assert 0.5 < topics["green"].confidence <= 1
    assert not topics["red"].present
    undated = album.photo(album.ids[6])
    assert undated.taken is None
    assert undated.sort_date.startswith("2023-11-1")  # the file's time


def test_photos_by_number_and_by_path(album, tmp_path):
    assert album.photo_id(str(album.ids[0])) == album.ids[0]
    assert album.photo_id("/photos/2021/Garden/rose.jpg") == album.ids[2]
    with pytest.raises(PhotoError, match="neither the number of a photo nor a file in the album"):
        album.photo_id(str(tmp_path / "other.jpg"))
    with pytest.raises(PhotoError, match="there is no photo 999"):
        album.photo(999)


@settings(max_examples=30, deadline=None)
@given(offset=st.integers(0, 10), limit=st.integers(1, 10), ascending=st.booleans())
def test_pages_are_pieces_of_the_whole(album, offset, limit, ascending):
    sort = "date-ascending" if ascending else "date"
    whole = found(album, sort=sort)
    assert found(album, sort=sort, offset=offset, limit=limit) == whole[offset : offset + limit]
