"""What a newcomer does on the first evening, in a real browser on real photos with the real backbone and topics.

`HOMESPUN_SCREENSHOTS=docs/images pytest tests/album/web/test_newcomer.py` also renews the pictures of the docs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from homespun.album import Album
from homespun.album.web import create_app

from .conftest import OpenPage, serving
from .pictures import write_library

pytestmark = pytest.mark.browser

SCREENSHOTS = os.environ.get("HOMESPUN_SCREENSHOTS", "")
LARGEST_PICTURE = 300_000
# What the pictures show, in the words of the built-in topics: a newcomer answers truly.
TRUE_TOPICS = {
    "cat": ["cat"],
    "coffee": ["food"],
    "astronaut": ["portrait"],
    "page": ["receipt"],
    "hills": ["mountain"],
}
TV = {"width": 1920, "height": 1080}
PHONE = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@dataclass
class Evening:
    """An indexed album that is being served, and what was photographed of it for the docs."""

    album: Album
    address: str
    pictures: dict[str, bytes] = field(default_factory=dict)

    def picture(self, page: Page, name: str) -> None:
        """Keep what is seen, if that was asked for."""
        if SCREENSHOTS:
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(600)  # pictures fade in
            self.pictures[name] = page.screenshot()

    def number(self, name: str) -> int:
        """The photo of this file name."""
        return next(photo.id for photo in self.album.photos(limit=500).photos if photo.name == f"{name}.jpg")

    def topics_of(self, name: str) -> set[str]:
        return {topic.key for topic in self.album.photo(self.number(name)).topics if topic.present}


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evening]:
    folder = tmp_path_factory.mktemp("newcomer")
    pictures = folder / "Pictures"
    shots = write_library(pictures)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no photo")
    with Album(folder / "data") as album:
        report = album.index([pictures])
        assert report.new == len(shots) and report.unreadable == 1
        with serving(create_app(album)) as address:
            evening = Evening(album, address)
            yield evening
    for name, png in evening.pictures.items():
        write_picture(png, Path(SCREENSHOTS, f"{name}.png"))


def write_picture(png: bytes, path: Path) -> None:
    """Small enough for a repository: 256 colours, and no larger than `LARGEST_PICTURE`."""
    shot = Image.open(BytesIO(png)).convert("RGB")
    for width in (1280, 1120, 960, 800) if shot.width > shot.height else (420, 360, 300):
        small = shot.resize((width, round(shot.height * width / shot.width)), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        small.quantize(256, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LARGEST_PICTURE:
            break
    path.write_bytes(buffer.getvalue())


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_a_newcomers_first_evening(evening: Evening, open_page: OpenPage) -> None:
    """Look, correct a photo by keys, take that back, add a topic from photos, answer a doubt, search, read Chinese."""
    album, address = evening.album, evening.address

    # The photos are there, sorted into topics.
    page = open_page(address, **TV)
    expect(page.locator(".row").first).to_contain_text("Newest")
    for topic in ("Receipts", "Cats"):
        expect(page.locator("h2", has_text=topic)).to_be_visible()
    assert {"receipt", "cat"} <= {topic.key for topic in album.topics() if topic.photos}
    evening.picture(page, "home")

    # One photo is corrected with the keys of a remote alone.
    page.goto(f"{address}/topics/cat")
    press(page, "ArrowRight")
    evening.picture(page, "topic")
    page.locator(f'.tile[data-photo="{evening.number("cat-1")}"]').focus()
    press(page, "Enter")
    expect(page.locator(".verdict", has_text="Cats")).to_contain_text("% sure")
    evening.picture(page, "photo")
    press(page, "Enter")
    expect(page.locator(":focus")).to_have_attribute("data-action", "yes")
    while page.locator(":focus").get_attribute("data-topic") != "cat":
        press(page, "ArrowDown")
    press(page, "ArrowRight")
    expect(page.locator(":focus")).to_have_attribute("data-action", "no")
    press(page, "Enter")
    toast = page.locator("#toast")
    expect(toast).to_contain_text("Learnt: this is not “Cats”")
    assert "cat" not in evening.topics_of("cat-1")
    expect(page.locator(".panel")).to_contain_text("You said that it is not: Cats")

    # It was right after all.
    press(page, "u")
    expect(toast).to_contain_text("Taken back")
    expect(page.locator(".verdict", has_text="Cats")).to_contain_text("% sure")
    assert "cat" in evening.topics_of("cat-1")

    # A topic of one's own from two photos; the album finds more of them, and shows what moved.
    page.goto(f"{address}/photos")
    press(page, "s")
    for name in ("motorcycle-1", "motorcycle-2"):
        page.locator(f'.tile[data-photo="{evening.number(name)}"]').focus()
        press(page, "Enter")
    page.get_by_role("button", name="They show…").click()
    page.get_by_role("button", name="New topic…").click()
    page.keyboard.type("Grandpa's motorcycle")
    press(page, "Enter")
    expect(toast).to_contain_text("New topic: “Grandpa's motorcycle”")
    expect(toast.locator(".moved-photo").first).to_be_visible()
    evening.picture(page, "new-topic")
    found = {photo.name for photo in album.photos(topic="Grandpa's motorcycle").photos}
    assert found >= {"motorcycle-1.jpg", "motorcycle-2.jpg", "motorcycle-3.jpg"} and len(found) < 20
    page.get_by_role("link", name="Show it").click()
    expect(page.locator("h1")).to_have_text("Grandpa's motorcycle")
    expect(page.locator(".tile")).to_have_count(len(found))

    # What is said of three photos moves the fourth like them; the album shows that.
    assert "portrait" not in evening.topics_of("astronaut-4")
    page.goto(f"{address}/photos")
    press(page, "s")
    for name in ("astronaut-1", "astronaut-2", "astronaut-3"):
        page.locator(f'.tile[data-photo="{evening.number(name)}"]').focus()
        press(page, "Enter")
    evening.picture(page, "select")
    page.get_by_role("button", name="They show…").click()
    page.get_by_role("button", name="Portraits").click()
    expect(toast).to_contain_text("Learnt: 3 photos are “Portraits”")
    expect(toast).to_contain_text("moved as well")
    expect(toast.locator(".moved-photo", has_text="now Portraits").first).to_be_visible()
    assert "portrait" in evening.topics_of("astronaut-4")
    evening.picture(page, "moved")

    # A doubt is answered with one key.
    page.goto(f"{address}/doubts")
    question = page.locator(".doubt:not([hidden])")
    expect(question.locator("h1")).to_contain_text("Is this “")
    evening.picture(page, "doubts")
    number, topic = int(question.get_attribute("data-photo") or 0), question.get_attribute("data-topic") or ""
    subject = album.photo(number).name.split("-")[0]
    true = topic in TRUE_TOPICS.get(subject, ())
    press(page, "y" if true else "n")
    expect(toast).to_contain_text("Learnt: this is “" if true else "Learnt: this is not “")
    assert (topic in {entry.key for entry in album.photo(number).topics if entry.present}) is true
    assert (number, topic) not in {(doubt.photo.id, doubt.topic) for doubt in album.doubts(100)}

    # Search.
    page.goto(f"{address}/search")
    page.keyboard.type("coffee")
    press(page, "Enter")
    page.wait_for_url("**/search?text=coffee**")
    expect(page.locator(".tile")).to_have_count(6)
    evening.picture(page, "search")

    # The file that could not be read is told, with a reason.
    page.goto(f"{address}/problems")
    expect(page.locator(".entry")).to_contain_text("broken.jpg")

    # All of it stands in the history, and in Chinese.
    page.goto(f"{address}/history")
    expect(page.locator(".entry")).to_have_count(4)
    page.get_by_role("link", name="中文").click()
    expect(page.locator("h1")).to_have_text("历史")
    page.goto(address)
    expect(page.locator("h2", has_text="猫")).to_be_visible()
    evening.picture(page, "home-zh")


def test_on_a_phone(evening: Evening, open_page: OpenPage) -> None:
    page = open_page(evening.address, **PHONE)
    expect(page.locator("h2", has_text="Cats")).to_be_visible()
    evening.picture(page, "phone")
    number = next(  # of which nobody has said anything yet, whatever was answered before
        photo.id
        for photo in evening.album.photos(topic="cat").photos
        if all(topic.source == "automatic" for topic in photo.topics)
    )
    page.goto(f"{evening.address}/photos/{number}?topic=cat")
    page.locator(".verdict", has_text="Cats").locator("[data-action=yes]").tap()
    expect(page.locator("#toast")).to_contain_text("Learnt: this is “Cats”")
    expect(page.locator(".verdict", has_text="Cats")).to_contain_text("You said so")
    page.locator("#toast").get_by_role("button", name="Undo").tap()
    expect(page.locator(".verdict", has_text="Cats")).to_contain_text("% sure")

    chinese = open_page(f"{evening.address}/photos/{evening.number('cat-1')}", locale="zh-CN", **PHONE)
    expect(chinese.locator(".verdict", has_text="猫")).to_be_visible()
    evening.picture(chinese, "phone-zh")


def test_what_the_album_has_learnt(evening: Evening, open_page: OpenPage) -> None:
    """Questions are answered truly; then the page tells how it went, in both languages."""
    album = evening.album
    if album.learnt().answers < 10:
        for doubt in album.doubts(12):
            true = TRUE_TOPICS.get(doubt.photo.name.split("-")[0].removesuffix(".jpg"), [])
            album.answer_doubt(doubt.photo.id, doubt.topic, "yes" if doubt.topic in true else "no")
    page = open_page(f"{evening.address}/learnt", **TV)
    expect(page.locator("h1")).to_have_text("What I have learnt")
    learnt = album.learnt()
    expect(page.locator("svg .dot-of-line")).to_have_count(len(learnt.curve))
    assert learnt.answers >= 10 and len(learnt.curve) >= 2
    expect(page.get_by_role("button", name="Take back").first).to_be_visible()
    evening.picture(page, "learnt")
    chinese = open_page(f"{evening.address}/learnt", locale="zh-CN", **PHONE)
    expect(chinese.locator("h1")).to_have_text("我学到了什么")
    evening.picture(chinese, "learnt-zh")
