"""Weights out of a `.caffemodel`: protocol buffers' wire format, of which only layers' names and blobs are read.

A `.caffemodel` holds the training network with all its settings; what is imported is the network that the `.prototxt`
says, and weights come to it by the names of layers, as Caffe itself does it. Numbers of fields are those of
`caffe.proto` in Caffe's repository.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from homespun.errors import FormatError
from homespun.formats.checked import shortened
from homespun.formats.protobuf import Message, Schema, read
from homespun.graph import Array

_LARGEST_FILE = 2**31 - 1  # what protocol buffers can hold
_MOST_AXES = 32
_LONGEST_NAME = 1000
#: The shape of blobs before they had one of any number of axes.
_FOUR = ("num", "channels", "height", "width")
_BLOB = Schema(
    "blob",
    {
        **{i: (name, "int") for i, name in enumerate(_FOUR, start=1)},
        5: ("data", "floats"),
        7: ("shape", Schema("shape", {1: ("dim", ["int"])})),
        8: ("double_data", "doubles"),
        **{10: ("raw_data_type", "int"), 12: ("raw_data", "bytes")},  # of NVIDIA's fork
    },
)
_OLDEST = Schema("layer of version 0", {1: ("name", "bytes"), 50: ("blobs", [_BLOB])})
_LAYERS = Schema("layer of version 1", {4: ("name", "bytes"), 6: ("blobs", [_BLOB]), 1: ("layer", _OLDEST)})
_LAYER = Schema("layer", {1: ("name", "bytes"), 7: ("blobs", [_BLOB])})
_NETWORK = Schema("network", {100: ("layer", [_LAYER]), 2: ("layers", [_LAYERS])})
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


def read_weights(path: Path) -> dict[str, list[Array]]:
    """Blobs of each layer that has some, by its name: float32, in the shapes of the file.

    Raises `FormatError` for a file that is no `.caffemodel`, or is truncated.
    """

    def fail(place: str, what: str) -> FormatError:
        return FormatError(f"{path}: {place}: {what}")

    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise fail("file", f"{size} bytes are more than a .caffemodel can have")
    network = read(memoryview(path.read_bytes()), _NETWORK, fail)
    layers = [layer["layer"] or layer for layer in network["layers"]] + network["layer"]
    if not layers:
        raise fail("file", "there are no layers in it; empty, or no .caffemodel")
    weights: dict[str, list[Array]] = {}
    for layer in layers:
        name = bytes(layer["name"][:_LONGEST_NAME]).decode("utf-8", "replace")
        blobs = []
        for i, blob in enumerate(layer["blobs"]):
            array = _array(blob)
            if isinstance(array, str):
                raise fail(f"layer {shortened(name)}", f"blob {i}: {array}")
            blobs.append(array)
        if blobs and name in weights:
            raise fail(f"layer {shortened(name)}", "two layers with weights have this name")
        if blobs:
            weights[name] = blobs
    return weights


def _array(blob: Message) -> Array | str:
    """The array of a blob; a text that says what is wrong where there is none."""
    values: Array = blob["double_data"] if "double_data" in blob else blob["data"]
    if "raw_data" in blob:
        kind = blob["raw_data_type"] if "raw_data_type" in blob else 1  # noqa: SIM401  (no mapping)
        dtype = np.dtype(_RAW_DTYPES.get(kind, "V1"))
        if dtype.kind != "f" or len(blob["raw_data"]) % dtype.itemsize:
            return f"{len(blob['raw_data'])} bytes of raw data of type {kind} can't be read"
        values = np.frombuffer(blob["raw_data"], dtype)
    if blob["shape"] is not None:
        shape = blob["shape"]["dim"]
    else:
        shape = [blob[n] for n in _FOUR] if any(n in blob for n in _FOUR) else [values.size]
    if len(shape) > _MOST_AXES or any(d < 0 for d in shape) or math.prod(shape) != values.size:
        return f"{values.size} numbers do not fit the shape {shape[:_MOST_AXES]}"
    return values.astype(np.float32).reshape(shape)
