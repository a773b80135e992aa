"""PyTorch weights (`torch.save` of a state dict; zip files and the older stream of pickles) without PyTorch.

Names and sizes come from a pickle that is read as data (`pickle_data`); the numbers are views of the mapped file.
`homespun.zoo.pretrained` turns the result into a network's parameters.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from homespun.errors import FormatError
from homespun.formats.pickle_data import Builder, PickleData
from homespun.graph import Array

#: Sections that training scripts put a state dict into.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "params")
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
#: dtype names -> how NumPy holds the raw values.
_RAW = {
    **{d: d for d in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")},
    **{d: d for d in ("uint16", "uint32", "uint64")},
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
}
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGEST_PICKLE = 64 * 2**20
_LARGEST_DIRECTORY = 16 * 2**20
_END_OF_DIRECTORY = b"PK\x05\x06"
_END_OF_DIRECTORY_64 = b"PK\x06\x06"


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file, by key; `begin` and `count` in elements where only a part is meant."""

    dtype: str
    key: str
    count: int
    begin: int = 0


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, Array]:
    """Tensors by name, in the file's order; bfloat16 and float8 become float32, other dtypes stay.

    Arrays are views of the mapped file wherever nothing needs converting; writing to them does not change the file.
    A file that holds more than a state dict (a training checkpoint) is searched for the one section that has tensors,
    or `entry` names it.
    Raises `FormatError`, naming file and place, for anything that is not such a file; no code in it is ever run.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise FormatError(f"{path}: the file is empty")
    with path.open("rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    read = _read_zip if mapped[:4] == b"PK\x03\x04" else _read_stream
    content = read(str(path), mapped)
    state = _state_dict_in(str(path), content.value, entry)
    return {name: _array(f"{path}: tensor {name!r}", t, content, size) for name, t in state.items()}


def _state_dict_in(file: str, content: Any, entry: str | None) -> dict[str, _Tensor]:
    """The names and tensors of a state dict, found one level down if need be."""
    if type(content) is not dict:
        raise FormatError(f"{file}: holds no state dict; save one with torch.save(model.state_dict(), ...)")
    if entry is not None:
        if type(content.get(entry)) is not dict:
            raise FormatError(f"{file}: has no section {entry!r}")
        return _tensors(content[entry])
    if _tensors(content):
        return _tensors(content)
    sections = [k for k, v in content.items() if type(k) is str and type(v) is dict and _tensors(v)]
    known = [k for k in _ENTRIES if k in sections]
    if not known and len(sections) != 1:
        found = f"several sections have tensors: {', '.join(sections)}; name one" if sections else "no tensors in it"
        raise FormatError(f"{file}: {found}")
    return _tensors(content[(known or sections)[0]])


def _tensors(section: dict[Any, Any]) -> dict[str, _Tensor]:
    return {k: v for k, v in section.items() if type(k) is str and type(v) is _Tensor}


# -- the pickle's vocabulary --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DType:
    name: str


def _tensor_of(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _make_tensor(storage, offset, size, stride, None)


def _tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> _Tensor:
    return _make_tensor(storage, offset, size, stride, dtype)


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> _Tensor:
    shapes = type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= 32
    if type(storage) is not _Storage or not shapes or not all(type(n) is int for n in (offset, *size, *stride)):
        raise TypeError("a tensor from something else than a storage, an offset, sizes and strides")
    if dtype is not None and type(dtype) is not _DType:
        raise TypeError("a tensor of an unknown dtype")
    return _Tensor(storage, dtype.name if dtype else storage.dtype, offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Builder(lambda: {}),
    ("torch._utils", "_rebuild_tensor"): Builder(_tensor_of),
    ("torch._utils", "_rebuild_tensor_v2"): Builder(_tensor_of),
    ("torch._utils", "_rebuild_tensor_v3"): Builder(_tensor_of_dtype),
    ("torch._utils", "_rebuild_parameter"): Builder(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): Builder(_first),
    ("torch.nn.parameter", "Parameter"): Builder(_first),
    ("torch", "Size"): Builder(_first),
    ("torch", "device"): Builder(_first),
    **{("torch", name): _Storage(dtype, "", 0) for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _Storage("uint8", "", 0),
    **{("torch", name): _DType(name) for name in _RAW},
}


class _Vocabulary:
    """Reads the pickles of one file and remembers the dtype of each storage that they name."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.dtypes: dict[str, str] = {}

    def unpickle(self, place: str, stream: IO[bytes]) -> Any:
        """The data of the pickle at the stream's position."""
        return PickleData(f"{self.file}: {place}", _NAMES, self._storage).read(stream)

    def _storage(self, pid: Any) -> _Storage:
        """What a persistent id stands for: ("storage", class, key, device, count) and, in old files, a part of it."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise FormatError(f"{self.file}: a persistent id that names no storage; refused")
        _, kind, key, _, count, *view = pid
        if type(kind) is not _Storage or type(key) is not str or type(count) is not int or count < 0:
            raise FormatError(f"{self.file}: a storage without class, key or size")
        if self.dtypes.setdefault(key, kind.dtype) != kind.dtype:
            raise FormatError(f"{self.file}: storage {key!r} has two dtypes")
        if not view or view[0] is None:
            return _Storage(kind.dtype, key, count)
        part = view[0]
        if type(part) is not tuple or len(part) != 3 or not all(type(n) is int and n >= 0 for n in part[1:]):
            raise FormatError(f"{self.file}: storage {key!r}: a view of it that has no begin and size")
        return _Storage(kind.dtype, key, part[2], part[1])


# -- the two containers: both give the pickled content and the bytes of each storage ----------------------------------


@dataclass(frozen=True)
class _Content:
    value: Any
    storages: dict[str, Array]
    big_endian: bool = False


def _read_stream(file: str, mapped: mmap.mmap) -> _Content:
    """Before PyTorch 1.6: five pickles (magic, protocol, system, content, storage keys), then the storages in turn."""
    words = _Vocabulary(file)
    stream = cast(IO[bytes], mapped)
    try:
        magic = words.unpickle("header", stream)
    except FormatError:
        magic = None
    if type(magic) is not int or magic != _MAGIC:
        raise FormatError(f"{file}: is neither a zip file nor begins as a PyTorch file; not weights, or truncated")
    if words.unpickle("header", stream) != _PROTOCOL:
        raise FormatError(f"{file}: header: the protocol version is not {_PROTOCOL}")
    system = words.unpickle("header", stream)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError(f"{file}: header: written in another byte order; save it anew with PyTorch 1.6 or later")
    value = words.unpickle("state dict", stream)
    keys = words.unpickle("storage keys", stream)
    storages: dict[str, Array] = {}
    at, size = mapped.tell(), len(mapped)
    for key in keys if type(keys) is list else [None]:
        place = f"{file}: storage {key!r}" if type(key) is str else f"{file}: storage keys"
        if type(key) is not str or key in storages or key not in words.dtypes:
            raise FormatError(f"{place}: is no name, or is listed twice, or is used by no tensor")
        if size - at < 8:
            raise FormatError(f"{place}: begins at byte {at}, where the file ends; it is truncated")
        (count,) = struct.unpack_from("<q", mapped, at)
        length = count * np.dtype(_RAW[words.dtypes[key]]).itemsize
        if not 0 <= length <= size - at - 8:
            raise FormatError(f"{place}: {count} elements at byte {at} are more than the file has; it is truncated")
        storages[key] = np.frombuffer(mapped, np.uint8, length, at + 8)
        at += 8 + length
    return _Content(value, storages)


def _read_zip(file: str, mapped: mmap.mmap) -> _Content:
    """Since PyTorch 1.6: a zip file without compression; `data.pkl`, and one member for each storage."""
    _check_directory(file, mapped)
    try:
        with zipfile.ZipFile(cast(IO[bytes], mapped)) as archive:
            members = {m.filename: m for m in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise FormatError(f"{file}: zip directory: a member is listed twice")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as e:
        raise FormatError(f"{file}: zip directory: {e}; the file is damaged or truncated") from None
    for name in members:
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name:
            raise FormatError(f"{file}: member {name[:80]!r} points outside of the file; refused")
    pickles = [n for n in members if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError(f"{file}: has {len(pickles)} members data.pkl, expected one; not written by torch.save")
    root = pickles[0].removesuffix("data.pkl")
    pickle = _member(file, mapped, members[pickles[0]])
    if pickle.size > _LARGEST_PICKLE:
        raise FormatError(f"{file}: {pickles[0]}: {pickle.size} bytes are more than a state dict needs")
    words = _Vocabulary(file)
    value = words.unpickle(pickles[0], io.BytesIO(pickle.tobytes()))
    order = members.get(f"{root}byteorder")
    big = order is not None and _member(file, mapped, order)[:16].tobytes() == b"big"
    storages: dict[str, Array] = {}
    for key in words.dtypes:
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise FormatError(f"{file}: has no member {root}data/{key[:80]}, which a tensor needs")
        storages[key] = _member(file, mapped, member)
    return _Content(value, storages, big)


def _check_directory(file: str, mapped: mmap.mmap) -> None:
    """Refuse a zip directory that would take much memory, before `zipfile` builds it."""
    end = mapped.rfind(_END_OF_DIRECTORY, max(0, len(mapped) - 65557))
    if end < 0 or len(mapped) - end < 22:
        raise FormatError(f"{file}: zip directory: the end of it is missing; the file is truncated")
    (size,) = struct.unpack_from("<L", mapped, end + 12)
    if size == 0xFFFFFFFF:
        end = mapped.rfind(_END_OF_DIRECTORY_64, 0, end)
        size = struct.unpack_from("<Q", mapped, end + 40)[0] if end >= 0 and len(mapped) - end >= 56 else 0
    if size > _LARGEST_DIRECTORY:
        raise FormatError(f"{file}: zip directory: {size} bytes are more than weights need")


def _member(file: str, mapped: mmap.mmap, member: zipfile.ZipInfo) -> Array:
    """The bytes of a member, as a view; their checksum is verified."""
    place = f"{file}: member {member.filename[:80]!r}"
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise FormatError(f"{place}: is compressed or encrypted; torch.save writes neither")
    at = member.header_offset
    if not 0 <= at <= len(mapped) - 30 or mapped[at : at + 4] != b"PK\x03\x04":
        raise FormatError(f"{place}: has no header at byte {at}; the file is damaged")
    name_length, extra_length = struct.unpack_from("<HH", mapped, at + 26)
    begin = at + 30 + name_length + extra_length
    if member.file_size != member.compress_size or not 0 <= member.file_size <= len(mapped) - begin:
        raise FormatError(f"{place}: {member.file_size} bytes at byte {begin} are more than the file has")
    data = np.frombuffer(mapped, np.uint8, member.file_size, begin)
    if zlib.crc32(data.data) != member.CRC:
        raise FormatError(f"{place}: its checksum is wrong; the file is damaged (or was saved without checksums)")
    return data


# -- numbers ----------------------------------------------------------------------------------------------------------


def _array(place: str, tensor: _Tensor, content: _Content, file_size: int) -> Array:
    """A tensor's values, after checking that it stays inside its storage."""
    storage, raw = tensor.storage, np.dtype(_RAW[tensor.dtype])
    data = content.storages.get(storage.key)
    if data is None:
        raise FormatError(f"{place}: its storage {storage.key[:80]!r} is not in the file")
    if content.big_endian:
        raw = raw.newbyteorder(">")
    unit = np.dtype(_RAW[storage.dtype]).itemsize
    data = data[storage.begin * unit :]
    if data.size < storage.count * unit:
        raise FormatError(f"{place}: {storage.count} elements are more than its storage {storage.key[:80]!r} has")
    values = data[: storage.count * unit // raw.itemsize * raw.itemsize].view(raw)
    last, elements = tensor.offset, 1
    for n, step in zip(tensor.shape, tensor.stride, strict=True):
        if n < 0 or step < 0:
            raise FormatError(f"{place}: negative sizes or strides")
        last += (n - 1) * step
        elements *= n
    if elements * raw.itemsize > max(file_size, 2**20):
        raise FormatError(f"{place}: claims {elements} elements, more than the whole file has")
    if elements == 0:
        return np.zeros(tensor.shape, np.float32 if tensor.dtype in _WIDENED else raw)
    if not 0 <= tensor.offset <= last < values.size:
        raise FormatError(f"{place}: reaches to element {last} of a storage of {values.size}")
    strides = tuple(step * raw.itemsize for step in tensor.stride)
    view: Array = np.ndarray(tensor.shape, raw, values, tensor.offset * raw.itemsize, strides)
    if content.big_endian:
        view = view.astype(raw.newbyteorder("="))
    if tensor.dtype in _WIDENED:
        return _WIDENED[tensor.dtype](view)
    if tensor.dtype == "bool":
        return np.not_equal(view.view(np.uint8), 0)
    return view


def _widen_bfloat16(raw: Array) -> Array:
    return (raw.astype(np.uint32) << 16).view(np.float32)


def _widen_float8(exponent_bits: int, infinities: bool) -> Callable[[Array], Array]:
    """Table look-up for the two 8-bit formats of Micikevicius et al. 2022, "FP8 formats for deep learning"."""
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(256)
    exponent, mantissa = (codes & 127) >> mantissa_bits, codes & (2**mantissa_bits - 1)
    fraction = mantissa / 2.0**mantissa_bits
    table = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if infinities:
        top = exponent == 2**exponent_bits - 1
        table[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    else:
        table[(codes & 127) == 127] = np.nan
    signed = np.where(codes >= 128, -table, table).astype(np.float32)
    return lambda raw: signed[raw]


_WIDENED: dict[str, Callable[[Array], Array]] = {
    "bfloat16": _widen_bfloat16,
    "float8_e4m3fn": _widen_float8(4, infinities=False),
    "float8_e5m2": _widen_float8(5, infinities=True),
}
