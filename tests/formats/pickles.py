"""Files as `torch.save`, or an attacker, would write them: pickles of names, calls and storages, in a zip file."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np


class Global:
    """Pickles as a bare name of a module."""

    def __init__(self, module: str, name: str) -> None:
        self.text = f"c{module}\n{name}\n".encode()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Persistent:
    """Pickles as a persistent id."""

    def __init__(self, pid: Any) -> None:
        self.pid = pid


def opcodes(value: Any) -> bytes:
    """A pickle (without head and stop) of plain values, names, calls and persistent ids; no memo."""
    match value:
        case Global():
            return value.text
        case Call():
            return opcodes(value.function) + opcodes(value.arguments) + b"R"
        case Persistent():
            return opcodes(value.pid) + b"Q"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
        case _:
            return pickle.dumps(value, protocol=2)[2:-1]


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes({"weight": value}) + b"."


def pickled_state(state: dict[str, Any]) -> bytes:
    return b"\x80\x02" + opcodes(dict(state)) + b"."


def storage(key: Any = "0", count: Any = 1 << 20, kind: str = "FloatStorage", *view: Any) -> Persistent:
    return Persistent(("storage", Global("torch", kind), key, "cpu", count, *view))


def tensor(key: str, *shape: int, offset: Any = 0, stride: Any = None, count: int | None = None) -> Call:
    if stride is None:
        stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    count = int(np.prod(shape)) if count is None else count
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage(key, count), offset, shape, stride, False, Call(Global("collections", "OrderedDict")))


def zipped(data: bytes, members: dict[str, Any], root: str = "net", **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content if isinstance(content, bytes) else content.tobytes())
    return file.getvalue()
