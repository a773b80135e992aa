"""Which language a visitor gets, and that both say everything."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import homespun.album.web as web
from homespun.album.web.language import LANGUAGES, Speech, choose_language, words

from ..small_library import add_colours, open_album
from .conftest import make_app
from .fake_album import FakeAlbum

FOLDER = Path(web.__file__).parent
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def test_both_languages_say_everything() -> None:
    english, chinese = words("en"), words("zh")
    assert english.keys() == chinese.keys()
    for key in english:
        assert set(PLACEHOLDER.findall(english[key])) == set(PLACEHOLDER.findall(chinese[key])), key
        assert english[key].strip() and chinese[key].strip(), key


def test_chinese_is_chinese() -> None:
    for key, text in words("zh").items():
        rest = PLACEHOLDER.sub("", text)
        assert re.search(r"[\u3000-\u9fff\uff00-\uffef]", rest) or key == "js.indexing_of", key
        # Half-width punctuation after Chinese text is a slip of the keyboard.
        assert not re.search(r"[\u4e00-\u9fff][,:?!;]", rest), key


def used_words() -> set[str]:
    """Keys that pages and scripts ask for; where part of a key is computed, its beginning with a `*`."""
    used = set()
    for path in [*FOLDER.glob("templates/*.html"), *FOLDER.glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"\b(?:t|self)\(\s*f?['\"]([\w.\-{(]+)", text))
        used |= {prefix + "*" for prefix in re.findall(r"\bt\('([\w.]+\.)' ~", text)}
        used |= {key for keys in re.findall(r"\bt\(\s*\"([\w.]+)\" if .*? else \"([\w.]+)\"", text) for key in keys}
    for path in FOLDER.glob("static/*.js"):
        text = path.read_text(encoding="utf-8")
        used |= {f"js.{key}" for key in re.findall(r"\bsay\('(\w+)'", text) if not key.endswith("_")}
        used |= {f"js.{key}*" for key in re.findall(r"\bsay\('(\w+_)' \+", text)}
    return {re.sub(r"\{.*", "*", key) for key in used if not key.endswith(".")}


def test_every_word_that_is_used_exists_and_every_word_that_exists_is_used() -> None:
    known = words("en")
    used = used_words()
    assert len(used) > 100

    def matches(key: str, pattern: str) -> bool:
        if pattern.endswith("*"):
            return key.startswith(pattern[:-1])
        return key in (pattern, f"{pattern}.one", f"{pattern}.other")

    missing = [pattern for pattern in used if not any(matches(key, pattern) for key in known)]
    assert not missing
    # Chosen by an expression rather than written in a call.
    chosen = {"doubts.thinks_yes", "doubts.thinks_no", "js.came", "js.went", "js.offline", "js.failed"}
    unused = [key for key in known if key not in chosen and not any(matches(key, pattern) for pattern in used)]
    assert not unused


def test_every_reason_to_ask_has_words(tmp_path: Path) -> None:
    with open_album(tmp_path) as album:
        add_colours(album)
        reasons = {doubt.reason for doubt in album.doubts(100)}
    assert reasons and {f"doubts.reason.{reason}" for reason in reasons} <= words("en").keys()


@pytest.mark.parametrize(
    ("cookie", "header", "default", "expected"),
    [
        (None, None, None, "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", None, "zh"),
        (None, "en-GB,en;q=0.9,zh;q=0.8", None, "en"),
        (None, "fr,zh-TW;q=0.4,en;q=0.3", None, "zh"),
        (None, "fr;q=0.9", None, "en"),
        (None, "zh;q=0,en;q=0.1", None, "en"),
        (None, "zh;q=nonsense", None, "en"),
        (None, "zh", "en", "en"),
        (None, "en", "zh", "zh"),
        ("zh", "en", "en", "zh"),
        ("en", "zh", "zh", "en"),
        ("xx", "zh", None, "zh"),
        (None, ",;=;q,zh", None, "zh"),
    ],
)
def test_choice_of_language(cookie: str | None, header: str | None, default: str | None, expected: str) -> None:
    assert choose_language(cookie, header, default) == expected  # type: ignore[arg-type]


def test_the_switch_keeps_the_page_and_is_remembered(client: TestClient) -> None:
    page = client.get("/topics/food?from=2021&sort=confidence", headers={"accept-language": "en"})
    assert '<html lang="en">' in page.text
    link = re.search(r'href="(/language/zh[^"]+)"', page.text)
    assert link
    answer = client.get(link[1].replace("&amp;", "&"), follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/topics/food?from=2021&sort=confidence"
    assert 'lang="zh-CN"' in client.get("/topics/food").text


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:x", "\t//a"]
)
def test_the_switch_leads_nowhere_else(client: TestClient, back: str) -> None:
    answer = client.get("/language/en", params={"back": back}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_unknown_languages_are_not_there(client: TestClient) -> None:
    assert client.get("/language/xx", follow_redirects=False).status_code == 404


def test_the_servers_language_wins_over_the_browsers(album: FakeAlbum) -> None:
    client = TestClient(make_app(album, language="zh"), base_url="http://localhost")
    assert 'lang="zh-CN"' in client.get("/", headers={"accept-language": "en"}).text


@pytest.mark.parametrize("language", LANGUAGES)
def test_counts_dates_and_shares(language: str) -> None:
    t = Speech(language)  # type: ignore[arg-type]
    shown = [t("grid.count", n=1), t("grid.count", n=50_000), t.date("2021-06-09T10:30:00"), t.percent(0.9999)]
    expected = {
        "en": ["1 photo", "50,000 photos", "9 June 2021", "99%"],
        "zh": ["1 张照片", "50,000 张照片", "2021年6月9日", "99%"],
    }
    assert shown == expected[language]
    assert t.date("2021-13-01") == "2021-13-01"
    assert t.date(None) == t("photo.no_date")
