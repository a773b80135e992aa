"""What a TFLite file says of its tensors: shapes, scales, and data, be they dense, sparse, in halves or quantised.

Flatbuffers let tables share their data, so no length is believed before it is held against the file's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from homespun.errors import FormatError
from homespun.formats.checked import largest_constants, shortened
from homespun.graph import Array

_MOST_AXES = 32
#: By the schema's number; 17, of four bits, is read by itself.
DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
_INT4 = 17
#: Kinds that activations are quantised to.
_CODES = (3, 7, 9)


class TensorTable:
    """The tensors of a file's graph, by number."""

    def __init__(self, model: Any, graph: Any, size: int, fail: Callable[[str, str], FormatError]) -> None:
        self._model, self._fail = model, fail
        self._tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        self._left = largest_constants(size)

    def __len__(self) -> int:
        return len(self._tensors)

    def name(self, i: int) -> str:
        """What the file calls it, shortened; exporters list all layers of a fused one."""
        name = self._tensors[i].Name() or b""
        return name[:800].decode("utf-8", "replace")[:200].split(";")[0] or f"tensor{i}"

    def kind(self, i: int) -> int:
        """The schema's number of its data type."""
        return int(self._tensors[i].Type())

    def shape(self, i: int) -> list[int]:
        """Its shape as the file has it. Raises `FormatError` where it has too many axes."""
        tensor = self._tensors[i]
        if tensor.ShapeLength() > _MOST_AXES:
            raise self._fail(self._place(i), f"it has {tensor.ShapeLength()} axes")
        return [int(tensor.Shape(k)) for k in range(tensor.ShapeLength())]

    def scales(self, i: int) -> tuple[Array, Array, int]:
        """(scales, zero points, axis); no scales where it is not quantised."""
        q = self._tensors[i].Quantization()
        if q is None or not q.ScaleLength():
            return np.zeros(0), np.zeros(0), 0
        scales = np.asarray(q.ScaleAsNumpy())
        zeros = q.ZeroPointAsNumpy() if q.ZeroPointLength() else np.zeros(scales.size, np.int64)
        return scales, np.asarray(zeros), int(q.QuantizedDimension())

    def largest(self, i: int) -> float | None:
        """What its largest code stands for, where one scale is for all of it; None where it is not quantised so."""
        scales, zeros, _ = self.scales(i)
        if scales.size != 1 or zeros.size != 1 or self.kind(i) not in _CODES:
            return None
        end = (np.iinfo(DTYPES[self.kind(i)]).max - float(zeros[0])) * float(scales[0])
        return end if 0 < end < math.inf else None

    def data(self, i: int) -> Array | None:
        """A constant's values: float32, or whole numbers that are no quantised ones. None where it is computed.

        Raises `FormatError` where bytes, shape, scales and places do not fit each other.
        """
        tensor = self._tensors[i]
        buffer = self._model.Buffers(tensor.Buffer())
        if buffer is None or not buffer.DataLength() or self.kind(i) not in (*DTYPES, _INT4):
            return None
        shape, place = self.shape(i), self._place(i)
        self._left -= 4 * math.prod(max(0, d) for d in shape)
        if self._left < 0:
            raise self._fail(place, "constants take more memory than makes sense")
        four_bits = self.kind(i) == _INT4
        dtype = np.dtype("int8" if four_bits else DTYPES[self.kind(i)]).newbyteorder("<")
        places = None if tensor.Sparsity() is None else self._stored_places(tensor.Sparsity(), shape, place)
        count = math.prod(shape) if places is None else places.size
        needed = -(-count // 2) if four_bits else count * dtype.itemsize
        if any(d < 0 for d in shape) or needed != buffer.DataLength():
            needs = f"{dtype.name}{shape}" if places is None else f"{count} values of {dtype.name}"
            raise self._fail(place, f"has {buffer.DataLength()} bytes; {needs} needs another number")
        raw = np.frombuffer(buffer.DataAsNumpy().tobytes(), "u1" if four_bits else dtype)
        if four_bits:  # two in a byte, the first one in its lower half
            halves = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
            raw = np.where(halves > 7, halves - 16, halves).astype(np.int8)
        if places is not None:
            dense = np.zeros(math.prod(shape), raw.dtype)
            dense[places] = raw
            raw = dense
        with np.errstate(all="ignore"):  # scales of a damaged file; who reads a weight looks whether it is finite
            array = self._dequantised(i, raw.reshape(shape))
            return array.astype(np.float32) if array.dtype.kind == "f" else array

    def _dequantised(self, i: int, array: Array) -> Array:
        scales, zeros, axis = self.scales(i)
        if not scales.size:
            return array
        spread = [1] * array.ndim
        if scales.size > 1:
            spread[axis] = -1
            if scales.size != array.shape[axis]:
                raise self._fail(self._place(i), f"{scales.size} scales do not fit axis {axis} of {list(array.shape)}")
        wide = array.astype(np.float64) - zeros.reshape(spread)
        return np.asarray(wide * scales.astype(np.float64).reshape(spread))

    def _stored_places(self, sparsity: Any, shape: list[int], place: str) -> Array:
        """Where in the flat dense tensor each stored value of a sparse one belongs.

        Axes are walked in the order that the file says, some of them cut into blocks; each is dense, or lists the
        indices that there are. Source: `SparsityParameters` in TensorFlow Lite's schema; Kjolstad et al. 2017, "The
        Tensor Algebra Compiler".
        """
        rank, levels = len(shape), sparsity.DimMetadataLength()
        order = [int(sparsity.TraversalOrder(k)) for k in range(min(levels, 2 * _MOST_AXES))]
        blocked = [int(sparsity.BlockMap(k)) for k in range(min(sparsity.BlockMapLength(), _MOST_AXES))]
        if levels != rank + len(blocked) or sorted(order) != list(range(levels)) or len(set(blocked)) != len(blocked):
            raise self._fail(place, "its sparse axes do not fit its shape")
        if any(not 0 <= axis < rank for axis in blocked):
            raise self._fail(place, "it has blocks of an axis that it has not")
        sizes = {d: int(sparsity.DimMetadata(k).DenseSize()) for k, d in enumerate(order)}
        block = [1] * rank
        for k, axis in enumerate(blocked):
            block[axis] = max(1, sizes[rank + k])
        strides = [math.prod(shape[k + 1 :]) for k in range(rank)]
        if any(n % b for n, b in zip(shape, block, strict=True)):
            raise self._fail(place, f"its blocks {block} do not fit its shape {shape}")
        places = np.zeros(1, np.int64)
        for k, d in enumerate(order):
            level = sparsity.DimMetadata(k)
            outer = d < rank
            step = strides[d] * block[d] if outer else strides[blocked[d - rank]]
            limit = shape[d] // block[d] if outer else block[blocked[d - rank]]
            if level.Format() == 0:
                if sizes[d] != limit or places.size * limit > math.prod(shape):
                    raise self._fail(place, f"a sparse axis of {sizes[d]} does not fit its shape {shape}")
                places = (places[:, None] + np.arange(limit) * step).reshape(-1)
            else:
                segments, indices = (_numbers(level, name) for name in ("ArraySegments", "ArrayIndices"))
                counts = np.diff(segments)
                fits = segments.size == places.size + 1 and segments[0] == 0 and segments[-1] == indices.size
                inside = not indices.size or (indices.min() >= 0 and indices.max() < limit)
                if not fits or (counts < 0).any() or not inside:
                    raise self._fail(place, "the places of its sparse values do not fit its shape")
                places = np.repeat(places, counts) + indices * step

        return places

    def _place(self, i: int) -> str:
        return f"tensor {shortened(self.name(i))}"


def _numbers(level: Any, name: str) -> Array:
    """One of the index vectors of a sparse axis, which come as 32, 16 or 8 bits."""
    import tflite

    table = getattr(level, name)()
    kind = getattr(level, f"{name}Type")()
    schema = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}[kind]
    vector = schema()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64).reshape(-1)
