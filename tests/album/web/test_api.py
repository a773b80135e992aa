"""The REST API: what it answers, what it refuses, and that its document tells the truth."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from homespun.album.errors import LibraryBusyError, StorageFullError
from homespun.errors import OptionError

from .fake_album import FakeAlbum

MISSING = 10**6


def test_photos_are_paged(client: TestClient) -> None:
    page = client.get("/api/v1/photos", params={"topic": "food", "offset": 90, "limit": 20}).json()
    assert page["total"] == 100 and page["offset"] == 90
    assert [photo["id"] for photo in page["photos"]] == list(range(10, 0, -1))


def test_a_photo_and_its_neighbours(client: TestClient) -> None:
    photo = client.get("/api/v1/photos/3").json()
    assert photo["camera"] == "Camera One"
    assert {topic["key"]: topic["present"] for topic in photo["topics"]} == {"food": True, "cats": True}
    around = client.get("/api/v1/photos/4/neighbours", params={"topic": "cats"}).json()
    assert around == {"previous": None, "next": 3, "position": 0, "total": 2}


def test_a_correction_tells_what_moved_and_can_be_undone_in_any_order(client: TestClient, album: FakeAlbum) -> None:
    first = client.post("/api/v1/corrections", json={"photo_ids": [120, 121], "positive": ["cats"]}).json()
    second = client.post("/api/v1/corrections", json={"photo_ids": [3], "none": True}).json()
    assert first["moved_total"] == 1
    assert first["moved"][0] == {
        "photo_id": 1,
        "topic": "cats",
        "before": False,
        "after": True,
        "confidence": 0.8,
        "because": {"photo_id": 120, "topic": "cats", "said": True, "taken_back": False},
    }
    assert album.members["cats"] == {4, 120, 121}
    assert client.post(f"/api/v1/changes/{first['id']}/undo", json={}).json()["undone"] is True
    assert client.post(f"/api/v1/changes/{first['id']}/undo", json={}).status_code == 409
    assert client.post(f"/api/v1/changes/{first['id']}/redo", json={}).json()["undone"] is False
    assert [change["id"] for change in client.get("/api/v1/changes").json()] == [second["id"], first["id"]]


def test_topics_are_added_renamed_hidden_and_removed(client: TestClient, album: FakeAlbum) -> None:
    new = {"name": " Grandma's garden ", "name_zh": "奶奶的花园", "photo_ids": [120]}
    topic = client.post("/api/v1/topics", json=new)
    assert topic.status_code == 201
    key = topic.json()["key"]
    assert topic.json()["name_en"] == "Grandma's garden"
    assert client.post("/api/v1/topics", json=new).status_code == 422
    edited = client.patch(f"/api/v1/topics/{key}", json={"name": "Garden", "hidden": True}).json()
    assert (edited["name_en"], edited["name_zh"], edited["hidden"]) == ("Garden", "奶奶的花园", True)
    assert key not in {topic["key"] for topic in client.get("/api/v1/topics").json()}
    assert key in {topic["key"] for topic in client.get("/api/v1/topics?include_hidden=true").json()}
    assert client.delete(f"/api/v1/topics/{key}").status_code == 200
    assert client.get(f"/api/v1/topics/{key}").status_code == 404
    assert client.delete("/api/v1/topics/food").status_code == 422


def test_doubts_are_answered(client: TestClient, album: FakeAlbum) -> None:
    doubts = client.get("/api/v1/doubts?limit=2").json()
    assert [doubt["photo"]["id"] for doubt in doubts] == [3, 4]
    for doubt, answer in zip(doubts, ("yes", "skip"), strict=True):
        body = {"photo_id": doubt["photo"]["id"], "topic": doubt["topic"], "answer": answer}
        assert client.post("/api/v1/doubts/answers", json=body).status_code == 200
    assert [call[1] for call in album.calls if call[0] == "answer"] == [(3, "cats", "yes"), (4, "cats", "skip")]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/api/v1/photos/{MISSING}", None, 404),
        ("GET", f"/api/v1/photos/{MISSING}/thumbnail", None, 404),
        ("GET", f"/api/v1/photos/{MISSING}/preview", None, 404),
        ("GET", "/api/v1/topics/nothing", None, 404),
        ("GET", "/api/v1/topics/Food", None, 404),  # a name is not a key
        ("GET", "/api/v1/photos?topic=nothing", None, 422),
        ("GET", "/api/v1/photos?date_from=yesterday", None, 422),
        ("GET", "/api/v1/photos?limit=501", None, 422),
        ("GET", "/api/v1/photos?offset=-1", None, 422),
        ("GET", "/api/v1/photos?sort=colour", None, 422),
        ("GET", f"/api/v1/photos?text={'x' * 201}", None, 422),
        ("GET", "/api/v1/nothing", None, 404),
        ("PUT", "/api/v1/photos/3", {}, 405),
        ("POST", "/api/v1/corrections", {"photo_ids": [], "none": True}, 422),
        ("POST", "/api/v1/corrections", {"photo_ids": [0], "none": True}, 422),
        ("POST", "/api/v1/corrections", {"photo_ids": [2**63], "none": True}, 422),
        ("POST", "/api/v1/corrections", {"photo_ids": [3], "postive": ["cats"]}, 422),
        ("POST", "/api/v1/corrections", {"photo_ids": [3], "positive": ["nothing"]}, 422),
        ("POST", "/api/v1/corrections", {"photo_ids": [MISSING], "positive": ["cats"]}, 404),
        ("POST", "/api/v1/topics", {"name": "  ", "photo_ids": [3]}, 422),
        ("POST", "/api/v1/topics", {"name": "x" * 61, "photo_ids": [3]}, 422),
        ("POST", "/api/v1/doubts/answers", {"photo_id": 3, "topic": "cats", "answer": "maybe"}, 422),
        ("POST", "/api/v1/changes/77/undo", {}, 409),
        ("PATCH", "/api/v1/topics/nothing", {"hidden": True}, 404),
    ],
)
def test_refusals_are_problem_documents(client: TestClient, method: str, path: str, body: Any, status: int) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status and answer.json()["title"] and answer.json()["detail"]


def test_what_was_sent_is_not_sent_back(client: TestClient) -> None:
    answer = client.post("/api/v1/doubts/answers", json={"photo_id": 3, "topic": "cats", "answer": "<b>maybe</b>"})
    assert "<b>" not in answer.text
    assert answer.json()["errors"][0]["where"] == ["body", "answer"]


@pytest.mark.parametrize(
    ("failure", "status"), [(StorageFullError("full"), 507), (LibraryBusyError("busy"), 503), (OptionError("no"), 422)]
)
def test_failures_of_the_library(client: TestClient, album: FakeAlbum, failure: Exception, status: int) -> None:
    album.failure = failure
    assert client.get("/api/v1/topics").status_code == status


# Pictures and caches


@pytest.mark.parametrize("kind", ["thumbnail", "preview"])
def test_pictures_are_kept_for_ever_under_their_contents_address(client: TestClient, kind: str) -> None:
    version = f"{3:064x}"[:12]
    pinned = client.get(f"/api/v1/photos/3/{kind}?v={version}")
    assert pinned.headers["content-type"] == "image/jpeg" and pinned.content.startswith(b"\xff\xd8")
    assert "immutable" in pinned.headers["cache-control"] and "private" in pinned.headers["cache-control"]
    for stale in (f"/api/v1/photos/3/{kind}", f"/api/v1/photos/3/{kind}?v=", f"/api/v1/photos/3/{kind}?v=ffffffffffff"):
        assert "no-cache" in client.get(stale).headers["cache-control"]


@pytest.mark.parametrize("kind", ["thumbnail", "preview"])
def test_pictures_that_the_browser_has_are_not_sent_or_made_again(
    client: TestClient, album: FakeAlbum, kind: str
) -> None:
    tag = client.get(f"/api/v1/photos/3/{kind}").headers["etag"]
    album.calls.clear()
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        answer = client.get(f"/api/v1/photos/3/{kind}", headers={"if-none-match": known})
        assert answer.status_code == 304 and answer.content == b"" and answer.headers["etag"] == tag
    assert not [call for call in album.calls if call[0] == "render"]
    assert client.get(f"/api/v1/photos/3/{kind}", headers={"if-none-match": '"other"'}).status_code == 200


def test_sizes_of_one_photo_have_tags_of_their_own(client: TestClient) -> None:
    paths = ("thumbnail", "preview?side=1280", "preview?side=1920")
    assert len({client.get(f"/api/v1/photos/3/{path}").headers["etag"] for path in paths}) == 3


def test_scripts_and_styles_are_kept_for_ever_under_their_contents_address(client: TestClient) -> None:
    assert "no-cache" in client.get("/static/core.js").headers["cache-control"]
    assert "immutable" in client.get("/static/core.js?v=0123").headers["cache-control"]


# The document


def test_every_answer_has_a_type(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    operations = [(p, m, o) for p, methods in document["paths"].items() for m, o in methods.items()]
    assert len(operations) >= 22
    for path, method, operation in operations:
        assert path.startswith("/api/v1/") and operation["summary"] and operation["tags"], path
        success = next(r for status, r in operation["responses"].items() if status.startswith("2"))
        (media_type, content), *_ = success["content"].items()
        assert media_type == "image/jpeg" or content["schema"], (method, path)


def test_the_documentation_page_tells_all_of_it(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    page = client.get("/api/docs").text
    for path, methods in document["paths"].items():
        assert path in page
        assert all(operation["summary"] in page.replace("&#39;", "'") for operation in methods.values())
    assert all(f'id="record-{name}"' in page for name in document["components"]["schemas"])


def test_the_documentation_names_what_the_docs_list(client: TestClient) -> None:
    """docs/web.md has a table of the API; it must have every route, and none that is not there."""
    text = (Path(__file__).parents[3] / "docs" / "web.md").read_text(encoding="utf-8")
    document = client.get("/api/v1/openapi.json").json()
    routes = {f"`{method.upper()} {path}`" for path, methods in document["paths"].items() for method in methods}
    listed = {part for part in routes if part in text}
    assert routes == listed
    assert text.count("/api/v1/") >= len(routes)
