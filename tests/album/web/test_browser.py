"""The pages in a real browser over an album in memory: remote control, corrections, endless grids, phones, languages.

Script errors and blocked contents fail every test here (conftest.py).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from homespun.album.web.indexing import Indexing

from .conftest import OpenPage, SharedApp
from .fake_album import FakeAlbum, make_photo
from .test_indexing import progress

pytestmark = pytest.mark.browser


@pytest.fixture
def address(album: FakeAlbum, shared_address: str, shared_app: SharedApp) -> str:
    shared_app[0].album = album
    return shared_address


@pytest.fixture
def indexing(shared_app: SharedApp) -> Indexing:
    return cast(Indexing, shared_app[1].state.indexing)


def focused(page: Page, attribute: str = "data-photo") -> str | None:
    return cast("str | None", page.evaluate("name => document.activeElement.getAttribute(name)", attribute))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


# The remote control


def test_arrows_walk_through_rows_and_ok_opens(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    assert page.evaluate("document.activeElement.textContent") == "Show photos"
    press(page, "ArrowDown")
    assert focused(page) == "150"  # the first of "Newest"
    press(page, "ArrowRight", "ArrowRight", "ArrowLeft")
    assert focused(page) == "149"
    press(page, "ArrowDown")  # the row below, same column
    assert focused(page) == "99"
    box = page.locator(":focus").bounding_box()
    assert box and 0 < box["y"] < 1080 - box["height"]
    press(page, "Enter")
    expect(page).to_have_url(re.compile(r"/photos/99\?topic=food$"))


def test_focus_is_seen(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    press(page, "ArrowDown")
    frame = page.locator(".tile:focus .frame")
    expect(frame).to_have_css("box-shadow", re.compile(r"rgb\(255, 182, 87\)"))
    # A mouse knows where it is.
    page.mouse.move(5, 5)
    page.mouse.down()
    expect(page.locator("body")).to_have_class(re.compile("by-pointer"))


def test_a_row_is_scrolled_to_what_is_focused(open_page: OpenPage, address: str) -> None:
    page = open_page(address)
    press(page, "ArrowDown", *["ArrowRight"] * 20)
    assert page.evaluate("document.activeElement.classList.contains('more')")
    expect(page.locator(":focus")).to_be_in_viewport()


def test_right_stays_in_its_line(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/topics/food")
    assert focused(page) == "100"
    press(page, *["ArrowRight"] * 9)
    assert focused(page) == "96"  # the last of five in the first line
    press(page, "ArrowDown", "ArrowLeft")
    assert focused(page) == "92"


def test_every_link_and_button_of_the_pages_can_be_reached(open_page: OpenPage, address: str) -> None:
    """From the page's beginning, by arrows alone; a search over all moves."""
    page = open_page("about:blank")
    for path in ("/topics/cats", "/doubts", "/topics", "/learnt", "/search?text=photo-15", "/status", "/problems"):
        page.goto(address + path)
        assert page.evaluate(REACH_ALL) == [], path


REACH_ALL = """() => {
  const names = n => n.outerHTML.slice(0, 120);
  const wanted = [...document.querySelectorAll('a[href], button, input')].filter(n => n.offsetWidth && n.tabIndex >= 0
    && n.type !== 'hidden' && !n.classList.contains('skip') && n.dataset.nav !== 'off');
  const seen = new Set(), queue = [document.activeElement === document.body ? wanted[0] : document.activeElement];
  while (queue.length) {
    const from = queue.pop();
    if (seen.has(from)) continue;
    seen.add(from);
    for (const key of [37, 38, 39, 40]) {
      from.focus();
      if (from.setSelectionRange && /text|search/.test(from.type)) from.setSelectionRange(0, 0);
      document.dispatchEvent(new KeyboardEvent('keydown', { keyCode: key, bubbles: true }));
      queue.push(document.activeElement);
    }
  }
  return wanted.filter(n => !seen.has(n)).map(names);
}"""


