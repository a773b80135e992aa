"""The pages as a browser without scripts sees them."""

import datetime
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from homespun.album.imaging.reasons import explain
from homespun.album.model import Change

from .fake_album import FakeAlbum, make_photo


def hrefs(page: str, css_class: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(rf'<a class="{css_class}[^"]*" href="([^"]+)"', page)]


def test_home_has_a_row_for_each_topic_with_photos(client: TestClient, album: FakeAlbum) -> None:
    page = client.get("/").text
    titles = [re.sub("<[^>]+>.*", "", title) for title in re.findall(r"<h2><a [^>]+>(.*?)</a>", page)]
    assert titles == ["Newest", "Food", "Cats", "Not sorted yet"]  # no empty "Space"
    assert "Check 3 photos" in page and "1 photo could not be read" in page
    # However large a topic is, its row is short.
    assert all(call[1][-1] <= 12 for call in album.calls if call[0] == "photos")


def test_home_of_an_empty_album_says_how_to_begin(client: TestClient, album: FakeAlbum) -> None:
    album.records.clear()
    album.members = {key: set() for key in album.members}
    assert "homespun album index" in client.get("/").text


def test_a_grid_can_be_paged_without_scripts(client: TestClient) -> None:
    address, seen = "/topics/food", []
    while address:
        page = client.get(address).text
        seen += hrefs(page, "tile")
        following = re.search(r'<a class="button" href="([^"]+)" data-next', page)
        address = following[1].replace("&amp;", "&") if following else ""
    assert seen == [f"/photos/{number}?topic=food" for number in range(100, 0, -1)]
    assert "offset=0" not in page and '<p class="previous">' in page


def test_a_part_of_a_grid_is_only_that(client: TestClient) -> None:
    part = client.get("/topics/food?offset=60&part=tiles").text
    assert len(hrefs(part, "tile")) == 40 and "<html" not in part and "data-next" not in part
    assert client.get("/topics/food?part=count").text.strip() == "100 photos"


def test_a_photos_page_leads_on_and_back(client: TestClient) -> None:
    page = client.get("/photos/40?topic=food&from=2021&to=2021").text
    assert 'data-previous="/photos/41?topic=food&amp;from=2021&amp;to=2021"' in page
    assert 'data-next="/photos/39?topic=food&amp;from=2021&amp;to=2021"' in page
    assert "61 of 100" in page
    # Back to the page of the grid that it is on.
    assert 'data-back="/topics/food?from=2021&amp;to=2021&amp;offset=60"' in page
    assert 'data-back="/photos"' in client.get("/photos/140").text
    assert 'data-back="/search?text=photo"' in client.get("/photos/140?text=photo").text
    assert 'data-back="/topics/unsorted"' in client.get("/photos/140?topic=unsorted").text


def test_a_photos_page_shows_what_is_known(client: TestClient, album: FakeAlbum) -> None:
    page = client.get("/photos/3").text
    for text in (
        "Food",
        "Cats",
        "90% sure",
        "share-90",
        "4 June 2021",
        "Camera One",
        "<dd>pictures/holiday</dd>",
        "4000 × 3000",
    ):
        assert text in page
    human = [replace(topic, source="human", confidence=None) for topic in album.photo(3).topics]
    album.records[3] = make_photo(3, topics=[human[0], replace(human[1], present=False)])
    page = client.get("/photos/3").text
    assert "You said so" in page and "You said that it is not: Cats" in page and "% sure" not in page


def test_likely_topics_are_offered_but_hidden_ones_are_not(client: TestClient, album: FakeAlbum) -> None:
    maybe = replace(album.photo(3).topics[0], key="space", name_en="Space", present=False, confidence=0.4)
    unlikely = replace(maybe, key="cats", confidence=0.001)
    album.records[3] = make_photo(3, topics=[maybe, unlikely])
    offered = r'class="chip" type="button" data-action="yes" data-topic="(\w+)"'
    assert re.findall(offered, client.get("/photos/3").text) == ["space"]
    album.hidden.add("space")
    assert re.findall(offered, client.get("/photos/3").text) == []


def test_a_search_combines_and_takes_back_its_parts(client: TestClient, album: FakeAlbum) -> None:
    page = client.get("/search?text=photo-1&topic=food&from=2021&to=2021&place=cn-beijing").text
    assert album.calls[-1] == ("photos", ("food", "photo-1", "2021", "2021", "cn-beijing", "date", 0, 60))
    here = [link.replace("&amp;", "&") for link in re.findall(r'<a class="chip here" href="([^"]+)"', page)]
    assert here == [
        "/search?text=photo-1&from=2021&to=2021&place=cn-beijing",
        "/search?topic=food&text=photo-1&place=cn-beijing",
        "/search?topic=food&text=photo-1&from=2021&to=2021",
    ]
    assert "/search?topic=cats&text=photo-1" in page.replace("&amp;", "&")


def test_a_search_for_nonsense_says_so(client: TestClient) -> None:
    assert "No photos here" in client.get("/search?text=nothing-like-it").text
    assert "written" not in client.get("/search").text
    assert "date can&#39;t be searched" in client.get("/search?from=yesterday").text


def test_doubts_are_asked_one_by_one(client: TestClient, album: FakeAlbum) -> None:
    page = client.get("/doubts").text
    assert page.count("Is this “Cats”?") == 3
    assert page.count('<section class="doubt"') == 3 and page.count('data-topic="cats" hidden>') == 2
    # Only the first picture is fetched at once.
    assert page.count('<img src="/api') == 1 and page.count("<img data-later=") == 2
    album.queue.clear()
    assert "Nothing to check" in client.get("/doubts").text


