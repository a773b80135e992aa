"""Data out of a pickle without running it: the part of the PyTorch weights reader that faces hostile files.

Python's own unpickler imports and calls what a pickle names. This one knows a short list of opcodes, all of which
build plain data, and a table of names that stand for functions of ours; everything else raises `FormatError`. Nothing
is imported, no attribute is looked up, and memory stays proportional to the bytes read.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

from homespun.errors import FormatError

#: Opcodes of one pickle; a state dict has about thirty for each tensor.
MOST_OPCODES = 1_000_000
_MARK = object()
_PUSH = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARGUMENT = {
    "BININT",
    "BININT1",
    "BININT2",
    "INT",
    "LONG",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_FIXED_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME"}

#: What a name in a pickle stands for: a function of ours, or a value that may be passed to one.
Names = Mapping[tuple[str, str], Any]


class PickleData:
    """A stack machine for one pickle. `names` gives a meaning to globals, `persistent` to persistent ids."""

    def __init__(self, where: str, names: Names, persistent: Callable[[Any], Any]) -> None:
        self.where = where
        self._names, self._persistent = names, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: IO[bytes]) -> Any:
        """The value of the pickle that begins at the stream's position; leaves the stream after it."""
        count, position = 0, 0
        try:
            for opcode, argument, at in pickletools.genops(stream):
                position = at or 0
                count += 1
                if count > MOST_OPCODES:
                    raise FormatError(f"{self.where}: more than {MOST_OPCODES:,} pickle opcodes")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except FormatError as e:
            raise FormatError(f"{e} (pickle opcode at byte {position})") from None
        except (ValueError, TypeError, LookupError) as e:
            # genops met an unknown or truncated opcode, or a step found nothing, or the wrong thing, on the stack
            raise FormatError(f"{self.where}: malformed pickle near byte {position}: {e}") from None
        raise FormatError(f"{self.where}: the pickle does not end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _NOTHING:
            return
        if name in _PUSH:
            stack.append(_PUSH[name])
        elif name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name in _FIXED_TUPLE:
            n = _FIXED_TUPLE[name]
            if len(stack) < n or any(v is _MARK for v in stack[-n:]):
                raise LookupError("a tuple of too few values")
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            items = self._since_mark()
            stack.append({})
            self._set(items)
        elif name == "SETITEM":
            items = [stack.pop(-2), stack.pop()]
            self._set(items)
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "APPEND":
            value = stack.pop()
            self._top(list).append(value)
        elif name == "APPENDS":
            values = self._since_mark()
            self._top(list).extend(values)
        elif name == "GLOBAL":
            stack.append(self._meaning(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            symbol = stack.pop()
            stack.append(self._meaning(stack.pop(), symbol))
        elif name == "REDUCE":
            arguments = stack.pop()
            function = stack.pop()
            if not isinstance(function, Builder) or type(arguments) is not tuple:
                raise FormatError(f"{self.where}: calls something that is not a tensor's constructor; refused")
            stack.append(function.build(*arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of an ordered dict (a state dict's version numbers): not needed
            self._top(dict)
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        else:
            raise FormatError(f"{self.where}: pickle opcode {name} is not one that weights need; refused")

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while at >= 0 and stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise LookupError("no mark on the stack")
        values = stack[at + 1 :]
        del stack[at:]
        return values

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # only flat keys: hashing a deeply nested tuple would overflow the C stack
            if type(key) not in (str, int):
                raise TypeError("a dictionary key that is neither text nor a whole number")
            target[key] = value

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"expected a {kind.__name__} on the stack")
        return self._stack[-1]

    def _meaning(self, module: Any, symbol: Any) -> Any:
        if type(module) is not str or type(symbol) is not str:
            raise TypeError("a global whose name is not text")
        if (module, symbol) not in self._names:
            raise FormatError(
                f"{self.where}: refers to {module[:80]}.{symbol[:80]}, which weights do not need; refused "
                "(where the file comes from, save model.state_dict() alone)"
            )
        return self._names[module, symbol]


class Builder:
    """A function of ours that a pickle may call by a name in the table; wrong arguments raise `TypeError`."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self.build = build