def test_back_leads_up_one_level_to_where_one_was(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/topics/food")
    press(page, "ArrowDown", "ArrowRight", "Enter")
    page.wait_for_url("**/photos/94?topic=food")
    press(page, "ArrowRight")
    page.wait_for_url("**/photos/93?topic=food")
    press(page, "Escape")
    page.wait_for_url("**/topics/food")
    assert focused(page) == "93"
    press(page, "Escape")
    page.wait_for_url(f"{address}/")


def test_left_and_right_leaf_through_a_topic(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/photos/4?topic=cats")
    press(page, "ArrowLeft", "ArrowRight")
    expect(page.locator(".viewer")).to_have_attribute("data-photo", "3")
    expect(page).to_have_title(re.compile("photo-3"))
    press(page, "ArrowRight", "ArrowLeft")  # it was the last
    expect(page.locator(".viewer")).to_have_attribute("data-photo", "4")


def test_without_the_large_picture_the_small_one_is_shown(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    album.gone.add(3)
    page = open_page(f"{address}/photos/3")
    expect(page.locator("#stage img")).to_have_attribute("src", re.compile("/thumbnail"))
    expect(page.locator("#stage img")).to_have_js_property("naturalWidth", 48)


# Corrections


def test_a_correction_with_the_remote_alone_and_its_undo(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/photos/3")
    press(page, "Enter")  # into the panel
    assert focused(page, "data-action") == "yes"
    press(page, "ArrowRight", "Enter")
    toast = page.locator("#toast")
    expect(toast).to_contain_text("Learnt: this is not “Food”")
    assert 3 not in album.members["food"]
    expect(page.locator(".verdict")).to_have_count(1)
    press(page, "u")
    expect(toast).to_contain_text("Taken back")
    assert album.log[0].undone


def test_the_picker_shows_what_else_moved_with_a_way_back(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/photos/120")
    press(page, "t")
    expect(page.locator("#picker")).to_be_visible()
    press(page, "ArrowRight", "Enter")
    toast = page.locator("#toast")
    expect(toast).to_contain_text("Learnt: this is “Cats”")
    expect(toast).to_contain_text("1 other photo moved as well")
    expect(toast.locator("a.moved-photo")).to_have_attribute("href", "/photos/1")
    expect(toast.locator("a.moved-photo img").first).to_have_js_property("complete", True)
    # And why: the example that speaks for it, in the corner and in words.
    expect(toast.locator("a.moved-photo .example")).to_have_attribute("src", "/api/v1/photos/120/thumbnail")
    why = re.compile("now Cats, because it is like a photo that you said is “Cats”")
    expect(toast.locator("a.moved-photo")).to_have_attribute("aria-label", why)
    # With the remote: down from the last button of the panel into the toast.
    press(page, "Enter", *["ArrowDown"] * 6)
    assert page.evaluate("document.getElementById('toast').contains(document.activeElement)")
    page.locator("#toast [data-action=toast-undo]").focus()
    press(page, "Enter")
    expect(toast).to_contain_text("Taken back")
    assert album.log[0].undone


def test_escape_closes_the_picker_and_keys_stay_inside_it(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/photos/3")
    press(page, "t", *["ArrowDown"] * 9)
    assert page.evaluate("document.getElementById('picker').contains(document.activeElement)")
    press(page, "Escape")
    expect(page.locator("#picker")).to_be_hidden()
    expect(page).to_have_url(f"{address}/photos/3")


def test_none_of_these(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/photos/3")
    page.get_by_role("button", name="None of these").click()
    expect(page.locator("#toast")).to_contain_text("none of the topics")
    assert not [key for key, ids in album.members.items() if 3 in ids]


def test_many_photos_are_corrected_at_once(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/topics/cats")
    press(page, "s", "Enter", "ArrowRight", "Enter")
    expect(page.locator("#selection-count")).to_have_text("2 photos selected")
    press(page, "ArrowRight", "ArrowDown")  # from the last photo of the line to what can be done
    assert focused(page, "data-action") == "not-topic"
    press(page, "Enter")
    expect(page.locator("#toast")).to_contain_text("2 photos are not “Cats”")
    assert album.members["cats"] == set()
    expect(page.locator(".tile")).to_have_count(0)
    expect(page.locator(".heading .facts")).to_have_text("0 photos")
    page.locator("#toast [data-action=toast-undo]").click()
    expect(page.locator("#toast")).to_contain_text("Taken back")


def test_selecting_a_range_with_the_mouse_and_leaving(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/topics/food")
    page.get_by_role("button", name="Select", exact=True).click()
    page.locator(".tile").nth(1).click()
    page.locator(".tile").nth(6).click(modifiers=["Shift"])
    expect(page.locator("#selection-count")).to_have_text("6 photos selected")
    press(page, "Escape")
    expect(page.locator("#selection")).to_be_hidden()
    expect(page).to_have_url(f"{address}/topics/food")


def test_a_new_topic_from_selected_photos(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/topics/unsorted")
    press(page, "s", "Enter", "ArrowRight", "Enter")
    page.get_by_role("button", name="They show…").click()
    page.get_by_role("button", name="New topic…").click()
    press(page, "Enter")
    expect(page.locator("#new-topic .complaint")).to_have_text("Give the topic a name.")
    page.keyboard.type("Food")
    press(page, "Enter")
    expect(page.locator("#new-topic .complaint")).to_contain_text("taken")
    page.get_by_label("Name", exact=True).fill("Grandma's garden")
    page.get_by_label("Name in Chinese").fill("奶奶的花园")
    press(page, "Enter")
    expect(page.locator("#toast")).to_contain_text("New topic: “Grandma's garden”")
    assert album.names["grandma's-garden"] == ("Grandma's garden", "奶奶的花园")
    assert album.members["grandma's-garden"] == {149, 150}
    page.get_by_role("link", name="Show it").click()
    expect(page.locator("h1")).to_have_text("Grandma's garden")


def test_a_new_topic_in_chinese_needs_no_english_name(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/photos/120", locale="zh-CN")
    press(page, "t")
    page.get_by_role("button", name="新主题").click()
    page.keyboard.type("钓鱼")
    press(page, "Enter")
    expect(page.locator("#toast")).to_contain_text("新主题：“钓鱼”")
    assert ("钓鱼", "钓鱼") in album.names.values()


# Doubts


def test_doubts_take_one_key_each(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/doubts")
    for key, number in (("y", 2), ("n", 3)):
        press(page, key)
        expect(page.locator(".doubt:not([hidden]) .kicker")).to_have_text(f"Question {number} of 3")
    press(page, "u")  # the answer before is asked again
    expect(page.locator(".doubt:not([hidden]) .kicker")).to_have_text("Question 2 of 3")
    press(page, "ArrowDown", "ArrowDown", "Enter")  # Yes, No, Don't know
    expect(page.locator(".doubt:not([hidden]) .kicker")).to_have_text("Question 3 of 3")
    press(page, "Enter")  # OK is Yes
    expect(page.locator(".blank h1")).to_have_text("Nothing to check")
    answers = [call[1] for call in album.calls if call[0] == "answer"]
    assert answers == [(3, "cats", "yes"), (4, "cats", "no"), (4, "cats", "skip"), (5, "cats", "yes")]


# Grids


def test_a_grid_grows_while_one_scrolls_and_puts_far_pages_away(
    open_page: OpenPage, album: FakeAlbum, address: str
) -> None:
    album.records.update({number: make_photo(number) for number in range(151, 1201)})
    page = open_page(f"{address}/photos", width=1280, height=700)
    page.evaluate("document.activeElement.blur()")  # what is focused is never put away
    first = page.locator(".page").first
    height = first.bounding_box()["height"]  # type: ignore[index]
    for _ in range(200):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
        if not page.locator("[data-next]").count():
            break
    expect(page.locator('.page[data-offset="1140"]')).to_have_count(1)
    expect(page.locator(".next")).to_have_count(0)
    expect(first).to_have_class(re.compile("away"))
    assert first.bounding_box()["height"] == height  # type: ignore[index]
    assert page.locator(".tile").count() < 600
    page.evaluate("window.scrollTo(0, 0)")
    expect(first.locator(".tile")).to_have_count(60)
    expect(first.locator(".tile").first).to_have_attribute("data-photo", "1200")


def test_pictures_load_lazily_by_each_of_the_three_ways(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    album.records.update({number: make_photo(number) for number in range(151, 400)})
    remove_loading = (
        "Object.defineProperty(HTMLImageElement.prototype, 'loading', {}); delete HTMLImageElement.prototype.loading;"
    )
    for script in ("", remove_loading, remove_loading + "delete window.IntersectionObserver;"):
        page = open_page("about:blank", width=390, height=844)
        requests: list[str] = []
        page.on("request", lambda request, seen=requests: seen.append(request.url))
        page.add_init_script(script)
        page.goto(f"{address}/topics/unsorted")
        expect(page.locator(".tile img").first).to_have_class(re.compile("loaded"))
        thumbnails = {url for url in requests if "/thumbnail" in url}
        assert len(thumbnails) >= 6
        page.evaluate("window.scrollTo(0, 3000)")
        expect(page.locator(".tile img").nth(75)).to_have_class(re.compile("loaded"))


def test_without_scripts_one_can_still_look(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/topics/food", java_script_enabled=False)
    expect(page.locator("noscript img").first).to_be_visible()
    page.get_by_role("link", name="More photos").click()
    expect(page).to_have_url(re.compile(r"offset=60"))
    page.locator(".tile").first.click()
    expect(page.locator(".picture img")).to_have_attribute("src", re.compile("/preview"))


def test_search_by_words(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/search")
    page.keyboard.type("photo-14")
    press(page, "Enter")
    page.wait_for_url("**/search?text=photo-14**")
    expect(page.locator(".tile")).to_have_count(11)


# Topics and history


def test_topics_are_renamed_hidden_and_removed(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    album.names["garden"], album.members["garden"] = ("Garden", "花园"), {120}
    page = open_page(f"{address}/topics")
    page.get_by_role("button", name="Rename Garden").click()
    page.get_by_label("English name").fill("Grandma's garden")
    press(page, "Enter")
    expect(page.locator(".card", has_text="Grandma's garden")).to_have_count(1)
    assert album.names["garden"] == ("Grandma's garden", "花园")
    page.get_by_role("button", name="Hide Cats").click()
    expect(page.locator(".hidden-topic")).to_have_count(1)
    page.get_by_role("button", name="Show Cats again").click()
    expect(page.locator(".hidden-topic")).to_have_count(0)
    page.get_by_role("button", name="Remove Grandma's garden").click()
    press(page, "Escape")
    assert "garden" in album.names
    page.get_by_role("button", name="Remove Grandma's garden").click()
    page.locator("#remove").get_by_role("button", name="Remove").click()
    expect(page.locator(".card")).to_have_count(3)
    assert "garden" not in album.names


def test_history_is_taken_back_in_any_order(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    for number in (10, 11, 12):
        album.correct([number], positive=["space"])
    page = open_page(f"{address}/history")
    page.locator("[data-change='2'] >> text=Take back").click()
    expect(page.locator("li[data-change='2']")).to_have_class(re.compile("undone"))
    expect(page.locator("#toast .moved-photo")).to_be_visible()  # what moved back is shown, too
    page.locator("#toast").get_by_role("button", name="Close").click()
    page.locator("li[data-change='1'] >> text=Take back").click()
    expect(page.locator("li[data-change='1']")).to_have_class(re.compile("undone"))
    assert [change.undone for change in album.log] == [True, True, False]
    page.locator("#toast").get_by_role("button", name="Close").click()
    page.locator("li[data-change='2'] >> text=Put back").click()
    expect(page.locator("li[data-change='2'] >> text=Take back")).to_be_visible()


def test_what_was_learnt_is_shown_and_taken_back(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    album.correct([10], positive=["space"])
    page = open_page(f"{address}/learnt")
    expect(page.locator("svg.curve .dot-of-line")).to_have_count(3)
    heights = [float(dot.get_attribute("cy") or 0) for dot in page.locator("svg.curve .dot-of-line").all()]
    assert heights == sorted(heights, reverse=True)  # 2, 3, 5 of 5 right: it climbs
    now = [float(dot.get_attribute("cy") or 0) for dot in page.locator("svg.curve .dot-again").all()]
    assert [one <= other for one, other in zip(now, heights, strict=True)] == [True] * 3 and now[0] < heights[0]
    expect(page.locator(".legend li")).to_have_count(2)
    expect(page.locator("#main")).to_contain_text("as if you had never told me of them, I have 13 of 15 right: 87%.")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/doubts?topic=cats"
    expect(page.locator(".moves .moved-photo")).to_have_attribute("aria-label", re.compile("now Space, because"))
    page.get_by_role("button", name="Take back").click()
    expect(page.locator("li[data-change='1']")).to_have_class(re.compile("undone"))
    assert album.log[0].undone


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1280, 1920])
def test_the_bar_and_the_page_of_what_was_learnt_fit_every_width(
    open_page: OpenPage, address: str, album: FakeAlbum, width: int
) -> None:
    album.correct([10], positive=["space"])
    for locale in ("en-GB", "zh-CN"):
        page = open_page(f"{address}/learnt", width=width, locale=locale)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('.tabs a span')].filter(n => n.scrollWidth > n.offsetWidth + 1).length"
        assert page.evaluate(cut) == 0


def test_on_a_phone_the_words_of_a_search_have_a_row_and_the_dates_share_one(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/search", width=390)
    words, first, last = (page.locator(f'[name="{name}"]').bounding_box() for name in ("text", "from", "to"))
    assert words and first and last
    assert words["y"] < first["y"] == last["y"] and first["x"] < last["x"]
    assert abs(first["width"] - last["width"]) < 2 and words["width"] > 2 * first["width"]


def test_the_last_refinement_is_shown_switched_and_taken_back(
    open_page: OpenPage, address: str, album: FakeAlbum
) -> None:
    page = open_page(f"{address}/learnt")
    part = page.locator("#refining")
    expect(part).to_contain_text("Before: 70% right")
    expect(part).to_contain_text("After: 80% right")
    switch = part.get_by_role("switch")
    expect(switch).to_have_attribute("aria-checked", "true")
    switch.focus()
    press(page, "Enter")
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(switch).to_be_focused()
    assert not album.refining.on
    press(page, "Enter")
    expect(switch).to_have_attribute("aria-checked", "true")
    part.get_by_role("button", name="Go back to the network before").click()
    expect(part).to_contain_text("You went back to the network before.")
    expect(part.get_by_role("button")).to_have_count(0)


def test_a_refinement_is_begun_watched_stopped_and_gone_on_with(
    open_page: OpenPage, address: str, album: FakeAlbum
) -> None:
    album.refining.labelled = 45
    page = open_page(f"{address}/learnt", locale="zh-CN")
    part, state = page.locator("#refining"), page.locator("#refining-state")
    expect(state).to_be_hidden()
    part.get_by_role("button", name="现在改进").focus()
    press(page, "Enter")
    expect(state).to_contain_text("从中学习，25%")
    expect(part.get_by_role("button", name="先停下改进")).to_be_focused()  # and nothing moved away under the finger
    made_way = album.refining.made_way
    album.refining.doing = {"running": True, "phase": "features", "share": 0.5}
    expect(state).to_contain_text("用新网络查看全部照片，50%")
    album.refining.doing = {"running": True, "paused": True, "phase": "features", "share": 0.5}
    expect(state).to_contain_text("20 秒")
    assert album.refining.made_way == made_way  # watching is not being here, or it would never go on
    press(page, "Enter")
    expect(part.get_by_role("button", name="现在接着改进")).to_be_focused()
    expect(part).to_contain_text("上次改进被中断")
    press(page, "Enter")
    expect(state).to_be_visible()
    album.refining.doing = {}
    expect(state).to_be_hidden()


@pytest.mark.parametrize(
    ("problem", "words"), [("disk full", "the disk is full"), ("failed", "did not come to its end")]
)
def test_why_a_refinement_ended_early_is_told(client: TestClient, album: FakeAlbum, problem: str, words: str) -> None:
    album.refining.doing = {"interrupted": True, "problem": problem}
    text = client.get("/learnt").text
    assert words in text and "Go on refining now" in text
    assert client.get("/learnt", headers={"accept-language": "zh"}).status_code == 200


def test_with_too_few_labels_there_is_no_button_and_the_api_says_why(client: TestClient, album: FakeAlbum) -> None:
    assert "Refine now" not in client.get("/learnt").text
    refused = client.post("/api/v1/refining/run", json={})
    assert (refused.status_code, "refining needs 40" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize("outcome", ["adopted", "kept", "outdated", "rolled back"])
@pytest.mark.parametrize("reason", ["better", "by chance", "not better", "forgets"])
def test_every_end_of_a_refinement_has_words(client: TestClient, album: FakeAlbum, outcome: str, reason: str) -> None:
    assert album.refining.last is not None
    album.refining.last = replace(album.refining.last, outcome=outcome, reason=reason)
    for language in ("en", "zh"):
        assert client.get("/learnt", headers={"accept-language": language}).status_code == 200


def test_before_the_first_refinement_the_page_says_what_is_needed(client: TestClient, album: FakeAlbum) -> None:
    album.refining.last = None
    text = client.get("/learnt").text
    assert "You have spoken of 12 photos; I begin at 40." in text and "Before:" not in text


def test_a_refusal_is_told(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    album.correct([10], positive=["space"])
    page = open_page(f"{address}/history")
    album.undo(1)
    page.get_by_role("button", name="Take back").click()
    expect(page.locator("#toast")).to_have_text(re.compile(r"That was changed already. \(change 1 cannot be undone\)"))
    chinese = open_page(f"{address}/photos/120", locale="zh-CN")
    press(chinese, "t")
    chinese.get_by_role("button", name="新主题").click()
    chinese.keyboard.type("美食")
    press(chinese, "Enter")
    expect(chinese.locator("#new-topic .complaint")).to_have_text("相册无法接受，名称是不是已经用过了？")


# Indexing


def test_indexing_is_seen_live(open_page: OpenPage, address: str, indexing: Indexing, album: FakeAlbum) -> None:
    records = dict(album.records)
    album.records.clear()
    album.members = {key: set() for key in album.members}
    indexing.on_progress(progress(20, 120))
    page = open_page(address)
    expect(page.locator("#live")).to_contain_text("Reading photos: 20 of 120")
    indexing.on_progress(progress(60, 120))
    expect(page.locator("#live")).to_contain_text("60 of 120")
    album.records.update(records)
    indexing.finished()
    expect(page.locator("#live")).to_be_hidden()
    expect(page.locator(".tile").first).to_be_visible()  # the empty home page filled itself


def test_looking_for_new_photos_from_the_status_page(open_page: OpenPage, address: str, album: FakeAlbum) -> None:
    page = open_page(f"{address}/status")
    page.get_by_role("button", name="Look for new photos").click()
    for _ in range(100):
        if ("index", None) in album.calls:
            break
        page.wait_for_timeout(50)
    assert ("index", None) in album.calls
    expect(page.locator("#index-now")).to_be_enabled()


# Phones, and languages


TOUCH = """([selector, kind, x]) => {
  const target = document.querySelector(selector);
  const touch = new Touch({ identifier: 1, target, clientX: x, clientY: 300 });
  const touches = kind === 'touchend' ? [] : [touch];
  target.dispatchEvent(new TouchEvent(kind, { bubbles: true, cancelable: true, touches, changedTouches: [touch] }));
}"""


def test_a_phone_swipes_and_holds(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/photos/4?topic=cats", width=390, height=844, has_touch=True, is_mobile=True)
    page.evaluate(TOUCH, [".stage .picture", "touchstart", 300])
    page.evaluate(TOUCH, [".stage .picture", "touchend", 100])
    expect(page.locator(".viewer")).to_have_attribute("data-photo", "3")
    page.goto(f"{address}/topics/food")
    page.evaluate(TOUCH, [".tile", "touchstart", 50])
    expect(page.locator("#selection-count")).to_have_text("1 photo selected")
    page.evaluate(TOUCH, [".tile", "touchend", 50])
    page.locator(".tile").nth(2).tap()
    expect(page.locator("#selection-count")).to_have_text("2 photos selected")


@pytest.mark.parametrize("width", [390, 1280, 1920])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_no_page_is_wider_than_its_window(open_page: OpenPage, address: str, width: int, locale: str) -> None:
    page = open_page("about:blank", width=width, height=800, locale=locale)
    for path in (
        "/",
        "/photos",
        "/topics/food",
        "/photos/3",
        "/doubts",
        "/topics",
        "/history",
        "/search",
        "/status",
        "/api/docs",
    ):
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path


def test_text_is_large_enough_for_a_sofa(open_page: OpenPage, address: str) -> None:
    """On a TV no text is smaller than 18 pixels of 1080 (about what broadcasters ask for), but for hints."""
    page = open_page("about:blank", width=1920, height=1080)
    for path in ("/", "/photos/3", "/doubts", "/topics", "/status"):
        page.goto(address + path)
        smallest = page.evaluate(
            """() => Math.min(...[...document.querySelectorAll('main *, .bar *')]
              .filter(n => n.offsetWidth && n.tagName !== 'KBD')
              .filter(n => [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim()))
              .map(n => parseFloat(getComputedStyle(n).fontSize)))"""
        )
        assert smallest >= 18, path


def test_the_language_is_switched_where_one_is(open_page: OpenPage, address: str) -> None:
    page = open_page(f"{address}/topics/food?sort=confidence")
    page.get_by_role("link", name="中文").click()
    page.wait_for_url("**/topics/food?sort=confidence")
    expect(page.locator("h1")).to_have_text("美食")
    expect(page.locator(".chip.here").last).to_have_text("最确定在前")
    page.goto(f"{address}/photos/3")
    expect(page.locator(".caption")).to_contain_text("2021年6月4日")
    page.get_by_role("button", name="都不属于").click()
    expect(page.locator("#toast")).to_contain_text("学会了：不属于任何主题")
