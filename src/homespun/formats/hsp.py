"""`.hsp`, Homespun's own format: a safetensors file whose metadata hold the graph. `docs/formats.md` has every byte.

Weights are stored as float32, float16, or 8 bits with a scale for each output channel; the arrays of a loaded graph
are float32 and, where nothing needs converting, views of the mapped file.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file

from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.compression.rounding import as_float16
from homespun.errors import ModelError, OptionError
from homespun.formats import graph_json
from homespun.formats.atomic import replacing
from homespun.formats.checked import shortened
from homespun.graph import Array, Graph, Tensor, check
from homespun.graph.graph import data_of

WEIGHTS = ("float32", "float16", "int8")
#: Key of the graph in the safetensors metadata.
GRAPH_KEY = "homespun"
#: Largest header: real ones have some hundred bytes a node, and a JSON text takes up to twenty times its size to parse.
_LARGEST_HEADER = 16 * 2**20
_STORED_AS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_WEIGHTED = ("conv2d", "linear")


def save(model: Graph, path: str | Path, weights: str = "float32") -> None:
    """Write a model. Replaces `path` whole, or leaves it as it was; raises `OSError` where it can't be written.

    `weights` says how convolution and linear weights are stored: "float32", "float16" (a weight that does not fit its
    range stays float32), or "int8", symmetric with a scale for each output channel, but for weights that are marked to
    stay in 16 bits (`homespun.mixed_precision`). All else keeps its dtype.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"weights is {weights!r}; it can be {', '.join(repr(w) for w in WEIGHTS)}")
    check(model)
    weighted = _weights_of(model)
    small = {"float32": set(), "float16": weighted, "int8": {n for n in weighted if model.tensors[n].half}}[weights]
    codes = quantize_weights(model) if weights == "int8" else {}
    arrays: dict[str, Array] = {}
    storage: dict[str, dict[str, Any]] = {}
    for t in model.with_role("parameter", "state", "constant"):
        data = np.asarray(data_of(t), order="C")
        if t.name == "__metadata__":
            raise ModelError("no tensor can be named '__metadata__' in an .hsp file; rename it")
        if str(data.dtype) not in _STORED_AS.values() or str(data.dtype) != t.dtype or data.shape != t.shape:
            raise ModelError(f"tensor {t.name!r}: {data.dtype}{list(data.shape)} can't be stored as {t.dtype}")
        if t.name in codes:
            scale_name = model.fresh_name(f"{t.name}:scale")
            arrays[t.name], arrays[scale_name] = codes[t.name]
            storage[t.name] = {"stored": "int8", "scale": scale_name}
        elif t.name in small and (halved := as_float16(data)) is not None:
            arrays[t.name] = halved
            storage[t.name] = {"stored": "float16"}
        else:
            arrays[t.name] = data
        if t.half:
            storage.setdefault(t.name, {})["half"] = True
    limits: dict[str, str] = {}
    for t in model.with_role("activation"):
        if t.limit is not None:
            limits[t.name] = model.fresh_name(f"{t.name}:limit")
            arrays[limits[t.name]] = t.limit
    metadata = {GRAPH_KEY: graph_json.dump(model, storage, limits)}
    specs = {
        name: TensorSpec(dtype=a.dtype.name, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in arrays.items()
    }
    with replacing(Path(path)) as partial:
        _serialize(specs, partial, metadata, Path(path))


def _serialize(specs: dict[str, TensorSpec], partial: Path, metadata: dict[str, str], target: Path) -> None:
    """Write a safetensors file. The package has an error of its own for a disk that is full; here it is an `OSError`,
    as that of any other write."""
    try:
        serialize_file(specs, partial, metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found.group(1)) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(target)) from error


def _weights_of(model: Graph) -> set[str]:
    """Float32 arrays that are the weights of a convolution or a linear layer (output channels last)."""
    names = {node.inputs[1] for node in model.nodes if node.op in _WEIGHTED}
    return {n for n in names if model.tensors[n].data is not None and model.tensors[n].dtype == "float32"}


def load(path: str | Path) -> Graph:
    """Read a model. Raises `FormatError`, naming file and place, if the file is not what it should be."""
    file = _File(Path(path))
    return file.graph()


