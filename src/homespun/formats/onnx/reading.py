"""An `.onnx` file as a checked `ModelProto`, its tensors as arrays, and what the importer takes: the first step in.

Nothing is believed: the bytes are walked before they are parsed, so that a small file can't become gigabytes of
objects; sizes are compared with the bytes that are there; data in other files must lie in the model's folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homespun.errors import FormatError, MissingPackageError
from homespun.formats.checked import SENSELESS, file_inside, shortened
from homespun.formats.onnx.nodes import ForeignInput, ForeignModel, ForeignNode
from homespun.graph import Array

#: Fields of all messages together: a large network has some 10,000 nodes of some 20 fields each.
LARGEST_FIELDS = 1_000_000
#: Operator sets older than this had other rules of broadcasting, clipping and padding.
OLDEST_OPSET = 11
#: The protobuf format itself ends here; what is larger keeps its weights in other files.
_LARGEST_FILE = 2**31 - 1
_DEEPEST = 64
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 4: "uint16", 6: "int32", 7: "int64", 9: "bool"}
_TYPES |= {10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"}
_ELEMENTS = {1: "float32", 10: "float32", 11: "float32", 16: "float32", 6: "int32", 7: "int32", 2: "uint8", 9: "bool"}
_ADVICE = {
    "": (
        "what can be left out (boxes, labels, decoding at the end): cut it off with onnx.utils.extract_model; what "
        "can't: replace it in the model's source, or add the operator (docs/adding-a-format.md)"
    ),
    "NonMaxSuppression": "boxes are chosen after the network: cut the model before it",
    "Loop": "export it with a fixed number of steps",
    "If": "export the branch that is meant",
    "Scan": "export it with a fixed number of steps",
    "LSTM": "recurrent layers can't be trained here",
    "GRU": "recurrent layers can't be trained here",
    "RNN": "recurrent layers can't be trained here",
    "FusedConv": "export it without onnxruntime's optimisations",
}


def require_onnx() -> Any:
    """The `onnx` package. Raises `MissingPackageError` that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise MissingPackageError(
            'ONNX files need the package "onnx", which is not installed: pip install "homespun[onnx]"'
        ) from None
    return onnx


