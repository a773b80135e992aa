"""MindIR files and checkpoints that are wrong, truncated or hostile: `FormatError`, quickly, and nothing else."""

from __future__ import annotations

import itertools
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun.formats.mindir.checkpoint import _CHECKPOINT, read_checkpoint
from homespun.formats.mindir.schema import MODEL
from tests.formats.mindspore import GOLDENS
from tests.formats.wire import decode, encode

BOUNDED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

with zipfile.ZipFile(GOLDENS / "mindspore.zip") as archive:
    FILES = {n: archive.read(n) for n in ("functions.mindir", "twice.mindir", "lenet.mindir", "trained.ckpt")}
    SPLIT = {n: archive.read(n) for n in archive.namelist() if n.startswith("split_")}


def refused_or_read(path: Path) -> bool:
    """Loads a file; the one error that may come out is ours. True if it was read."""
    try:
        if path.suffix == ".ckpt":
            assert read_checkpoint(path) is not None
        else:
            assert hs.load(path).nodes
    except hs.FormatError as e:
        assert str(path) in str(e)
        return False
    return True


# -- mutations -------------------------------------------------------------------------------------------------------


@BOUNDED
@given(name=st.sampled_from([*FILES]), part=st.floats(0, 1, exclude_max=True))
def test_truncated(tmp_path: Path, name: str, part: float) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name][: int(part * len(FILES[name]))])
    refused_or_read(path)


@BOUNDED
@given(
    name=st.sampled_from([*FILES]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_bytes_changed(tmp_path: Path, name: str, changes: list[tuple[float, int]]) -> None:
    raw = bytearray(FILES[name])
    for place, value in changes:
        raw[int(place * len(raw))] = value
    path = tmp_path / name
    path.write_bytes(raw)
    refused_or_read(path)


@BOUNDED
@given(raw=st.binary(max_size=300), suffix=st.sampled_from([".mindir", ".ckpt"]))
def test_noise(tmp_path: Path, raw: bytes, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(raw)
    assert not refused_or_read(path)


NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 255, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1])


@BOUNDED
@given(name=st.sampled_from(["functions.mindir", "twice.mindir", "lenet.mindir"]), data=st.data())
def test_fields_changed(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """The structure stays: names, numbers, attributes and shapes change, things are repeated and go."""
    model = decode(FILES[name], MODEL)
    for _ in range(data.draw(st.integers(1, 4))):
        graph = data.draw(st.sampled_from([model["graph"], *model.get("functions", [])]))
        node = data.draw(st.sampled_from(graph["node"]))
        attributes = [a for p in (node, *model["primitives"]) for a in p.get("attribute", [])]
        names = [n["output"][0] for n in graph["node"]] + [graph["name"], "nobody"]
        kinds = [n["op_type"] for n in graph["node"]] + [f"REF::{graph['name']}", "Concat", "Split", "Pad"]
        match data.draw(st.integers(0, 7)):
            case 0:
                node["op_type"] = data.draw(st.sampled_from(kinds))
            case 1 if node.get("input"):
                node["input"][data.draw(st.integers(0, len(node["input"]) - 1))] = data.draw(st.sampled_from(names))
            case 2:
                node["output"] = [data.draw(st.sampled_from(names))]
            case 3 if attributes:
                attribute = data.draw(st.sampled_from(attributes))
                attribute["i"], attribute["type"] = data.draw(NUMBERS), data.draw(st.integers(0, 40))
                attribute["ints"] = data.draw(st.lists(NUMBERS, max_size=5))
            case 4 if "parameter" in graph:
                data.draw(st.sampled_from(graph["parameter"]))["dims"] = data.draw(st.lists(NUMBERS, max_size=5))
            case 5 if graph["input"][0].get("tensor"):
                graph["input"][0]["tensor"][0]["dims"] = data.draw(st.lists(NUMBERS, max_size=5))
            case 6:
                graph["node"].insert(data.draw(st.integers(0, len(graph["node"]))), node)
            case _:
                graph["node"].remove(node)
    path = tmp_path / name
    path.write_bytes(encode(MODEL, model))
    refused_or_read(path)


# -- what someone might think of ---------------------------------------------------------------------------------------


def tensor(*dims: int) -> dict[str, Any]:
    return {"dims": list(dims), "data_type": 1}


def node(op: str, inputs: list[str], output: str) -> dict[str, Any]:
    shape = {"name": "shape", "type": 19, "tensors": [tensor(1, 4)]}
    return {"op_type": op, "input": inputs, "output": [output], "name": output, "attribute": [shape]}


def network(*nodes: dict[str, Any], output: str = "y", **more: Any) -> dict[str, Any]:
    """y of an input x (1, 4)."""
    graph = {"name": "net", "node": list(nodes), "input": [{"name": "x", "tensor": [tensor(1, 4)]}]}
    return {"graph": {**graph, "output": [{"name": output}]} | more.pop("graph", {}), **more}


def function(name: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "node": list(nodes), "input": [{"name": f"{name}:x"}], "output": [{"name": f"{name}:y"}]}


def calls(count: int, times: int) -> dict[str, Any]:
    """Functions of which each calls the next one several times: `times` to the power of `count` operators."""
    functions = []
    for i in range(count):
        steps = [f"f{i}:x", *(f"f{i}:{k}" for k in range(times - 1)), f"f{i}:y"]
        op = f"REF::f{i + 1}" if i < count - 1 else "ReLU"
        functions.append(function(f"f{i}", *(node(op, [a], b) for a, b in itertools.pairwise(steps))))
    return network(node("REF::f0", ["x"], "y"), functions=functions)


def tuples(count: int) -> dict[str, Any]:
    """Tuples of tuples, of which each has the last one twice."""
    names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
    return network(*(node("MakeTuple", [a, a], b) for a, b in itertools.pairwise(names)))


def parameter(**more: Any) -> dict[str, Any]:
    given = {"name": "net:w", "dims": [4], "data_type": 1, **more}
    return network(node("Add", ["x", "net:w"], "y"), graph={"parameter": [given]})


def outside(location: str) -> dict[str, Any]:
    return parameter(external_data={"location": location, "offset": 0, "length": 16})


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a function that calls itself": (
        lambda: network(node("REF::f", ["x"], "y"), functions=[function("f", node("REF::f", ["f:x"], "f:y"))]),
        "too deep, or in a circle",
    ),
    "calls that double thirty times": (lambda: calls(30, 2), "more than 200,000 operands"),
    "calls that are a thousandfold, twenty times": (lambda: calls(20, 1000), "more than 200,000 operands"),
    "tuples that double sixty times": (lambda: tuples(60), "more than 1000 outputs"),
    "a node that reads itself": (lambda: network(node("ReLU", ["y"], "y")), "nothing before it writes"),
    "a circle": (lambda: network(node("ReLU", ["b"], "y"), node("ReLU", ["y"], "b")), "nothing before it writes"),
    "an output that nothing writes": (lambda: network(output="y"), "nothing before it writes"),
    "two that write one name": (lambda: network(node("ReLU", ["x"], "y"), node("ReLU", ["x"], "y")), "already"),
    "a parameter of exabytes": (lambda: parameter(dims=[2**31 - 1] * 2), "needs another number|needs 4"),
    "a parameter of negative size": (lambda: parameter(dims=[-4]), "can't be read"),
    "a parameter of too many axes": (lambda: parameter(dims=[1] * 1000), "its shape is"),
    "a parameter of complex numbers": (lambda: parameter(data_type=14, raw_data=bytes(32)), "can't be read"),
    "compressed weights": (lambda: parameter(compression_type=3, raw_data=bytes(16)), "compressed"),
    "weights in another folder": (lambda: outside("../secret"), "not in the model's folder"),
    "weights at an absolute path": (lambda: outside("/etc/passwd"), "not in the model's folder"),
    "weights at a device": (lambda: outside("C:\\secret"), "not in the model's folder"),
    "weights that are not there": (lambda: outside("nowhere"), "no such file"),
    "another byte order": (lambda: network(node("ReLU", ["x"], "y"), little_endian=0), "byte order"),
    "a hash table": (lambda: network(node("ReLU", ["x"], "y"), graph={"map_parameter": [b"table"]}), "hash tables"),
    "no input": (lambda: network(graph={"input": []}, output="x"), "nothing before it writes"),
    "an item of no tuple": (lambda: network(node("TupleGetItem", ["x", "x"], "y")), "takes item"),
}


