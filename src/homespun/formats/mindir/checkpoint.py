"""MindSpore's `.ckpt` files: weights by name, as `save_checkpoint` writes them, without the network.

A file is one protobuf message after the other, each with one tensor or a slice of one; a checksum may follow.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from homespun.errors import FormatError
from homespun.formats.checked import shortened
from homespun.formats.protobuf import Message, Schema, read
from homespun.graph import Array

_TENSOR = Schema("TensorProto", {1: ("dims", ["int"]), 2: ("tensor_type", "text"), 3: ("tensor_content", "bytes")})
_VALUE = Schema("Value", {1: ("tag", "text"), 2: ("tensor", _TENSOR)})
_CHECKPOINT = Schema("Checkpoint", {1: ("value", [_VALUE])})
_DTYPES = {"Float32": "<f4", "Float16": "<f2", "Float64": "<f8", "BFloat16": "<u2", "Bool": "?"}
_DTYPES |= {f"{kind}{bits}": f"<{kind[0].lower()}{bits // 8}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
_MOST_AXES = 32
#: "crc_num" and ten bytes, big-endian, where the file was saved with `crc_check`.
_CHECKSUM = b"crc_num"
_CHECKSUM_LENGTH = len(_CHECKSUM) + 10
#: What training keeps beside weights: moments of optimizers, counters, rates, loss scales.
_NOT_WEIGHTS = re.compile(
    r"(moments?|moment[12]|adam_[mv]|accum|mean_square|mean_gradient|velocity)\."
    r"|(learning_rate|global_step|epoch_num|step_num|batch_num|beta[12]_power|momentum|weight_decay|loss_scale"
    r"|scale_sense|current_iterator_step|last_overflow_iterator_step|random_op_.*)$"
)
_RENAMED = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Tensors by MindSpore's names and in its layout, without what belongs to an optimizer; float kinds as float32.

    Raises `FormatError`, naming file and place, for a file that is wrong, truncated or encrypted.
    """

    def fail(place: str, what: str) -> FormatError:
        return FormatError(f"{path}: {place}: {what}")

    if not path.is_file():
        raise fail("file", "there is no such file")
    size = path.stat().st_size
    raw = np.memmap(path, np.uint8, "r").data if size else memoryview(b"")
    if size > _CHECKSUM_LENGTH and bytes(raw[-_CHECKSUM_LENGTH:-10]) == _CHECKSUM:
        expected = int.from_bytes(raw[-10:], "big")
        raw = raw[:-_CHECKSUM_LENGTH]
        if zlib.crc32(raw) != expected:
            raise fail("file", "its checksum is wrong; the file is damaged")
    try:
        values = read(raw, _CHECKPOINT, fail)["value"]
    except FormatError as e:
        raise FormatError(f"{e} (an encrypted file looks like this too: save it without enc_key)") from None
    if not values:
        raise fail("file", "there are no weights in it; empty, or no checkpoint")
    slices: dict[str, list[Message]] = {}
    for value in values:
        if not _NOT_WEIGHTS.match(value["tag"]):
            slices.setdefault(value["tag"], []).append(value["tensor"])
    return {name: array for name, parts in slices.items() if (array := _joined(name, parts, fail)) is not None}


def read_state_dict(path: Path) -> dict[str, Array]:
    """Like `read_checkpoint`, but by the names that PyTorch has for the same: `gamma` is `weight`, and so on."""
    found: dict[str, Array] = {}
    for name, array in read_checkpoint(path).items():
        stem, dot, last = name.rpartition(".")
        found[f"{stem}{dot}{_RENAMED.get(last, last)}"] = array
    return found


def _joined(name: str, parts: Sequence[Message | None], fail: Callable[[str, str], FormatError]) -> Array | None:
    """One tensor out of its slices; None for what is no tensor of numbers."""
    place = f"tensor {shortened(name)}"
    first = parts[0]
    if first is None or first["tensor_type"] == "str":
        return None
    kind, dims = first["tensor_type"], tuple(first["dims"])
    if any(p is None or p["tensor_type"] != kind or tuple(p["dims"]) != dims for p in parts):
        raise fail(place, "its slices have different shapes or types, or two tensors have the name")
    if kind not in _DTYPES or len(dims) > _MOST_AXES or any(not 0 <= d < 2**31 for d in dims):
        raise fail(place, f"{shortened(kind)} of the shape {shortened(list(dims))} can't be read")
    shape, dtype = () if dims == (0,) else dims, np.dtype(_DTYPES[kind])
    pieces = [p["tensor_content"] for p in parts if p is not None]
    length = sum(len(p) for p in pieces)
    if length != math.prod(shape) * dtype.itemsize:
        raise fail(place, f"has {length} bytes; {kind}{list(shape)} needs another number")
    values = np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), dtype).reshape(shape)
    if kind == "BFloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # what float32 can't hold is found where it is used as a weight
        return values.astype(np.float32) if dtype.kind == "f" and dtype.itemsize != 4 else values
