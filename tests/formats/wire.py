"""Protobuf messages written field by field, right or wrong."""

from __future__ import annotations

import struct


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