def test_the_queue_can_be_asked_for_one_topic(client: TestClient) -> None:
    assert "Nothing to check" in client.get("/doubts?topic=food").text


def test_topics_page_shows_hidden_ones_last(client: TestClient, album: FakeAlbum) -> None:
    album.hidden.add("food")
    page = client.get("/topics").text
    assert re.findall(r'<li class="card([^"]*)" data-topic="(\w+)"', page) == [
        ("", "cats"),
        ("", "space"),
        (" hidden-topic", "food"),
    ]
    assert 'data-action="remove"' not in page.split("<div id=")[0]  # built-in ones can only be hidden


def test_history_says_what_was_done(client: TestClient, album: FakeAlbum) -> None:
    album.correct([3, 4], positive=["space"])
    album.correct([5], none=True)
    album.hide_topic("cats")
    album.hide_topic("cats", hidden=False)
    album.undo(1)
    album.log.append(Change(5, "label", [999_999], ["gone"], "2024-05-01T12:00:00", False))  # both no longer there
    texts = re.findall(r'<span class="entry-text"><b>(.*?)</b><span>(.*?)</span>', client.get("/history").text)
    assert [text for text, _ in texts] == [
        "Corrected: gone",
        "Shown again: Cats",
        "Hidden: Cats",
        "In none of the topics",
        "Corrected: Space",
    ]
    assert texts[-1][1] == "1 May 2024 12:00 · 2 photos · 1 other photo moved"


def test_the_large_picture_is_a_large_photo(client: TestClient, album: FakeAlbum) -> None:
    """Of the topic's surest photos: one of a few pixels is not drawn across a whole TV, if there is a larger one."""
    for photo_id, photo in album.records.items():
        album.records[photo_id] = replace(photo, width=100, height=100)
    for topic in album.topics():
        if topic.photos:
            large = sorted(album.members[topic.key])[-2]
            album.records[large] = replace(album.records[large], width=3000, height=2000)
    hero = re.search(r'class="hero.*?/photos/(\d+)/', client.get("/").text, re.DOTALL)
    assert hero and album.records[int(hero[1])].width == 3000


def test_the_large_picture_is_of_a_topic_that_has_a_large_photo(client: TestClient, album: FakeAlbum) -> None:
    """Whatever topic's turn it is today."""
    for photo_id, photo in album.records.items():
        album.records[photo_id] = replace(photo, width=100, height=100)
    large = sorted(album.members["cats"])[0]
    album.records[large] = replace(album.records[large], width=3000, height=2000)
    hero = re.search(r'class="hero.*?/photos/(\d+)/', client.get("/").text, re.DOTALL)
    assert hero and int(hero[1]) == large


def test_a_look_back_is_on_several_photos(
    client: TestClient, album: FakeAlbum, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, members in album.members.items():
        if key != "cats":
            album.members[key] = type(members)(sorted(members)[:2])
    album.members["cats"] |= set(sorted(album.records)[:3])
    assert sum(1 for topic in album.topics() if topic.photos) > 1
    for day in range(8):

        class Day(datetime.date):
            @classmethod
            def today(cls, day: int = day) -> datetime.date:
                return datetime.date(2026, 1, 1 + day)

        monkeypatch.setattr("homespun.album.web.pages.datetime", SimpleNamespace(date=Day))
        hero = re.search(r'class="hero.*?<h1>(.*?)</h1>', client.get("/").text, re.DOTALL)
        assert hero and hero[1] == "Cats"


def test_problems_say_what_to_do_in_both_languages(client: TestClient) -> None:
    for language in ("en", "zh"):
        page = client.get("/problems", headers={"accept-language": language}).text
        photos, others = page.split("<h2>")
        assert explain("truncated", language) in photos and "letter.pdf" not in photos
        assert explain("other_kind", language) in others and "letter.pdf" in others
    assert "&lt;b&gt;bad.jpg" in page


@pytest.mark.parametrize("path", ["/nothing", "/photos/999999", "/topics/nothing", "/photos/abc", "/photos?offset=-1"])
def test_what_is_not_there_has_a_page(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and "Nothing here" in answer.text and 'href="/"' in answer.text


def test_old_bookmarks_still_work(client: TestClient) -> None:
    """An order or a date that is no longer understood shows the photo all the same."""
    assert client.get("/topics/food?sort=colour").status_code == 200
    assert client.get("/photos/3?from=yesterday").status_code == 200


def test_scripts_keep_to_what_old_televisions_understand() -> None:
    """ES5 by its outward signs: Chromium 38 stops at the first arrow function."""
    folder = Path(__file__).parents[3] / "src/homespun/album/web/static"
    for path in folder.glob("*.js"):
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        code = re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", code)
        for sign in ("=>", "`", "?.", "??", "..."):
            assert sign not in code, f"{path.name}: {sign}"
        words = ("let", "const", "class", "async", "await", "import", "export", "fetch", "Promise", "Symbol")
        assert not re.search(rf"\b({'|'.join(words)})\b(?!:)", code), path.name
        assert not re.search(
            r"(?<!Homespun)(?<!classList)\.(append|prepend|remove|closest|replaceWith|includes|startsWith)\(", code
        )
    style = (folder / "album.css").read_text(encoding="utf-8")
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    assert not re.search(r"var\(|--\w|[^-]gap:|aspect-ratio|inset:|clamp\(|min\(|:focus-visible|:is\(|:where\(", style)