class OnnxFile:
    """A parsed model and the folder that it came from."""

    def __init__(self, path: Path) -> None:
        onnx = require_onnx()
        self.path = path
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise self.fail("file", f"{size} bytes are more than an ONNX file can have")
        self.size = size  # with what it has in other files, once that is read
        raw = path.read_bytes()
        _Walk(self, raw).message(onnx.ModelProto.DESCRIPTOR, 0, len(raw), 0)
        self.model = onnx.ModelProto()
        try:
            self.model.ParseFromString(raw)
        except Exception as e:  # noqa: BLE001  (protobuf's own error class differs between its implementations)
            raise self.fail("file", f"not readable as ONNX ({e}); it is truncated or something else") from None
        if not self.model.HasField("graph") or not self.model.graph.node:
            raise self.fail("file", "there is no graph in it; it is truncated, or no ONNX model")
        self.opset = self._opset(onnx.defs.onnx_opset_version())
        self._external: dict[str, Array] = {}

    def fail(self, place: str, what: str) -> FormatError:
        """The error to raise."""
        return FormatError(f"{self.path}: {place}: {what}")

    def _opset(self, newest: int) -> int:
        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        version = versions[0] if len(versions) == 1 else 0
        if not OLDEST_OPSET <= version <= newest:
            raise self.fail(
                "opset",
                f"{version}; operator sets {OLDEST_OPSET} to {newest} are read: convert it with "
                "onnx.version_converter.convert_version, or export it again with another opset_version",
            )
        return int(version)

    def array(self, tensor: Any) -> Array:
        """The values of a `TensorProto`; float16, bfloat16 and float64 become float32."""
        place = f"tensor {shortened(tensor.name)}"
        if tensor.data_type not in _TYPES:
            raise self.fail(
                place, f"its data type {tensor.data_type} can't be read (strings and complex numbers can't)"
            )
        dtype = _TYPES[tensor.data_type]
        shape = tuple(tensor.dims)
        if any(not 0 <= d < 2**31 for d in shape):
            raise self.fail(place, f"its shape is {shortened(list(shape))}")
        count = math.prod(shape)
        stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
        if tensor.data_location == tensor.EXTERNAL and count:
            values = self._external_data(tensor, place, count * stored.itemsize).view(stored)
        elif count == 0:
            values = np.zeros(0, stored)
        elif tensor.HasField("raw_data"):
            if len(tensor.raw_data) != count * stored.itemsize:
                has, needs = len(tensor.raw_data), count * stored.itemsize
                raise self.fail(place, f"has {has} bytes of data; {dtype}{list(shape)} needs {needs}")
            values = np.frombuffer(tensor.raw_data, stored)
        else:
            values = self._typed_data(tensor, place, dtype, stored, count)
        values = values.reshape(shape)
        if dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # what float32 can't hold is found where it is used as a weight
            return values.astype(np.float32) if dtype in ("float16", "float64") else values

    def _typed_data(self, tensor: Any, place: str, dtype: str, stored: np.dtype[Any], count: int) -> Array:
        fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
        fields |= {"uint32": "uint64_data", "uint64": "uint64_data"}
        values = getattr(tensor, fields.get(dtype, "int32_data"))
        if len(values) != count:
            raise self.fail(place, f"has {len(values)} values; its shape {list(tensor.dims)} needs {count}")
        if dtype == "float16":  # as the bits of each number
            return np.asarray(values, np.int64).astype(np.uint16).view(np.float16)
        wide = {"float_data": np.float32, "double_data": np.float64, "uint64_data": np.uint64}
        return np.asarray(values, wide.get(fields.get(dtype, ""), np.int64)).astype(stored)

    def _external_data(self, tensor: Any, place: str, needed: int) -> Array:
        """Bytes of a tensor that are in another file of the model's folder, mapped."""
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        file = file_inside(self.path.parent, location, lambda what: self.fail(place, what))
        try:
            offset = int(entries.get("offset", "0") or "0")
            length = int(entries.get("length", "") or needed)
        except ValueError:
            raise self.fail(place, "the offset or length of its external data is no number") from None
        size = file.stat().st_size
        if length != needed or offset < 0 or offset + length > size:
            raise self.fail(
                place, f"{needed} bytes are needed, {length} at byte {offset} of {location!r} named; that has {size}"
            )
        if location not in self._external:
            mapped = np.memmap(file, np.uint8, "r") if size else np.zeros(0, np.uint8)
            self._external[location] = np.asarray(mapped)
            self.size += size
        return np.frombuffer(self._external[location][offset : offset + length], np.uint8)

    def foreign(self) -> ForeignModel:
        """The model as the importer takes it."""
        try:
            return self._foreign()
        except SENSELESS as e:
            raise self.fail("graph", f"makes no sense ({type(e).__name__}: {e})") from None

    def _foreign(self) -> ForeignModel:
        proto = self.model.graph
        if self.model.functions:
            names = ", ".join(f.name for f in list(self.model.functions)[:5])
            raise self.fail("graph", f"it has functions of its own ({names}); write them out with onnx.inliner first")
        constants: dict[str, Array] = {}
        for tensor in proto.initializer:
            if not tensor.name or tensor.name in constants:
                raise self.fail("graph", f"an initializer is named {shortened(tensor.name)}, or two are")
            constants[tensor.name] = self.array(tensor)
        nodes = [self._node(n) for n in proto.node]
        producer = f"{self.model.producer_name} {self.model.producer_version}".strip()
        entries = list(self.model.metadata_props)[:64]
        return ForeignModel(
            name=proto.name,
            path=self.path,
            fail=self.fail,
            size=self.size,
            nodes=nodes,
            constants=constants,
            inputs=[_input(i) for i in proto.input],
            outputs=[o.name for o in proto.output],
            source=f"ONNX opset {self.opset}" + (f", {producer[:80]}" if producer else ""),
            opset=self.opset,
            advice=_ADVICE,
            metadata={e.key: e.value for e in entries if e.key and len(e.key) + len(e.value) < 2**16},
        )

    def _node(self, proto: Any) -> ForeignNode:
        standard = proto.domain in ("", "ai.onnx")
        return ForeignNode(
            proto.op_type,
            list(proto.input),
            list(proto.output),
            attributes_of(proto, self),
            proto.name,
            kind=proto.op_type if not proto.domain else f"{proto.domain}.{proto.op_type}",
            standard=standard,
        )


