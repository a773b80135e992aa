"""Protobuf messages read by a table of their fields: for formats whose schema is small and has no package of its own.

Nothing is believed: lengths are held against the bytes that are there before anything is made of them, and messages may
be neither deeper nor have more fields than networks need. Bytes are views of the file, not copies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from homespun.errors import FormatError

#: Fields of all messages together, and numbers in lists: a large network has some 10,000 nodes of some 20 fields each.
LARGEST_FIELDS = 1_000_000
_DEEPEST = 64
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_ARRAYS: dict[str | None, np.dtype[Any]] = {"floats": np.dtype("<f4"), "doubles": np.dtype("<f8")}
_SINGLE = {"int": 0, "float": 0.0, "double": 0.0, "text": "", "bytes": memoryview(b"")}


class Schema:
    """Fields of a message by number: (name, kind). A kind is "int", "float", "double", "text", "bytes" or a `Schema`,
    in a list where the field is repeated; repeated "floats" and "doubles" become one array."""

    def __init__(self, name: str, fields: Mapping[int, tuple[str, Any]] | None = None) -> None:
        self.name = name
        self.fields: dict[int, tuple[str, Any]] = dict(fields or {})
        self.kinds: dict[str, Any] = {}

    def kind(self, name: str) -> Any:
        """The kind of the field of this name."""
        if not self.kinds:
            self.kinds = dict(self.fields.values())
        return self.kinds[name]


class Message:
    """One message: `message["name"]` is a field's value, or an empty one of its kind (None for an absent message)."""

    __slots__ = ("_schema", "_values")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        kind = self._schema.kind(name)
        if isinstance(kind, str) and kind in _ARRAYS:
            pieces = self._values.get(name, [])
            return np.concatenate(pieces) if pieces else np.zeros(0, _ARRAYS[kind])
        if name in self._values:
            return self._values[name]
        return [] if isinstance(kind, list) else _SINGLE.get(kind) if isinstance(kind, str) else None

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def names(self) -> list[str]:
        """Fields that are given."""
        return list(self._values)

    def put(self, name: str, value: Any, repeated: bool) -> None:
        """Set a field, or append to it; the last of a single field counts."""
        if repeated:
            self._values.setdefault(name, []).append(value)
        else:
            self._values[name] = value

    def extend(self, name: str, values: Any) -> None:
        """Append many to a repeated field."""
        self._values.setdefault(name, []).extend(values)


def read(raw: memoryview, schema: Schema, fail: Callable[[str, str], FormatError]) -> Message:
    """The message that `raw` holds. Raises what `fail(place, what)` makes of the first thing that is wrong."""
    return _Reader(raw, fail).message(schema, 0, len(raw), 0)


class _Reader:
    def __init__(self, raw: memoryview, fail: Callable[[str, str], FormatError]) -> None:
        self.raw, self.fail, self.fields = raw, fail, 0

    def count(self, more: int) -> None:
        self.fields += more
        if self.fields > LARGEST_FIELDS:
            raise self.fail("file", f"it has more than {LARGEST_FIELDS:,} fields; no network does")

    def message(self, schema: Schema, at: int, end: int, depth: int) -> Message:
        if depth > _DEEPEST:
            raise self.fail("file", f"messages are nested more than {_DEEPEST} deep")
        message = Message(schema)
        while at < end:
            self.count(1)
            began = at
            key, at = self.number(at, end)
            name, kind = schema.fields.get(key >> 3, ("", None))
            repeated = isinstance(kind, list) or kind in _ARRAYS
            kind = kind[0] if isinstance(kind, list) else kind
            wire = key & 7
            value: Any
            if wire == _VARINT:
                value, at = self.number(at, end)
                self.expect(kind in ("int", None), began, schema, name)
                value = value - 2**64 if value >= 2**63 else value
            elif wire in (_EIGHT, _FOUR):
                size = 8 if wire == _EIGHT else 4
                if at + size > end:
                    raise self.truncated(at)
                right = ("double", "doubles", None) if wire == _EIGHT else ("float", "floats", None)
                self.expect(kind in right, began, schema, name)
                if kind in _ARRAYS:
                    value = np.frombuffer(self.raw[at : at + size], _ARRAYS[kind])
                else:
                    (value,) = struct.unpack_from("<d" if wire == _EIGHT else "<f", self.raw, at)
                at += size
            elif wire == _BYTES:
                length, at = self.number(at, end)
                if at + length > end:
                    raise self.truncated(at)
                if repeated and kind == "int":
                    message.extend(name, self.packed(at, at + length))
                    at += length
                    continue
                self.expect(kind not in ("int", "float", "double"), began, schema, name)
                value = self.content(kind, at, at + length, depth, name)
                at += length
            else:
                raise self.fail("file", f"byte {began} begins a field of kind {wire}; it is something else, or damaged")
            if kind is not None:
                message.put(name, value, repeated)
        return message

    def content(self, kind: Any, at: int, end: int, depth: int, name: str) -> Any:
        if isinstance(kind, Schema):
            return self.message(kind, at, end, depth + 1)
        if kind in _ARRAYS:
            if (end - at) % _ARRAYS[kind].itemsize:
                raise self.truncated(at)
            return np.frombuffer(self.raw[at:end], _ARRAYS[kind])
        if kind != "text":
            return self.raw[at:end]
        try:
            return str(self.raw[at:end], "utf-8")
        except UnicodeDecodeError:
            raise self.fail("file", f"byte {at}: the {name} there is not UTF-8 text; the file is damaged") from None

    def packed(self, at: int, end: int) -> list[int]:
        values = []
        while at < end:
            self.count(1)
            value, at = self.number(at, end)
            values.append(value - 2**64 if value >= 2**63 else value)
        return values

    def expect(self, right: bool, at: int, schema: Schema, name: str) -> None:
        if not right:
            raise self.fail("file", f"byte {at}: {schema.name}.{name} is stored as something else; the file is damaged")

    def truncated(self, at: int) -> FormatError:
        return self.fail("file", f"it ends in the middle of a field at byte {at}; truncated, or something else")

    def number(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self.raw[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise self.truncated(at)
