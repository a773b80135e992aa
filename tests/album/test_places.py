"""Coordinates get the name of the city that they lie in or near."""

from __future__ import annotations

import hashlib
import json

import pytest

from homespun.album.places import TABLE, nearest_place

# In a district that has an entry of its own, in a large city's suburb, in a small town, across the date line.
CASES = [
    (47.41, 8.55, "Zürich, Switzerland", "苏黎世, 瑞士"),
    (30.25, 120.15, "Hangzhou, China", "杭州, 中国"),
    (35.68, 139.75, "Tokyo, Japan", "东京, 日本"),
    (40.78, -73.97, "New York City, United States", "纽约, 美国"),
    (46.751, 7.62, "Thun, Switzerland", "图恩, 瑞士"),
    (-18.12, 178.44, "Suva, Fiji", "苏瓦, 斐济"),
    (-17.0, -179.99, "Labasa, Fiji", "Labasa, 斐济"),
]


@pytest.mark.parametrize(("latitude", "longitude", "english", "chinese"), CASES)
def test_nearest_city(latitude, longitude, english, chinese):
    place = nearest_place(latitude, longitude)
    assert (place.name_en, place.name_zh) == (english, chinese)


@pytest.mark.parametrize(
    "where", [(None, None), (None, 3.0), (3.0, None), (91.0, 0.0), (0.0, 181.0), (float("nan"), 0.0)]
)
def test_no_place_for_no_coordinates(where):
    assert nearest_place(*where) is None


def test_far_from_any_city_a_square_is_the_place():
    place = nearest_place(-48.93, -123.41)
    assert place.key == "-48.9,-123.4"
    assert (place.latitude, place.longitude) == (-48.9, -123.4)


def test_the_table_is_the_one_that_was_built():
    checksums = json.loads((TABLE.parent / "checksums.json").read_text())
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() == checksums[TABLE.name]
    assert "GeoNames" in (TABLE.parent / "LICENSES" / "geonames.txt").read_text()
