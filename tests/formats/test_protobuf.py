"""Protobuf messages by a table of fields: what well-formed bytes give, and that no others are believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import homespun as hs
from homespun.formats import protobuf
from homespun.formats.protobuf import Message, Schema, read
from tests.formats.wire import field, varint

INNER = Schema("Inner", {1: ("number", "int"), 2: ("floats", "floats")})
OUTER = Schema(
    "Outer",
    {
        1: ("name", "text"),
        2: ("parts", [INNER]),
        3: ("part", INNER),
        4: ("sizes", ["int"]),
        5: ("raw", "bytes"),
        6: ("wide", "double"),
    },
)
OUTER.fields[7] = ("deeper", OUTER)


def parse(raw: bytes) -> Message:
    return read(memoryview(raw), OUTER, lambda place, what: hs.FormatError(f"file: {place}: {what}"))


def test_fields_by_name() -> None:
    inner = field(1, -3) + field(2, struct.pack("<3f", 1, 2, 3)) + field(2, 0.5)
    raw = field(1, "née") + field(2, inner) * 2 + field(4, varint(7) + varint(8)) + field(4, 9) + field(5, b"abc")
    message = parse(raw + field(6, struct.pack("<d", 0.25), wire=1) + field(99, "unknown"))
    assert (message["name"], message["sizes"], bytes(message["raw"]), message["wide"]) == (
        "née",
        [7, 8, 9],
        b"abc",
        0.25,
    )
    assert [(p["number"], p["floats"].tolist()) for p in message["parts"]] == [(-3, [1, 2, 3, 0.5])] * 2
    assert message["part"] is None
    assert "part" not in message
    empty = parse(b"")
    assert (empty["name"], empty["parts"], empty["sizes"], bytes(empty["raw"]), empty["wide"]) == ("", [], [], b"", 0)


@pytest.mark.parametrize(
    ("raw", "says"),
    {
        "a length beyond the end": (varint(1 << 3 | 2) + varint(100) + b"abc", "ends in the middle"),
        "a huge length": (varint(1 << 3 | 2) + varint(2**63), "ends in the middle"),
        "half a number": (b"\x20\xff", "ends in the middle"),
        "half a float of a list": (field(2, field(2, b"12345")), "ends in the middle"),
        "half a double": (varint(6 << 3 | 1) + b"abc", "ends in the middle"),
        "a group": (varint(1 << 3 | 3), "begins a field of kind 3"),
        "a number for a text": (field(1, 5), "stored as something else"),
        "a text for a double": (field(6, b"12345678"), "stored as something else"),
        "no text": (field(1, b"\xff\xfe"), "not UTF-8"),
    }.values(),
)
def test_what_is_wrong_is_said(raw: bytes, says: str) -> None:
    with pytest.raises(hs.FormatError, match=says):
        parse(raw)


def test_depth_is_limited() -> None:
    raw = b""
    for _ in range(1000):
        raw = field(7, raw)
    with pytest.raises(hs.FormatError, match="deep"):
        parse(raw)


def test_numbers_of_lists_count_as_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "LARGEST_FIELDS", 1000)
    parse(field(4, b"\1" * 900))
    assert len(parse(field(2, field(2, bytes(40000))))["parts"][0]["floats"]) == 10_000  # a view, whatever its length
    for raw in (field(4, b"\1" * 1000), field(2, field(2, 1.0) * 1000), field(4, 1) * 1001):
        with pytest.raises(hs.FormatError, match="more than 1,000 fields"):
            parse(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_format_error(raw: bytes) -> None:
    try:
        parse(raw)
    except hs.FormatError as e:
        assert str(e).startswith("file: ")
