"""Protobuf messages written field by field, right or wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from homespun.formats.protobuf import Message, Schema, read


def varint(value: int) -> bytes:
    """A number in seven bits a byte; negative ones as 64 bits."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | float | str | bytes, wire: int | None = None) -> bytes:
    """A field: a whole number, a float, a text, bytes with their length; with `wire`, bytes as they are."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    if wire is not None:
        return varint(number << 3 | wire) + value
    return varint(number << 3 | 2) + varint(len(value)) + value


def encode(schema: Schema, values: Mapping[str, Any]) -> bytes:
    """A message by a table of its fields; whatever values there are, in range or not."""
    out = b""
    for number, (name, kind) in schema.fields.items():
        given = values.get(name)
        if given is None:
            continue
        repeated, kind = isinstance(kind, list), kind[0] if isinstance(kind, list) else kind
        if kind in ("floats", "doubles"):
            out += field(number, struct.pack(f"<{len(given)}{'f' if kind == 'floats' else 'd'}", *given))
            continue
        for value in given if repeated else [given]:
            if isinstance(kind, Schema):
                out += field(number, encode(kind, value))
            elif kind == "double":
                out += field(number, struct.pack("<d", value), wire=1)
            else:
                out += field(number, bytes(value) if kind == "bytes" else value)
    return out


def decode(raw: bytes, schema: Schema) -> dict[str, Any]:
    """A message as `encode` takes it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Message):
            return {name: plain(value[name]) for name in value.names()}
        if isinstance(value, list | np.ndarray):
            return [plain(v) for v in (value if isinstance(value, list) else value.tolist())]
        return bytes(value) if isinstance(value, memoryview) else value

    found = plain(read(memoryview(raw), schema, lambda place, what: AssertionError(f"{place}: {what}")))
    assert isinstance(found, dict)
    return found
