"""TFLite files that somebody thought of: what tables share in a file is not believed to be as large as it says."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite

import homespun as hs
from homespun.formats.tflite.reading import TensorTable


class Made:
    """A file in which one tensor, y = relu(x), is computed, and another has data; entries can be repeated."""

    def __init__(self) -> None:
        self.name, self.data, self.shape = b"weight", bytes(1000), [1000]
        self.scales, self.axis, self.kind = 0, 0, 9
        self.tensors = self.operators = self.operands = 1
        #: Of a sparse tensor: its axes' order, those cut into blocks, each level's size, or segments and indices.
        self.order: list[int] = []
        self.blocks: list[int] = []
        self.levels: list[int | tuple[list[int], list[int]]] = []

    def file(self) -> bytes:
        b = self.b = flatbuffers.Builder(1024)
        data, name = b.CreateByteVector(self.data), b.CreateString(self.name)
        buffers = []
        for offset in (None, data):
            tflite.BufferStart(b)
            if offset is not None:
                tflite.BufferAddData(b, offset)
            buffers.append(tflite.BufferEnd(b))
        scales = b.CreateNumpyVector(np.ones(self.scales, np.float32))
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scales)
        tflite.QuantizationParametersAddQuantizedDimension(b, self.axis)
        quantised = tflite.QuantizationParametersEnd(b)
        sparsity = self.sparsity() if self.levels else 0
        shapes = [self.numbers(s) for s in ([1, 4], self.shape)]
        tensors = []
        for shape, buffer, kind in ((shapes[0], 0, 0), (shapes[0], 0, 0), (shapes[1], 1, self.kind)):
            tflite.TensorStart(b)
            tflite.TensorAddName(b, name)
            tflite.TensorAddShape(b, shape)
            tflite.TensorAddBuffer(b, buffer)
            tflite.TensorAddType(b, kind)
            if buffer:
                tflite.TensorAddQuantization(b, quantised)
                if sparsity:
                    tflite.TensorAddSparsity(b, sparsity)
            tensors.append(tflite.TensorEnd(b))
        read, written = self.numbers([0] * self.operands), self.numbers([1])
        tflite.OperatorStart(b)
        tflite.OperatorAddInputs(b, read)
        tflite.OperatorAddOutputs(b, written)
        operator = tflite.OperatorEnd(b)
        tensor_list, operator_list = (
            self.tables(t) for t in (tensors[:2] + tensors[2:] * self.tensors, [operator] * self.operators)
        )
        given = self.numbers([0])
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensor_list)
        tflite.SubGraphAddInputs(b, given)
        tflite.SubGraphAddOutputs(b, written)
        tflite.SubGraphAddOperators(b, operator_list)
        graph = self.tables([tflite.SubGraphEnd(b)])
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, tflite.BuiltinOperator.RELU)
        codes = self.tables([tflite.OperatorCodeEnd(b)])
        buffer_list = self.tables(buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, graph)
        tflite.ModelAddBuffers(b, buffer_list)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    def sparsity(self) -> int:
        b, made = self.b, []
        for level in self.levels:
            vectors = []
            for numbers in () if isinstance(level, int) else level:
                values = self.numbers(numbers)
                tflite.Int32VectorStart(b)
                tflite.Int32VectorAddValues(b, values)
                vectors.append(tflite.Int32VectorEnd(b))
            tflite.DimensionMetadataStart(b)
            if isinstance(level, int):
                tflite.DimensionMetadataAddDenseSize(b, level)
            else:
                tflite.DimensionMetadataAddFormat(b, 1)
                tflite.DimensionMetadataAddArraySegmentsType(b, 1)
                tflite.DimensionMetadataAddArraySegments(b, vectors[0])
                tflite.DimensionMetadataAddArrayIndicesType(b, 1)
                tflite.DimensionMetadataAddArrayIndices(b, vectors[1])
            made.append(tflite.DimensionMetadataEnd(b))
        levels, order, blocks = self.tables(made), self.numbers(self.order), self.numbers(self.blocks)
        tflite.SparsityParametersStart(b)
        tflite.SparsityParametersAddTraversalOrder(b, order)
        tflite.SparsityParametersAddBlockMap(b, blocks)
        tflite.SparsityParametersAddDimMetadata(b, levels)
        return int(tflite.SparsityParametersEnd(b))

    def numbers(self, values: Sequence[int]) -> int:
        return int(self.b.CreateNumpyVector(np.asarray(values, np.int32)))

    def tables(self, offsets: Sequence[int]) -> int:
        self.b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.b.PrependUOffsetTRelative(offset)
        return int(self.b.EndVector())


def load(path: Path, made: Made) -> hs.Graph:
    path.write_bytes(made.file())
    return hs.load(path)


@pytest.mark.parametrize("name", [b"weight", b"\xff\x80\xfe", b"\xc3", "é".encode() * 500], ids=repr)
def test_names_that_are_no_text_are_read(name: bytes, tmp_path: Path) -> None:
    made = Made()
    made.name = name
    graph = load(tmp_path / "net.tflite", made)
    assert [n.op for n in graph.nodes] == ["relu"]
    hs.save(graph, tmp_path / "net.hsp")
    assert hs.load(tmp_path / "net.hsp").inputs == graph.inputs


def shared_data(made: Made) -> None:
    made.data, made.shape, made.tensors = bytes(2**20), [2**20], 4000


def shared_operators(made: Made) -> None:
    made.operators, made.operands = 20_000, 20_000


def more_scales_than_channels(made: Made) -> None:
    made.data, made.shape, made.scales = bytes(2**20), [1, 2**20], 2**17


def many_axes(made: Made) -> None:
    made.shape = [1] * 100


def sparse(made: Made) -> None:
    """Four rows of four in two blocks of rows; of each pair, some columns."""
    made.data, made.shape = bytes(6), [4, 4]
    made.order, made.blocks = [0, 1, 2], [0]
    made.levels = [2, ([0, 1, 3], [3, 0, 2]), 2]


def sparse_and(**changes: Any) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        sparse(made)
        for name, value in changes.items():
            setattr(made, name, value)

    return change


def read(made: Made) -> np.ndarray:
    """The values of the weight."""
    raw = made.file()
    model = tflite.Model.GetRootAs(raw, 0)
    data = TensorTable(model, model.Subgraphs(0), len(raw), lambda place, what: hs.FormatError(what)).data(2)
    assert data is not None
    return data


def test_a_sparse_tensor_is_read() -> None:
    made = Made()
    sparse(made)
    made.data = bytes(range(1, 7))
    np.testing.assert_array_equal(read(made), [[0, 0, 0, 1], [0, 0, 0, 2], [3, 0, 5, 0], [4, 0, 6, 0]])
    made.order = [1, 0, 2]  # columns first: two rows of blocks in each
    made.levels = [4, ([0, 1, 1, 2, 3], [1, 0, 1]), 2]
    np.testing.assert_array_equal(read(made), [[0, 0, 3, 0], [0, 0, 4, 0], [1, 0, 0, 5], [2, 0, 0, 6]])


def test_four_bits_are_read() -> None:
    made = Made()
    made.kind, made.shape, made.data = 17, [3], b"\x81\x07"
    np.testing.assert_array_equal(read(made), [1, -8, 7])
    made.scales, made.shape, made.data = 1, [4], b"\x81\xf7"
    np.testing.assert_array_equal(read(made), np.array([1, -8, 7, -1], np.float32))


HOSTILE: dict[str, tuple[Callable[[Made], None], str]] = {
    "data that 4,000 tensors share": (shared_data, "more memory than makes sense"),
    "an operator of 20,000 operands, 20,000 times": (shared_operators, "entries do not fit"),
    "more scales than channels": (more_scales_than_channels, "scales do not fit"),
    "a hundred axes": (many_axes, "100 axes"),
    "sparse, of a size that memory has not": (sparse_and(shape=[2**15, 2**15, 2**15]), "more memory than makes sense"),
    "sparse, with a level too few": (sparse_and(levels=[2, ([0, 1, 3], [3, 0, 2])]), "do not fit its shape"),
    "sparse, an axis twice": (sparse_and(order=[0, 0, 2]), "do not fit its shape"),
    "sparse, blocks of no axis": (sparse_and(blocks=[7]), "an axis that it has not"),
    "sparse, blocks that leave a rest": (sparse_and(shape=[5, 4]), "blocks .* do not fit"),
    "sparse, a size that is another": (sparse_and(levels=[9, ([0, 1, 3], [3, 0, 2]), 2]), "does not fit"),
    "sparse, an index outside": (sparse_and(levels=[2, ([0, 1, 3], [3, 0, 4]), 2]), "places of its sparse values"),
    "sparse, an index below": (sparse_and(levels=[2, ([0, 1, 3], [3, -1, 2]), 2]), "places of its sparse values"),
    "sparse, segments backwards": (sparse_and(levels=[2, ([0, 4, 3], [3, 0, 2]), 2]), "places of its sparse values"),
    "sparse, segments too many": (sparse_and(levels=[2, ([0, 1, 2, 3], [3, 0, 2]), 2]), "places of its sparse values"),
    "sparse, values too few": (sparse_and(data=bytes(5)), "has 5 bytes; 6 values"),
}


@pytest.mark.parametrize(("change", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_little_memory(change: Callable[[Made], None], says: str, tmp_path: Path) -> None:
    made = Made()
    change(made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(hs.FormatError, match=says):
        load(tmp_path / "net.tflite", made)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024
