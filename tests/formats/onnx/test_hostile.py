"""ONNX files that are wrong, truncated or hostile: `FormatError`, quickly, in little memory, and nothing else."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import homespun as hs
from tests.formats.onnx.made import Made, load, predict
from tests.formats.onnx.test_import import small_network

BOUNDED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def whole() -> bytes:
    m = small_network()
    return bytes(m.model(m.last).SerializeToString())  # type: ignore[attr-defined]


WHOLE = whole()
ENCODERS = [p.read_bytes() for p in sorted((Path(__file__).parents[1] / "goldens" / "onnx").glob("*.onnx"))]


def refused_or_read(path: Path) -> bool:
    """Loads a file; the one error that may come out is ours. True if it was read."""
    try:
        graph = hs.load(path)
    except hs.FormatError as e:
        assert str(path) in str(e)
        return False
    assert graph.nodes
    return True


# -- mutations -------------------------------------------------------------------------------------------------------


@BOUNDED
@given(st.integers(0, len(WHOLE) - 1))
def test_truncated(tmp_path: Path, length: int) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(WHOLE[:length])
    refused_or_read(path)


@BOUNDED
@given(
    st.sampled_from(ENCODERS),
    st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_bytes_of_an_encoder_changed(tmp_path: Path, whole: bytes, changes: list[tuple[float, int]]) -> None:
    raw = bytearray(whole)
    for at, value in changes:
        raw[int(at * len(raw))] = value
    path = tmp_path / "net.onnx"
    path.write_bytes(raw)
    refused_or_read(path)


@BOUNDED
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_bytes_changed(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(WHOLE)
    for at, value in changes:
        raw[at] = value
    path = tmp_path / "net.onnx"
    path.write_bytes(raw)
    refused_or_read(path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    operator = b'"\x04Conv'  # the field's key and length before the name
    assert operator in WHOLE
    path.write_bytes(WHOLE.replace(operator, operator.replace(b"C", b"\x80")))
    with pytest.raises(hs.FormatError, match="op_type there is not UTF-8"):
        hs.load(path)


@BOUNDED
@given(st.binary(max_size=400))
def test_noise(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(raw)
    assert not refused_or_read(path)


@BOUNDED
@given(data=st.data())
def test_fields_changed(tmp_path: Path, data: st.DataObject) -> None:
    """The structure stays: names, numbers, attributes and shapes change."""
    model = onnx.ModelProto.FromString(WHOLE)
    graph = model.graph
    names = [n for node in graph.node for n in (*node.input, *node.output)] + ["", "x", "nobody"]
    numbers = st.sampled_from([0, 1, -1, 2, 3, 255, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1])
    for _ in range(data.draw(st.integers(1, 4))):
        node = data.draw(st.sampled_from(list(graph.node)))
        match data.draw(st.integers(0, 6)):
            case 0:
                node.op_type = data.draw(st.sampled_from([*sorted({n.op_type for n in graph.node}), "Concat", "Slice"]))
            case 1:
                node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
            case 2:
                node.output[0] = data.draw(st.sampled_from(names))
            case 3 if node.attribute:
                attribute = data.draw(st.sampled_from(list(node.attribute)))
                attribute.i = data.draw(numbers)
                attribute.ints[:] = data.draw(st.lists(numbers, max_size=5))
            case 4 if node.attribute:
                data.draw(st.sampled_from(list(node.attribute))).type = data.draw(st.integers(0, 14))
            case 5:
                tensor = data.draw(st.sampled_from(list(graph.initializer)))
                tensor.dims[:] = data.draw(st.lists(numbers, max_size=5))
            case _:
                dims = graph.input[0].type.tensor_type.shape.dim
                dims[data.draw(st.integers(0, 3))].dim_value = data.draw(numbers)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    refused_or_read(path)


# -- what someone might think of ---------------------------------------------------------------------------------------


def circle() -> Any:
    m = Made(["N", 6])
    m.nodes.append(helper.make_node("Add", ["x", "b"], ["a"], name="one"))
    m.nodes.append(helper.make_node("Relu", ["a"], ["b"], name="two"))
    return m.model("b")


def bomb(op: str, *sizes: int) -> Any:
    m = Made(["N", 6])
    small = m.array(np.zeros((1, 1), np.float32))
    made = {
        "ConstantOfShape": lambda: m.op(op, m.ints(*sizes)),
        "Expand": lambda: m.op(op, small, m.ints(*sizes)),
        "Tile": lambda: m.op(op, small, m.ints(*sizes)),
        "Range": lambda: m.op(op, m.array(np.int64(0)), m.array(np.int64(sizes[0])), m.array(np.int64(1))),
    }[op]()
    return m.model(m.op("Add", "x", m.op("ReduceSum", made, m.ints(0)) if op == "Range" else made))


def many_bombs() -> Any:
    m = Made(["N", 6])
    x = "x"
    for _ in range(200):
        x = m.op("Add", x, m.op("ReduceMax", m.op("ConstantOfShape", m.ints(2**23, 1)), axes=[0]))
    return m.model(x)


def repeated_in_a_join() -> Any:
    m = Made(["N", 6])
    joined = m.op("Concat", *[m.array(np.zeros(2**20, np.int8))] * 20_000, axis=0)
    return m.model(m.op("Add", "x", m.op("ReduceMax", joined, axes=[0])))


def gathered() -> Any:
    m = Made(["N", 6])
    rows = m.op("Gather", m.array(np.zeros((2**20, 1), np.int8)), m.array(np.zeros(2**18, np.int64)), axis=-1)
    return m.model(m.op("Add", "x", m.op("ReduceMax", rows, axes=[0, 1])))


def spread_scales(scales: int, zeros: int) -> Any:
    m = Made(["N", 6])
    codes = m.array(np.zeros((1, 2**20) if zeros == 1 else (2**20, 1), np.int8))
    given = [m.array(np.ones(scales, np.float32)), m.array(np.zeros(zeros, np.int8))]
    return m.model(m.op("Add", "x", m.op("ReduceMax", m.op("DequantizeLinear", codes, *given, axis=0), axes=[0, 1])))


def many_axes() -> Any:
    m = Made(["N", 6])
    w = m.number(1)
    m.weights[0].dims[:] = [1] * 100
    return m.model(m.op("Add", "x", w))


def constant_output(values: Any) -> Any:
    m = Made(["N", 6])
    return m.model(m.op("Relu", "x"), m.array(values))


def declared_too_large() -> Any:
    m = Made(["N", 6])
    w = m.weight(6, 4)
    m.weights[0].dims[:] = [6, 2**40]
    return m.model(m.op("MatMul", "x", w))


def wide_outputs() -> Any:
    m = Made(["N", 3, 2**20, 2**20])
    return m.model(m.op("Conv", "x", m.weight(4, 3, 1, 1)))


def stride_of_zero() -> Any:
    m = Made(["N", 3, 9, 8])
    return m.model(m.op("MaxPool", "x", kernel_shape=[2, 2], strides=[0, 1]))


def without_values() -> Any:
    m = Made(["N", 6])
    w = m.weight(6, 4)
    m.weights[0].ClearField("raw_data")
    return m.model(m.op("MatMul", "x", w))


def nested() -> bytes:
    """Graphs in attributes of nodes of graphs in attributes..."""
    inner = b""
    for _ in range(2000):
        node = b"\x22\x02If" + _field(5, b"\x0a\x01b\xa0\x01\x05" + _field(6, inner))
        inner = _field(1, node)
    return _field(7, inner)


def crowded() -> bytes:
    """A small file of a million empty nodes."""
    return b"\x08\x08" + _field(8, b"\x10\x11") + _field(7, b"\x0a\x00" * 1_200_000)


def _field(number: int, raw: bytes) -> bytes:
    length, at = b"", len(raw)
    while at > 0x7F:
        length, at = length + bytes([at & 0x7F | 0x80]), at >> 7
    return bytes([number << 3 | 2]) + length + bytes([at]) + raw


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "a circle": (circle, "depend on its own output"),
    "a constant of 2^60": (lambda: bomb("ConstantOfShape", 2**30, 2**30), "too large"),
    "an expansion": (lambda: bomb("Expand", 2**30, 2**20), "too large"),
    "a repetition": (lambda: bomb("Tile", 2**40, 1), "too large"),
    "a range": (lambda: bomb("Range", 2**50), "too large"),
    "two hundred constants": (many_bombs, "more memory than makes sense"),
    "one constant, joined 20,000 times": (repeated_in_a_join, "more memory than makes sense"),
    "rows of 2^18": (gathered, "too large"),
    "more scales than channels": (lambda: spread_scales(2**17, 1), "scales do not fit"),
    "more zero points than scales": (lambda: spread_scales(1, 2**17), "zero points do not fit"),
    "a hundred axes": (many_axes, "makes no sense"),
    "an output of 16-bit numbers": (lambda: constant_output(np.ones(3, np.int16)), "is int16"),
    "an output of nothing": (lambda: constant_output(np.zeros((0, 3), np.float32)), "would have the shape"),
    "a shape beyond the data": (declared_too_large, "shape is"),
    "outputs of terabytes": (wide_outputs, "shape"),
    "a stride of zero": (stride_of_zero, "strides"),
    "no values": (without_values, "needs"),
    "deep nesting": (nested, "deep"),
    "a million nodes": (crowded, "fields"),
    "nothing": (lambda: b"", "no graph"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not readable as ONNX"),
}


@pytest.mark.parametrize(("build", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_little_memory(build: Callable[[], Any], says: str, tmp_path: Path) -> None:
    made = build()
    path = tmp_path / "net.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(hs.FormatError, match=says):
        hs.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024


# -- data in other files -----------------------------------------------------------------------------------------------


def with_external(location: str, offset: int = 0, length: int | None = None) -> Any:
    m = Made(["N", 6])
    w = m.weight(6, 4)
    tensor = m.weights[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), **({"length": str(length)} if length is not None else {})}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return m.model(m.op("MatMul", "x", w))


def test_external_data_beside_the_model_are_read(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.float32)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(values.tobytes())
    graph = load(with_external("data/weights.bin", 24, 96), tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    np.testing.assert_allclose(predict(graph, x)[0], x @ values[6:].reshape(6, 4), rtol=1e-5)


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "/etc/passwd",
        "data/../../secret",
        "link",
        "C:\\secret",
        "..\\secret",
        "",
        ".",
        "gone",
        "a\0b",
        "x" * 5000,
    ],
)
def test_external_data_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(96))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(hs.FormatError, match="external data"):
        load(with_external(location, 0, 96), folder)


@pytest.mark.parametrize(("offset", "length"), [(0, 95), (1, 96), (-1, 96), (2**63, 96), (0, 2**63), (0, 10**30)])
def test_external_data_of_another_size_are_refused(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(96))
    with pytest.raises(hs.FormatError, match="bytes are needed"):
        load(with_external("weights.bin", offset, length), tmp_path)
