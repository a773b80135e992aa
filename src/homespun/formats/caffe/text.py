"""Protocol buffers' text format, which `.prototxt` files are written in, read into `Message`s: names, no schema.

Forks of Caffe add layers and fields of their own, so no schema knows them all. Instead a `Message` remembers which of
its fields somebody asked for, and what nobody understood is reported rather than ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

from homespun.errors import FormatError
from homespun.formats.assembly import Unsupported
from homespun.formats.checked import shortened

_DEEPEST = 16
_LONGEST_NUMBER = 64
_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*+)*+(?:
    (?P<word>[A-Za-z_]\w*)
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fF]?|-(?:inf|nan)\b)
    |(?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')
    |(?P<mark>[{}<>\[\]:;,])
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


class Word(str):
    """A value without quotes: the name of an enumeration's entry, `true`, `false`."""


_Kind = TypeVar("_Kind")


class Message:
    """Fields by name. Those that ask for one say what kind it must be; `Unsupported` is raised for another."""

    def __init__(self) -> None:
        self.fields: dict[str, list[Word | str | int | float | Message]] = {}
        self.asked: set[str] = set()
        self._ignored: set[str] = set()

    def unread(self) -> list[str]:
        """Names of fields that nobody asked for, those of messages inside that somebody did ask for included."""
        known = {name: values for name, values in self.fields.items() if name not in self._ignored}
        left = [name for name in known if name not in self.asked]
        for name in self.asked.intersection(known):
            inside = [v for v in known[name] if isinstance(v, Message)]
            left += [f"{name}.{inner}" for message in inside for inner in message.unread()]
        return left

    def has(self, name: str) -> bool:
        """Whether a field is given."""
        return name in self.fields

    def ignore(self, *names: str) -> None:
        """Say of fields that what they hold doesn't matter here."""
        self._ignored.update(names)

    def _all(self, name: str, kind: type[_Kind] | tuple[type[_Kind], ...], what: str) -> list[_Kind]:
        self.asked.add(name)
        found: list[_Kind] = []
        for value in self.fields.get(name, []):
            if not isinstance(value, kind):
                raise Unsupported(f"{name} is {_shown(value)}; {what} can be read")
            found.append(value)
        return found

    def _one(self, name: str, kind: type[_Kind] | tuple[type[_Kind], ...], what: str) -> _Kind | None:
        found = self._all(name, kind, what)
        if len(found) > 1:
            raise Unsupported(f"{name} is given {len(found)} times")
        return found[0] if found else None

    def message(self, name: str) -> Message:
        """A message inside; an empty one where it is not given."""
        found = self._one(name, Message, "a message in braces")
        return Message() if found is None else found

    def messages(self, name: str) -> list[Message]:
        """Messages of a repeated field."""
        return self._all(name, Message, "a message in braces")

    def text(self, name: str, default: str = "") -> str:
        """A text in quotes, or a word."""
        found = self._one(name, str, "a text")
        return default if found is None else found

    def texts(self, name: str) -> list[str]:
        """Texts of a repeated field."""
        return self._all(name, str, "a text")

    def word(self, name: str, default: str, *others: str) -> str:
        """An entry of an enumeration, by its name; `default` and `others` are its entries."""
        found = self._one(name, Word, "a word without quotes")
        if found is not None and found not in (default, *others):
            raise Unsupported(f"{name} is {shortened(str(found))}; {', '.join((default, *others))} can be read")
        return default if found is None else str(found)

    def flag(self, name: str, default: bool) -> bool:
        """true or false, also as t, f, 1, 0."""
        found = self._one(name, (Word, int), "true or false")
        if found is None:
            return default
        if str(found) not in _FLAGS:
            raise Unsupported(f"{name} is {_shown(found)}; true or false can be read")
        return _FLAGS[str(found)]

    def integer(self, name: str, default: int) -> int:
        """A whole number."""
        found = self._one(name, int, "a whole number")
        return default if found is None else found

    def integers(self, name: str) -> list[int]:
        """Whole numbers of a repeated field."""
        return self._all(name, int, "a whole number")

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        found = self._one(name, (int, float), "a number")
        return default if found is None else _finite(name, found)

    def numbers(self, name: str) -> list[float]:
        """Finite numbers of a repeated field."""
        return [_finite(name, v) for v in self._all(name, (int, float), "a number")]


_FLAGS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unsupported(f"{name} is not finite")
    return number


