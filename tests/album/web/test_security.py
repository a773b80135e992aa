"""What must stay hidden and what must be refused. docs/security.md makes these promises in words."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from homespun.album.model import Change, PhotoTopic
from homespun.album.web.app import create_app
from homespun.album.web.security import ANY_ADDRESS, LOOPBACK_HOSTS, hosts_for

from .conftest import make_app
from .fake_album import FakeAlbum, make_photo

CORRECTION = {"photo_ids": [3], "negative": ["cats"]}
PAGES = ["/", "/photos", "/topics/food", "/topics", "/search?text=photo", "/photos/3", "/doubts", "/history", "/status"]
PAGES += ["/problems", "/api/docs"]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}&lt;"


# Host: DNS rebinding


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8642", "[::1]:8642", "LOCALHOST:1", "localhost."])
def test_answers_to_loopback_names(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "",
        "a@localhost",
        "localhost/x",
        "localhost:x",
        "127.0.0.1,a",
    ],
)
def test_does_not_answer_to_other_names(client: TestClient, album: FakeAlbum, host: str) -> None:
    for path in ("/", "/api/v1/status", "/static/album.css", "/api/v1/photos/3/thumbnail"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/api/v1/corrections", json=CORRECTION, headers={"host": host}).status_code == 421
    assert album.log == []


def test_hosts_for_a_bind_address() -> None:
    assert hosts_for("127.0.0.1") == LOOPBACK_HOSTS
    assert "tv.home" in hosts_for("127.0.0.1", ["TV.home"])
    assert "192.168.1.5" in hosts_for("192.168.1.5")
    assert ANY_ADDRESS not in hosts_for("192.168.1.5")
    assert ANY_ADDRESS in hosts_for("0.0.0.0") and ANY_ADDRESS in hosts_for("::")


def test_on_all_addresses_any_address_but_no_other_name(album: FakeAlbum) -> None:
    client = TestClient(make_app(album, allowed_hosts=hosts_for("0.0.0.0")), base_url="http://localhost")
    for host, status in (("192.168.1.5:8642", 200), ("[fe80::1]:8642", 200), ("evil.example", 421)):
        assert client.get("/api/v1/status", headers={"host": host}).status_code == status


# Origin: requests forged by other pages


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
        {"origin": "http://["},
    ],
)
def test_changes_from_other_pages_are_refused(client: TestClient, album: FakeAlbum, headers: dict[str, str]) -> None:
    for method, path, body in (
        ("POST", "/api/v1/corrections", CORRECTION),
        ("PATCH", "/api/v1/topics/food", {"hidden": True}),
        ("DELETE", "/api/v1/topics/food", None),
    ):
        assert client.request(method, path, json=body, headers=headers).status_code == 403
    assert album.log == [] and album.hidden == set()


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://localhost"}, {"origin": "http://localhost", "sec-fetch-site": "same-origin"}]
)
def test_changes_from_own_pages_and_programs_are_made(
    client: TestClient, album: FakeAlbum, headers: dict[str, str]
) -> None:
    assert client.post("/api/v1/corrections", json=CORRECTION, headers=headers).status_code == 200
    assert len(album.log) == 1


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_could_send_is_refused(client: TestClient, album: FakeAlbum, media_type: str) -> None:
    """Even without Origin, as from a browser of 2016."""
    body = '{"photo_ids": [3], "none": true}'
    answer = client.post("/api/v1/corrections", content=body, headers={"content-type": media_type})
    assert answer.status_code == 415
    assert album.log == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_may_link_here_but_show_no_part(client: TestClient, site: str) -> None:
    for path in ("/api/v1/photos/3/thumbnail", "/api/v1/photos", "/static/core.js", "/photos/3"):
        for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe")):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
            assert client.get(path, headers=headers).status_code == 403
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/photos/3", headers=headers).status_code == 200


def test_no_other_origin_may_read(client: TestClient) -> None:
    answer = client.options(
        "/api/v1/corrections",
        headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
    )
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_reading_never_changes_anything(album: FakeAlbum, client: TestClient) -> None:
    """Every GET, on every route: no change may be in the log, nothing may be indexed."""
    for route in _routes(make_app(album)):
        if "GET" in route.methods:
            path = (
                re.sub(r"\{(photo_id|change_id)\}", "3", route.path).replace("{key}", "food").replace("{chosen}", "en")
            )
            client.get(path, follow_redirects=False)
    assert album.log == []
    assert not [call for call in album.calls if call[0] in ("index", "answer")]


def _routes(app: object) -> Iterator[APIRoute]:
    pending = list(app.routes)  # type: ignore[attr-defined]
    found = 0
    while pending:
        route = pending.pop()
        if isinstance(route, APIRoute):
            found += 1
            yield route
        else:
            pending += list(getattr(getattr(route, "original_router", None), "routes", []))
    assert found > 30


# Sizes


def test_large_bodies_are_refused(client: TestClient, album: FakeAlbum) -> None:
    answer = client.post("/api/v1/corrections", json={"photo_ids": [3] * 600_000, "none": True})
    assert answer.status_code == 413
    assert client.post("/api/v1/corrections", json={"photo_ids": [3] * 6000, "none": True}).status_code == 422
    assert album.log == []


def test_bodies_of_unknown_length_are_refused(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"photo_ids": ['
        yield b"3]}"

    answer = client.post("/api/v1/corrections", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 411


# Headers


@pytest.mark.parametrize(
    "path", [*PAGES, "/api/v1/photos", "/api/v1/photos/3/thumbnail", "/static/core.js", "/nothing"]
)
def test_protective_headers_on_everything(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"


def test_protective_headers_on_failures_and_nothing_of_the_inside(client: TestClient, album: FakeAlbum) -> None:
    album.failure = RuntimeError("secret detail in /home/family")
    for path in ("/", "/api/v1/topics"):
        answer = client.get(path)
        assert answer.status_code == 500
        assert "secret" not in answer.text and "Traceback" not in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]


# Nothing from elsewhere


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action", "data-src", "srcset", "poster"):
                self.found.append((tag, name, value or ""))
            if name.startswith("on") or name == "style":
                self.inline.append(f"{tag} {name}")
        if tag == "script" and not dict(attrs).get("src") and dict(attrs).get("type") != "application/json":
            self.inline.append("script")
        if tag == "style":
            self.inline.append("style")


@pytest.mark.parametrize("path", PAGES)
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(client: TestClient, path: str) -> None:
    links = _Links()
    links.feed(client.get(path).text)
    assert links.found
    assert not [link for link in links.found if not re.match(r"/(?!/)|#", link[2])]
    assert links.inline == []


def test_scripts_and_styles_name_no_address() -> None:
    folder = Path(create_app.__code__.co_filename).parent / "static"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w+/|@import|url\(", text), path.name


def test_fastapi_reports_to_nobody(album: FakeAlbum, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer FastAPI exports traces when the environment says so; the album must not."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://nowhere.invalid")
    with TestClient(make_app(album), base_url="http://localhost") as client:  # would fail on that address
        assert client.get("/api/v1/status").status_code == 200


# Files


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/....//app.py",
        "/api/v1/photos/..%2f..%2fetc%2fpasswd/thumbnail",
        "/api/v1/photos/-1/thumbnail",
        "/api/v1/photos/0/preview",
        "/api/v1/photos/99999999999999999999999/thumbnail",
        "/api/v1/photos/3/original",
        "/thumbnails/ab/x.jpg",
        "/album.sqlite3",
        "/docs",
        "/redoc",
        "/openapi.json",
    ],
)
def test_no_file_but_by_photo_number(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text and "import" not in answer.text


def test_the_original_file_is_never_opened(client: TestClient, album: FakeAlbum) -> None:
    """Pictures come from `thumbnail_path` and `render` alone, which leave metadata out."""
    original = album.folder / "original.jpg"
    original.write_bytes(b"GPS 48.2082 inside")
    album.records[3] = make_photo(3, paths=[str(original)])
    for path in ("/photos/3", "/api/v1/photos/3/thumbnail", "/api/v1/photos/3/preview"):
        assert b"GPS 48.2082 inside" not in client.get(path).content


def test_previews_come_in_few_sizes(client: TestClient, album: FakeAlbum) -> None:
    for side in (1, 1000, 1281, 1920, 5000, 100_000):
        assert client.get(f"/api/v1/photos/3/preview?side={side}").status_code == 200
    assert {call[1][1] for call in album.calls if call[0] == "render"} == {1280, 1920, 3840}


# Other people's text


@pytest.fixture
def hostile(album: FakeAlbum) -> FakeAlbum:
    album.names["evil"] = (HOSTILE, HOSTILE)
    album.members["evil"] = {7}
    album.records[7] = make_photo(
        7, name=HOSTILE, paths=[f"/pictures/{HOSTILE}"], place=HOSTILE, place_zh=HOSTILE, camera=HOSTILE, taken=HOSTILE,
        topics=[PhotoTopic("evil", HOSTILE, HOSTILE, 0.5, "automatic", True)],
    )  # fmt: skip
    album.log = [Change(1, "label", [7], ["evil"], HOSTILE, False)]
    return album


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "path", [*PAGES, "/photos/7", "/photos/7?topic=evil", "/topics/evil", f"/search?text={HOSTILE}"]
)
def test_text_from_photos_is_escaped(client: TestClient, hostile: FakeAlbum, path: str, language: str) -> None:
    page = client.get(path, headers={"accept-language": language}).text
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "49" not in re.findall(r"\{\{.*?\}\}|onerror=alert\(2\)>(\d+)", page)
    links = _Links()
    links.feed(page)
    assert links.inline == []


def test_names_that_are_no_unicode_are_shown_somehow(client: TestClient, album: FakeAlbum) -> None:
    album.records[7] = make_photo(7, name="caf\udce9.jpg", paths=["/pictures/caf\udce9/caf\udce9.jpg"], camera="\ud800")
    assert client.get("/photos/7").status_code == 200
    assert client.get("/photos").status_code == 200
