"""Exports: what they hold, how they are written, and that originals stay as they are."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from homespun.album.errors import LibraryError, StorageFullError
from homespun.album.export import CSV_COLUMNS
from homespun.errors import OptionError
from tests.album.small_library import Picture, add, open_album

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@pytest.fixture
def album(tmp_path: Path):
    with open_album(tmp_path / "data") as album:
        album.ids = add(
            album,
            Picture("red", 1, "one.jpg", taken="2020-05-01T12:00:00", latitude=47.38, longitude=8.54),
            Picture("blue", 1, 'odd "name", <b>.jpg', taken="2021-05-01T12:00:00"),
        )
        album.correct(album.ids[1:], positive=["green"], negative=["red"])
        yield album


def test_json_has_everything(album, tmp_path):
    assert album.export(tmp_path / "all.json") == 2
    exported = json.loads((tmp_path / "all.json").read_text())
    assert exported["format"] == 1
    first, second = exported["photos"]
    assert first["paths"] == ["/photos/one.jpg"]
    assert first["place_zh"] == "苏黎世, 瑞士"
    assert [(t["key"], t["source"]) for t in first["topics"]] == [("red", "automatic")]
    assert [(t["key"], t["present"], t["source"]) for t in second["topics"]] == [
        ("green", True, "human"),
        ("red", False, "human"),
    ]


def test_csv_has_a_row_for_each_photo(album, tmp_path):
    assert album.export(tmp_path / "all.csv", "csv") == 2
    with (tmp_path / "all.csv").open(encoding="utf-8-sig", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert list(first) == list(CSV_COLUMNS)
    assert (first["path"], first["topics"], first["topics_zh"], first["confirmed"]) == (
        "/photos/one.jpg",
        "red",
        "红色",
        "",
    )
    name, confidence = first["confidences"].split("=")
    assert name == "red" and 0.5 < float(confidence) <= 1
    assert (second["path"], second["topics"], second["confirmed"], second["rejected"]) == (
        '/photos/odd "name", <b>.jpg',
        "green",
        "green",
        "red",
    )


def test_an_empty_album_exports_an_empty_list(tmp_path):
    with open_album(tmp_path / "data") as album:
        assert album.export(tmp_path / "all.json") == 0
    assert json.loads((tmp_path / "all.json").read_text())["photos"] == []


def test_what_cannot_be_written_is_explained_and_leaves_nothing(album, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="json or csv, not 'xml'"):
        album.export(tmp_path / "all.xml", "xml")
    with pytest.raises(LibraryError, match="No such file or directory"):
        album.export(tmp_path / "missing" / "all.json")
    (tmp_path / "all.json").write_text("the last one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError, match="full"):
        album.export(tmp_path / "all.json")
    assert (tmp_path / "all.json").read_text() == "the last one"
    assert list(tmp_path.glob(".*")) == []


def keywords(sidecar: Path) -> list[str]:
    items = ElementTree.parse(sidecar).getroot().iterfind(f".//{DC}subject/{RDF}Bag/{RDF}li")
    return [item.text or "" for item in items]


def test_sidecars_only_when_asked_for(album, tmp_path):
    album.export(tmp_path / "all.json")
    assert list(tmp_path.rglob("*.xmp")) == []
    album.export(tmp_path / "all.json", sidecars=tmp_path / "sidecars")
    assert keywords(tmp_path / "sidecars" / "photos" / "one.jpg.xmp") == ["Red", "红色"]
    assert keywords(tmp_path / "sidecars" / "photos" / 'odd "name", <b>.jpg.xmp') == ["Green", "绿色"]


def test_names_of_topics_are_escaped(album, tmp_path):
    album.rename_topic("red", "Cats & <dogs>")
    album.export(tmp_path / "all.json", sidecars=tmp_path / "sidecars")
    assert keywords(tmp_path / "sidecars" / "photos" / "one.jpg.xmp") == ["Cats & <dogs>", "红色"]


def test_sidecars_beside_originals_leave_those_and_foreign_sidecars_alone(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    original = photos / "one.jpg"
    original.write_bytes(b"the original")
    stamp = original.stat().st_mtime_ns
    with open_album(tmp_path / "data") as album:
        add(album, Picture("red", 1, os.path.relpath(original, "/photos")))
        album._store._writer.execute("UPDATE file SET path = ?", (os.fsencode(original),))
        album.export(tmp_path / "all.json", sidecars=True)
        assert keywords(photos / "one.jpg.xmp") == ["Red", "红色"]
        album.export(tmp_path / "all.json", sidecars=True)  # our own may be written again
        (photos / "one.jpg.xmp").write_text("<x:xmpmeta by='another program'/>")
        with pytest.raises(LibraryError, match="made by another program"):
            album.export(tmp_path / "all.json", sidecars=True)
        assert "another program" in (photos / "one.jpg.xmp").read_text()
    assert original.read_bytes() == b"the original"
    assert original.stat().st_mtime_ns == stamp