def _shown(value: object) -> str:
    return "a message" if isinstance(value, Message) else shortened(value)


def parse(text: str, fail: Callable[[str, str], FormatError]) -> Message:
    """The message that a whole text is. Raises what `fail(place, what)` makes of the first thing that is wrong."""
    return _Parser(text, fail).run()


class _Parser:
    def __init__(self, text: str, fail: Callable[[str, str], FormatError]) -> None:
        self.text, self._fail = text, fail
        self.at = self.next = 0
        self.kind = self.token = ""
        self.advance()

    def advance(self) -> None:
        """Move to the next token; `kind` and `token` are its."""
        found = _TOKEN.match(self.text, self.next)
        if found is None:
            while self.next < len(self.text) and self.text[self.next].isspace():
                self.next += 1
            self.at = self.next
            raise self.fail(f"{shortened(self.text[self.next : self.next + 20])} can't be read")
        self.kind = found.lastgroup or ""
        self.token = found[self.kind]
        self.at, self.next = found.start(self.kind), found.end()

    def fail(self, what: str) -> FormatError:
        """The error about what stands here."""
        return self._fail(f"line {self.text.count(chr(10), 0, self.at) + 1}", what)

    def takes(self, mark: str) -> bool:
        """Step over a mark, if it stands here."""
        if self.kind != "mark" or self.token != mark:
            return False
        self.advance()
        return True

    def run(self) -> Message:
        """Everything to the end of the text."""
        whole = Message()
        open_ones: list[tuple[Message, str]] = [(whole, "")]
        while True:
            message, closing = open_ones[-1]
            if self.kind == "end":
                if closing:
                    raise self.fail(f"the text ends where {closing!r} is expected; truncated")
                return whole
            if closing and self.takes(closing):
                open_ones.pop()
                _ = self.takes(",") or self.takes(";")
                continue
            if self.kind != "word":
                raise self.fail(f"{shortened(self.token)} stands where a field's name is expected")
            values = message.fields.setdefault(self.token, [])
            self.advance()
            named = self.takes(":")
            closing = {"{": "}", "<": ">"}.get(self.token, "") if self.kind == "mark" else ""
            if closing:
                self.advance()
                if len(open_ones) > _DEEPEST:
                    raise self.fail(f"messages are nested more than {_DEEPEST} deep")
                inside = Message()
                values.append(inside)
                open_ones.append((inside, closing))
                continue
            if not named:
                raise self.fail(f"{shortened(self.token)} stands where ':' or '{{' is expected")
            if self.takes("["):
                while not self.takes("]"):
                    values.append(self.scalar())
                    if not self.takes(",") and self.token != "]":
                        raise self.fail(f"{shortened(self.token)} stands where ',' or ']' is expected")
            else:
                values.append(self.scalar())
            _ = self.takes(",") or self.takes(";")

    def scalar(self) -> Word | str | int | float:
        """A number, a word, or text in quotes, of which there may be several in a row."""
        kind, token = self.kind, self.token
        if kind == "word":
            self.advance()
            return {"inf": math.inf, "nan": math.nan}.get(token.lower(), Word(token))
        if kind == "number":
            value = self.number()
            self.advance()
            return value
        if kind != "string":
            raise self.fail(f"{shortened(token) if token else 'the end'} stands where a value is expected")
        parts = []
        while self.kind == "string":
            parts.append(_ESCAPE.sub(_unescaped, self.token[1:-1]))
            self.advance()
        return "".join(parts)

    def number(self) -> int | float:
        """The number that stands here; whole ones may be hexadecimal or octal."""
        token = self.token
        if len(token) > _LONGEST_NUMBER:
            raise self.fail(f"{shortened(token)} is too long for a number")
        digits = token.lstrip("+-").lower()
        try:
            if digits.startswith("0x"):
                return int(token, 16)
            if digits.isdigit():
                return int(token, 8 if digits.startswith("0") and len(digits) > 1 else 10)
            return float(token.rstrip("fF")) if not digits.endswith("inf") else -math.inf
        except ValueError:
            raise self.fail(f"{shortened(token)} is no number") from None


def _unescaped(found: re.Match[str]) -> str:
    octal, hexadecimal, other = found.groups()
    if other is not None:
        return _ESCAPED.get(other, other)
    return chr(int(octal, 8) if octal is not None else int(hexadecimal, 16))