class _File:
    """An open `.hsp`: its header, checked, and its data, mapped."""

    def __init__(self, path: Path) -> None:
        self.reader = graph_json.Reader(str(path))
        size = path.stat().st_size
        if size < 8:
            raise self.reader.fail("header", f"the file has {size} bytes; it is empty or truncated")
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(size - 8, _LARGEST_HEADER):
                limit = "is more than a header may have" if length > _LARGEST_HEADER else "is more than the file has"
                raise self.reader.fail("header", f"its length, {length} bytes, {limit}; not an .hsp file, or truncated")
            header = f.read(length)
        try:
            text = header.decode("utf-8")
        except UnicodeDecodeError as e:
            raise self.reader.fail("header", f"byte {8 + e.start} is not UTF-8; not an .hsp file") from None
        self.entries = self.reader.parse(text, "header")
        metadata = self.reader.field(self.entries, "__metadata__", dict, "header")
        self.text = self.reader.field(metadata, GRAPH_KEY, str, "header: metadata")
        del self.entries["__metadata__"]
        self.start, self.size = 8 + length, size - 8 - length
        self._check_offsets()
        self.data: Array = _mapped(path, self.start, self.size)

    def _check_offsets(self) -> None:
        """The arrays must follow each other without gaps and end where the file ends, as safetensors demands."""
        spans = sorted((self._span(key, entry), key) for key, entry in self.entries.items())
        at = 0
        for (begin, end), key in spans:
            if begin != at:
                raise self.reader.fail(f"array {shortened(key)}", f"begins at byte {begin} of the data, expected {at}")
            at = end
        if at != self.size:
            what = "truncated" if at > self.size else "longer than its header says"
            raise self.reader.fail("data", f"{self.size} bytes, expected {at}; the file is {what}")

    def _span(self, key: str, entry: Any) -> tuple[int, int]:
        place = f"array {shortened(key)}"
        offsets = self.reader.field(entry, "data_offsets", list, place)
        shape = self.reader.field(entry, "shape", list, place)
        stored = self.reader.field(entry, "dtype", str, place)
        if stored not in _STORED_AS:
            raise self.reader.fail(place, f"dtype {shortened(stored)}; it can be {', '.join(_STORED_AS)}")
        if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in (*offsets, *shape)):
            raise self.reader.fail(
                place, f"offsets {shortened(offsets)} and shape {shortened(shape)} are not what they should be"
            )
        expected = np.dtype(_STORED_AS[stored]).itemsize
        for d in shape:
            expected *= d
        if offsets[1] - offsets[0] != expected:
            raise self.reader.fail(place, f"offsets {offsets} hold another number of bytes than {expected}")
        return offsets[0], offsets[1]

    def graph(self) -> Graph:
        """The graph, its arrays attached."""
        used: set[str] = set()

        def take(place: str, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
            entry = self.entries.get(key)
            if entry is None:
                raise self.reader.fail(place, f"the file has no array {shortened(key)}")
            found = (_STORED_AS[entry["dtype"]], tuple(entry["shape"]))
            if found != (dtype, shape):
                raise self.reader.fail(
                    place, f"array {key!r} is {found[0]}{list(found[1])}, expected {dtype}{list(shape)}"
                )
            used.add(key)
            begin, end = entry["data_offsets"]
            return np.require(self.data[begin:end].view(dtype).reshape(shape), requirements="A")

        def data_for(place: str, entry: dict[str, Any], t: Tensor) -> Array:
            stored = entry.get("stored", t.dtype)
            if stored == t.dtype:
                return take(place, t.name, t.dtype, t.shape)
            if stored not in ("int8", "float16") or t.dtype != "float32":
                raise self.reader.fail(place, f"{t.dtype} stored as {shortened(stored)} is unknown here")
            array = take(place, t.name, stored, t.shape)
            if stored == "float16":
                return array.astype(np.float32)
            if not t.shape:
                raise self.reader.fail(place, "8-bit weights without channels")
            key = self.reader.field(entry, "scale", str, place)
            scale = take(place, key, "float32", t.shape[-1:])
            if not (np.isfinite(scale).all() and (scale > 0).all()):
                raise self.reader.fail(place, f"the scales {shortened(key)} are not all positive and finite")
            return dequantize_per_channel(array, scale)

        graph = self.reader.graph(self.text, data_for)
        idle = self.entries.keys() - used
        if idle:
            raise self.reader.fail(f"array {shortened(min(idle))}", "no tensor of the graph uses it")
        return graph


def _mapped(path: Path, start: int, size: int) -> Array:
    """Bytes of a file, mapped: read when first touched; what is written to them stays in memory, not in the file."""
    return np.asarray(np.memmap(path, np.uint8, "c", start, (size,))) if size else np.zeros(0, np.uint8)