@pytest.mark.parametrize(("make", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_little_memory(
    make: Callable[[], dict[str, Any]], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.mindir"
    path.write_bytes(encode(MODEL, make()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(hs.FormatError, match=says):
        hs.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024


def test_the_small_network_is_read_as_it_stands(tmp_path: Path) -> None:
    """So that what the others are refused for is what is wrong with them."""
    path = tmp_path / "net.mindir"
    for made in (network(node("ReLU", ["x"], "y")), parameter(raw_data=bytes(16)), calls(5, 2)):
        path.write_bytes(encode(MODEL, made))
        assert refused_or_read(path)


def test_data_in_files_beside_the_network_must_fit_and_be_inside(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name, raw in SPLIT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    path = folder / "split_graph.mindir"
    assert refused_or_read(path)
    part = folder / "split_variables" / "data_1"
    part.rename(tmp_path / "moved")
    part.symlink_to(tmp_path / "moved")
    with pytest.raises(hs.FormatError, match="not in the model's folder"):
        hs.load(path)
    part.unlink()
    part.write_bytes(b"short")
    with pytest.raises(hs.FormatError, match="that has 5"):
        hs.load(path)


def checkpoint(*values: tuple[str, list[int], str, bytes]) -> bytes:
    fields = [{"tag": t, "tensor": {"dims": d, "tensor_type": k, "tensor_content": c}} for t, d, k, c in values]
    return encode(_CHECKPOINT, {"value": fields})


WRONG = {
    "empty": (b"", "empty"),
    "too few bytes": (checkpoint(("w", [3], "Float32", bytes(8))), "8 bytes"),
    "exabytes": (checkpoint(("w", [2**31 - 1] * 3, "Float32", bytes(8))), "8 bytes"),
    "negative": (checkpoint(("w", [-1], "Float32", bytes(4))), "can't be read"),
    "an unknown type": (checkpoint(("w", [1], "Object", bytes(4))), "'Object'"),
    "one name for two": (checkpoint(("w", [1], "Float32", bytes(4)), ("w", [2], "Float32", bytes(8))), "two tensors"),
    "a wrong checksum": (checkpoint(("w", [1], "Float32", bytes(4))) + b"crc_num" + bytes(10), "checksum"),
}


@pytest.mark.parametrize(("raw", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_checkpoints_are_refused(raw: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    path.write_bytes(raw)
    with pytest.raises(hs.FormatError, match=says):
        read_checkpoint(path)


def test_slices_and_scalars_of_a_checkpoint_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    halves = [("w", [2, 2], "Float16", bytes(4)), ("w", [2, 2], "Float16", bytes(4))]
    path.write_bytes(checkpoint(*halves, ("s", [0], "Int64", bytes(8)), ("b", [1], "BFloat16", b"\x80\x3f")))
    found = read_checkpoint(path)
    assert {n: (a.shape, str(a.dtype)) for n, a in found.items()} == {
        "w": ((2, 2), "float32"),
        "s": ((), "int64"),
        "b": ((1,), "float32"),
    }
    assert found["b"].item() == 1.0