def _input(entry: Any) -> ForeignInput:
    kind = entry.type.tensor_type
    known = entry.type.HasField("tensor_type") and kind.HasField("shape")
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim] if known else None
    return ForeignInput(entry.name, dims, _ELEMENTS.get(kind.elem_type))


def attributes_of(node: Any, file: OnnxFile) -> Mapping[str, Any]:
    """A node's attributes as Python values: numbers, strings, lists, arrays; graphs as they are."""
    values: dict[str, Any] = {}
    for a in node.attribute:
        place = f"node {shortened(node.name or node.op_type)}: attribute {shortened(a.name)}"
        if a.name in values:
            raise file.fail(place, "it is given twice")
        kinds = {a.FLOAT: "f", a.INT: "i", a.STRING: "s", a.TENSOR: "t", a.GRAPH: "g"}
        kinds |= {a.FLOATS: "floats", a.INTS: "ints", a.STRINGS: "strings"}
        if a.type not in kinds:
            values[a.name] = None
            continue
        value = getattr(a, kinds[a.type])
        if a.type == a.STRING:
            value = value.decode("utf-8", "replace")
        elif a.type == a.STRINGS:
            value = [s.decode("utf-8", "replace") for s in value]
        elif a.type == a.TENSOR:
            value = file.array(value)
        elif a.type in (a.FLOATS, a.INTS):
            value = list(value)
        values[a.name] = value
    return values


class _Walk:
    """Counts the fields of a protobuf message without making objects of them."""

    def __init__(self, file: OnnxFile, raw: bytes) -> None:
        self.file, self.raw, self.fields = file, raw, 0

    def message(self, descriptor: Any, at: int, end: int, depth: int) -> None:
        """Walk one message. Raises `FormatError` for what ends too early, is too deep or has too many parts."""
        if depth > _DEEPEST:
            raise self.file.fail("file", f"messages are nested more than {_DEEPEST} deep")
        known = descriptor.fields_by_number
        while at < end:
            self.fields += 1
            if self.fields > LARGEST_FIELDS:
                raise self.file.fail("file", f"it has more than {LARGEST_FIELDS:,} fields; no network does")
            key, at = self._number(at, end)
            kind = key & 7
            if kind == 0:
                _, at = self._number(at, end)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 2:
                length, at = self._number(at, end)
                field = known.get(key >> 3)
                if at + length > end:
                    raise self.file.fail("file", "it ends in the middle of a field; truncated, or not an ONNX file")
                if field is not None and field.message_type is not None:
                    self.message(field.message_type, at, at + length, depth + 1)
                elif field is not None and field.type == field.TYPE_STRING:
                    self._text(field.name, at, at + length)
                at += length
            else:
                raise self.file.fail("file", f"byte {at} begins a field of kind {kind}; not an ONNX file")
        if at != end:
            raise self.file.fail("file", "it ends in the middle of a number; truncated, or not an ONNX file")

    def _text(self, name: str, at: int, end: int) -> None:
        # Parsing lets it pass, and hands out bytes where there should be a name.
        try:
            self.raw[at:end].decode("utf-8")
        except UnicodeDecodeError:
            raise self.file.fail(
                "file", f"byte {at}: the {name} there is not UTF-8 text; the file is damaged"
            ) from None

    def _number(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self.raw[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at
        raise self.file.fail("file", "it ends in the middle of a number; truncated, or not an ONNX file")
