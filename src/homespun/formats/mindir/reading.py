"""A `.mindir` file as checked messages, and its tensors and attributes as values of Python: the first step in.

Nothing is believed: `protobuf` holds every length against the file, sizes of tensors are compared with the bytes that
are there, and data in other files must lie in the model's folder.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homespun.errors import FormatError
from homespun.formats.checked import file_inside, shortened
from homespun.formats.mindir.schema import MODEL
from homespun.formats.protobuf import Message, read
from homespun.graph import Array

#: What a protobuf file can hold; MindSpore puts larger weights into files beside.
_LARGEST_FILE = 2**31 - 1
_MOST_AXES = 32
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}
_TYPES |= {10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float64"}
_FLOATS = ("float16", "bfloat16", "float64")
# AttributeProto.AttributeType
_FLOAT, _STRING, _BOOL, _DOUBLE = 1, 8, 9, 11
_INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)
_TENSOR, _TENSORS, _TUPLE, _LIST, _NONE = 17, 19, 20, 21, 25
_MONADS = (23, 24)
_NO_SETTINGS = ("shape", "input_names", "output_names")


class Special(enum.Enum):
    """Values of attributes that are no data."""

    MONAD = "an order of side effects"
    OPAQUE = "something that is no number, text or tensor"


@dataclass(frozen=True)
class Declared:
    """Shape and data type that a file says a tensor has; -1 for lengths that it leaves open."""

    shape: tuple[int, ...]
    data_type: int


class MindirFile:
    """A parsed model and the folder that it came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size  # with what it has in other files, once that is read
        if self.size > _LARGEST_FILE:
            raise self.fail("file", f"{self.size} bytes are more than a MindIR file can have")
        try:
            model = read(memoryview(path.read_bytes()), MODEL, self.fail)
        except FormatError as e:
            raise FormatError(
                f"{e} (an encrypted file looks like this too: export it without enc_key; and so does one for MindSpore "
                'Lite: export it with file_format="MINDIR")'
            ) from None
        if model["graph"] is None or not model["graph"]["output"]:
            raise self.fail("file", "there is no graph in it; it is truncated, or no MindIR file")
        if "little_endian" in model and not model["little_endian"]:
            raise self.fail("file", "it was written on a machine with another byte order; export it on a usual one")
        self.model = model
        self._external: dict[str, Array] = {}

    def fail(self, place: str, what: str) -> FormatError:
        """The error to raise."""
        return FormatError(f"{self.path}: {place}: {what}")

    # -- tensors ------------------------------------------------------------------------------------------------

    def declared(self, tensor: Message) -> Declared:
        """The shape and type of a `TensorProto`."""
        shape = tuple(tensor["dims"])
        if len(shape) > _MOST_AXES or any(not -(2**31) < d < 2**31 for d in shape):
            raise self.fail(f"tensor {shortened(tensor['name'])}", f"its shape is {shortened(list(shape))}")
        return Declared(shape, tensor["data_type"])

    def array(self, tensor: Message) -> Array:
        """The values of a `TensorProto`; float16, bfloat16 and float64 become float32."""
        place = f"tensor {shortened(tensor['name'])}"
        found = self.declared(tensor)
        if found.data_type not in _TYPES or any(d < 0 for d in found.shape):
            raise self.fail(place, f"data type {found.data_type} and shape {list(found.shape)} can't be read")
        if tensor["compression_type"] or tensor["quant_params"]:
            raise self.fail(place, "its values are compressed or quantised; export the network without that")
        dtype, count = _TYPES[found.data_type], math.prod(found.shape)
        stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
        if tensor["external_data"] is not None and count:
            values = self._external_data(tensor["external_data"], place, count * stored.itemsize).view(stored)
        elif len(tensor["raw_data"]) or not count:
            if len(tensor["raw_data"]) != count * stored.itemsize:
                has = len(tensor["raw_data"])
                raise self.fail(place, f"has {has} bytes of data; {dtype}{list(found.shape)} needs another number")
            values = np.frombuffer(tensor["raw_data"], stored)
        else:
            fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data", "int32": "int32_data"}
            given = tensor[fields[dtype]] if dtype in fields else ()
            if len(given) != count:
                raise self.fail(place, f"has {len(given)} values; {dtype}{list(found.shape)} needs {count}")
            values = np.asarray(given, stored)
        values = values.reshape(found.shape)
        if dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # what float32 can't hold is found where it is used as a weight
            return values.astype(np.float32) if dtype in _FLOATS else values

    def _external_data(self, entry: Message, place: str, needed: int) -> Array:
        """Bytes of a tensor that are in another file of the model's folder, mapped."""
        location, offset, length = entry["location"], entry["offset"], entry["length"]
        file = file_inside(self.path.parent, location, lambda what: self.fail(place, what))
        size = file.stat().st_size
        if length != needed or offset < 0 or offset + length > size:
            text = (
                f"{needed} bytes are needed, {length} at byte {offset} of {shortened(location)} named; that has {size}"
            )
            raise self.fail(place, text)
        if location not in self._external:
            self._external[location] = np.asarray(np.memmap(file, np.uint8, "r"))
            self.size += size
        return self._external[location][offset : offset + length]

    # -- attributes ---------------------------------------------------------------------------------------------

    def attributes(self, messages: list[Message]) -> Mapping[str, Any]:
        """Attributes by name, as values of Python."""
        return {a["name"]: self.value(a) for a in messages if a["name"] not in _NO_SETTINGS}

    def value(self, a: Message) -> Any:
        """An attribute: a number, a text, an array, a tuple of such, None, or something `Special`."""
        kind = a["type"]
        if kind in _MONADS:
            return Special.MONAD
        if kind == _NONE:
            return None
        if kind in (_TUPLE, _LIST):
            return tuple(self.value(v) for v in a["values"]) if a["values"] else _numbers(a)
        if kind in (_TENSOR, _TENSORS):
            tensors = [a["t"]] if a["t"] is not None else a["tensors"]
            return self.array(tensors[0]) if len(tensors) == 1 else Special.OPAQUE
        if kind not in (_FLOAT, _DOUBLE, _STRING, _BOOL, *_INTEGERS):
            return Special.OPAQUE
        many = _numbers(a)
        if len(many) > 1:
            return many
        if kind == _STRING:
            return many[0] if many else bytes(a["s"][:1000]).decode("utf-8", "replace")
        if kind in (_FLOAT, _DOUBLE):
            return float(many[0] if many else a["f"] if kind == _FLOAT else a["d"])
        whole = int(many[0] if many else a["i"])
        return bool(whole) if kind == _BOOL else whole

    def results(self, attribute: Message | None) -> list[Declared]:
        """What a node's attribute "shape" says of its results, or of those of a tuple."""
        if attribute is None:
            return []
        if attribute["values"]:
            return [d for v in attribute["values"][:4096] for d in self.results(v)[:1]]
        return [self.declared(t) for t in attribute["tensors"][:1]]


def _numbers(a: Message) -> tuple[Any, ...]:
    """The entries of an attribute that is a list of plain values."""
    texts = tuple(bytes(s[:1000]).decode("utf-8", "replace") for s in a["strings"])
    return texts or tuple(a["ints"]) or tuple(a["floats"].tolist()) or tuple(a["doubles"].tolist())
