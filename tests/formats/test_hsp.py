"""`.hsp`: what goes in comes out, in every precision; nothing is half-written; a wrong file is named, with place."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

import homespun as hs
from homespun.compression import dequantize_per_channel, quantize_per_channel
from homespun.graph import Graph, Tensor
from tests.formats.networks import assert_same, image, small_network

Document = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.hsp"


# -- round trips ---------------------------------------------------------------------------------------------------


def test_float32_comes_back_bit_for_bit(path: Path) -> None:
    model = small_network()
    hs.save(model, path)
    loaded = hs.load(path)
    assert_same(model, loaded)
    for a, b in zip(hs.Predictor(model)(image()), hs.Predictor(loaded)(image()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loaded_arrays_are_mapped_and_writing_to_them_leaves_the_file(path: Path) -> None:
    hs.save(small_network(), path)
    before = path.read_bytes()
    data = hs.load(path).data("project.weight")
    assert not data.flags.owndata
    data[:] = 0
    assert path.read_bytes() == before


def test_float16_rounds_weights_only(path: Path) -> None:
    model = small_network()
    model.data("project.weight")[0, 0, 0, 0] = 1e5  # beyond float16: this one stays float32
    hs.save(model, path, weights="float16")
    loaded = hs.load(path)
    assert_same(model, loaded, data=False)
    for t in model.with_role("parameter", "state"):
        want = np.asarray(t.data)
        if t.name in ("stem.weight", "depthwise.weight", "classifier.weight"):
            want = want.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(loaded.data(t.name), want, err_msg=t.name)


def test_int8_keeps_a_scale_for_each_output_channel(path: Path) -> None:
    model = small_network()
    hs.save(model, path, weights="int8")
    loaded = hs.load(path)
    assert_same(model, loaded, data=False)
    for name in ("stem.weight", "depthwise.weight", "project.weight", "classifier.weight"):
        was, now = model.data(name), loaded.data(name)
        codes, scale = quantize_per_channel(now)
        np.testing.assert_array_equal(dequantize_per_channel(codes, scale), now)
        assert (np.abs(was - now) <= 1.5 * scale).all(), name
        with safe_open(path, "np") as file:
            np.testing.assert_array_equal(file.get_tensor(name), codes)
            np.testing.assert_array_equal(file.get_tensor(f"{name}:scale"), scale)
    np.testing.assert_array_equal(loaded.data("project.bias"), model.data("project.bias"))


def test_int8_saved_again_is_the_same_file(path: Path) -> None:
    hs.save(small_network(), path, weights="int8")
    again = path.with_name("again.hsp")
    hs.save(hs.load(path), again, weights="int8")
    assert again.read_bytes() == path.read_bytes()


def test_int8_is_four_times_smaller(tmp_path: Path) -> None:
    model = hs.zoo.mobilenet_v2(image_size=32)
    for weights in ("float32", "int8"):
        hs.save(model, tmp_path / f"{weights}.hsp", weights=weights)
    assert (tmp_path / "float32.hsp").stat().st_size > 3.5 * (tmp_path / "int8.hsp").stat().st_size


names = st.text(min_size=1, max_size=8).filter(lambda s: s != "x" and "\x00" not in s)
dtypes = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    arrays=st.dictionaries(names, dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4)))),
    metadata=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
    name=st.text(max_size=10),
)
def test_any_names_dtypes_and_texts(tmp_path: Path, arrays: dict[str, Any], metadata: Any, name: str) -> None:
    graph = Graph(name)
    graph.add_tensor(Tensor("x", "input", (-1, 4)))
    graph.inputs = ["x"]
    for key, array in arrays.items():
        graph.add_array(key, array, "constant")
    graph.add_node("identity", ["x"], [graph.fresh_name("y")])
    graph.outputs = [graph.nodes[0].outputs[0]]
    graph.metadata = metadata
    hs.save(graph, tmp_path / "any.hsp")
    assert_same(graph, hs.load(tmp_path / "any.hsp"))


# -- writing --------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hs.save(small_network(), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("homespun.formats.hsp.serialize_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        hs.save(small_network(seed=1), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_takes_no_more_is_an_os_error(path: Path) -> None:
    hs.save(small_network(), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # as a quota has it; Python ignores the signal
    try:
        with pytest.raises(OSError, match="large") as refused:
            hs.save(small_network(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_data_reach_the_disk_before_the_name_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def noted_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    hs.save(small_network(), path)
    assert order == ["file", "rename", "folder"]


def test_a_saved_file_has_the_permissions_of_any_new_file(path: Path) -> None:
    hs.save(small_network(), path)
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("weights", ["int4", "", "FLOAT32"])
def test_unknown_precisions_are_refused(path: Path, weights: str) -> None:
    with pytest.raises(hs.OptionError, match="float16"):
        hs.save(small_network(), path, weights=weights)
    assert not path.exists()


# -- choosing a format -----------------------------------------------------------------------------------------------


def test_unknown_suffixes_list_what_can_be_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "net.xyz").write_bytes(b"?")
    with pytest.raises(hs.FormatError, match=r"net\.xyz.*\.hsp"):
        hs.load(tmp_path / "net.xyz")
    with pytest.raises(hs.FormatError, match=r"net\.xyz.*\.hsp"):
        hs.save(small_network(), tmp_path / "net.xyz")


def test_missing_files_and_options_that_do_not_apply(path: Path) -> None:
    with pytest.raises(hs.FormatError, match="no such file"):
        hs.load(path)
    hs.save(small_network(), path)
    with pytest.raises(hs.OptionError, match="architecture"):
        hs.load(path, architecture="mobilenet_v2")


# -- wrong files -----------------------------------------------------------------------------------------------------


def parts(file: bytes) -> tuple[Document, Document, bytes]:
    """The header, the graph in it, and the data."""
    (length,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["homespun"]), file[8 + length :]


def assemble(header: Document, graph: Document | None, data: bytes) -> bytes:
    if graph is not None:
        header["__metadata__"]["homespun"] = json.dumps(graph)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def node(graph: Document, name: str) -> Document:
    return next(n for n in graph["nodes"] if n["name"] == name)


def tensor(graph: Document, name: str) -> Document:
    return next(t for t in graph["tensors"] if t["name"] == name)


def edit(change: Callable[[Document, Document], object]) -> Callable[[bytes], bytes]:
    """A change of header and graph, as a change of the file."""

    def apply(file: bytes) -> bytes:
        header, graph, data = parts(file)
        change(header, graph)
        return assemble(header, graph, data)

    return apply


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda f: b"", "0 bytes"),
    "cut in the length": (lambda f: f[:5], "5 bytes"),
    "cut in the header": (lambda f: f[:200], "truncated"),
    "cut in the data": (lambda f: f[:-1], "truncated"),
    "longer": (lambda f: f + b"\0", "longer"),
    "another kind of file": (lambda f: b"\x89PNG\r\n\x1a\n" + f[8:], "not an .hsp file"),
    "huge header": (lambda f: struct.pack("<Q", 2**62) + f[8:], "header"),
    "not UTF-8": (lambda f: f[:10] + b"\xff\xfe" + f[12:], "UTF-8"),
    "not JSON": (lambda f: f[:8] + b"}" + f[9:], "JSON"),
    "deep JSON": (lambda f: struct.pack("<Q", 400_000) + b"[" * 400_000, "JSON"),
    "JSON with NaN": (edit(lambda h, g: node(g, "clipped")["attributes"].update(low=float("nan"))), "NaN"),
    "plain safetensors": (lambda f: _without(f), "__metadata__"),
    "later version": (edit(lambda h, g: g.update(version=2)), "version 2.*update"),
    "no version": (edit(lambda h, g: g.pop("version")), "'version' is missing"),
    "version as text": (edit(lambda h, g: g.update(version="1")), "a string, expected an integer"),
    "version true": (edit(lambda h, g: g.update(version=True)), "true or false, expected an integer"),
    "nodes missing": (edit(lambda h, g: g.pop("nodes")), "'nodes' is missing"),
    "nodes as text": (edit(lambda h, g: g.update(nodes="x")), "expected a list"),
    "a node that is a list": (edit(lambda h, g: g["nodes"].append([])), "expected an object"),
    "unknown operator": (edit(lambda h, g: node(g, "sum").update(op="exec")), "no operator named 'exec'"),
    "unknown attribute": (edit(lambda h, g: node(g, "sum")["attributes"].update(evil=1)), "unknown attribute 'evil'"),
    "attribute of a wrong type": (edit(lambda h, g: node(g, "stem")["attributes"].update(groups="1")), "'groups'"),
    "attribute beyond 32 bits": (edit(lambda h, g: node(g, "stem")["attributes"].update(groups=2**40)), "32 bits"),
    "attribute nested": (edit(lambda h, g: node(g, "stem")["attributes"].update(stride=_nested(900))), "a list"),
    "shape nested": (edit(lambda h, g: tensor(g, "stem.weight").update(shape=_nested(900))), "axis 0"),
    "attribute null": (edit(lambda h, g: node(g, "stem")["attributes"].update(groups=None)), "null"),
    "stride of three": (edit(lambda h, g: node(g, "stem")["attributes"].update(stride=[1, 1, 1])), "'stride'"),
    "stride zero": (edit(lambda h, g: node(g, "stem")["attributes"].update(stride=[0, 0])), "stem|graph"),
    "stride of fractions": (edit(lambda h, g: node(g, "stem")["attributes"].update(stride=[1.5, 1.5])), "'stride'"),
    "padding by an unknown rule": (edit(lambda h, g: node(g, "stem")["attributes"].update(padding="x")), "padding"),
    "cyclic": (edit(lambda h, g: node(g, "stem").update(inputs=["sum", "stem.weight"])), "not computed before"),
    "reads itself": (edit(lambda h, g: node(g, "sum").update(inputs=["sum", "act"])), "not computed before"),
    "reads nothing known": (edit(lambda h, g: node(g, "sum").update(inputs=["ghost", "act"])), "'ghost'"),
    "a node name twice": (edit(lambda h, g: node(g, "sum").update(name="stem")), "same name"),
    "too few inputs": (edit(lambda h, g: node(g, "sum").update(inputs=["act"])), "missing"),
    "too many inputs": (edit(lambda h, g: node(g, "sum").update(inputs=["act"] * 9)), "9 inputs"),
    "inputs of numbers": (edit(lambda h, g: node(g, "sum").update(inputs=[1, 2])), "strings"),
    "no outputs": (edit(lambda h, g: node(g, "sum").update(outputs=[])), "no output"),
    "two writers": (edit(lambda h, g: node(g, "sum").update(outputs=["act"])), "written already"),
    "writes an input": (edit(lambda h, g: node(g, "sum").update(outputs=["image"])), "can't be written"),
    "too many outputs": (edit(lambda h, g: node(g, "sum").update(outputs=["sum", "b"])), "2 outputs"),
    "missing output": (edit(lambda h, g: g.update(outputs=["ghost"])), "never computed"),
    "an input twice": (edit(lambda h, g: g.update(inputs=["image", "image"])), "twice"),
    "a tensor twice": (edit(lambda h, g: g["tensors"].append(g["tensors"][1])), "twice"),
    "unknown role": (edit(lambda h, g: tensor(g, "stem.weight").update(role="activation")), "role"),
    "unknown dtype": (edit(lambda h, g: tensor(g, "stem.weight").update(dtype="complex64")), "dtype"),
    "shape that the data has not": (edit(lambda h, g: tensor(g, "stem.weight").update(shape=[3, 3, 8, 3])), "expected"),
    "negative shape": (edit(lambda h, g: tensor(g, "stem.weight").update(shape=[-3, -3, 3, 8])), "axis 0"),
    "shape of fractions": (edit(lambda h, g: tensor(g, "stem.weight").update(shape=[3.0, 3, 3, 8])), "axis 0"),
    "huge image": (edit(lambda h, g: tensor(g, "image").update(shape=[-1, 2**30, 2**30, 3])), "shape"),
    "batch in the middle": (edit(lambda h, g: tensor(g, "image").update(shape=[1, -1, 9, 3])), "axis 1"),
    "channels that do not fit": (edit(lambda h, g: tensor(g, "image").update(shape=[-1, 9, 9, 4])), "4 channels"),
    "weights in an unknown form": (edit(lambda h, g: tensor(g, "stem.weight").update(stored="int4")), "'int4'"),
    "int8 without scales": (edit(lambda h, g: tensor(g, "norm.bias").update(stored="int8")), "norm.bias"),
    "data that nobody uses": (edit(lambda h, g: _drop(g, "clipped", "project.bias")), "no tensor"),
    "data that is not there": (edit(lambda h, g: _rename(h, "stem.weight", "stem")), "stem"),
    "metadata of numbers": (edit(lambda h, g: g["metadata"].update(classes=3)), "metadata 'classes'"),
    "offsets beyond the end": (edit(lambda h, g: _move(h, "stem.weight", 2**50)), "stem.weight"),
    "overlapping arrays": (edit(lambda h, g: _move(h, "stem.weight", -4)), "byte"),
    "negative offsets": (edit(lambda h, g: h["stem.weight"].update(data_offsets=[-864, 0])), "offsets"),
    "offsets as text": (edit(lambda h, g: h["stem.weight"].update(data_offsets="0")), "expected a list"),
    "dtype that is not stored": (edit(lambda h, g: h["stem.weight"].update(dtype="F8_E4M3")), "F8_E4M3"),
}


def _nested(depth: int) -> list[Any]:
    return [_nested(depth - 1)] if depth else []


def _without(file: bytes) -> bytes:
    header, _, data = parts(file)
    del header["__metadata__"]
    return assemble(header, None, data)


def _drop(graph: Document, name: str, array: str) -> None:
    graph["tensors"] = [t for t in graph["tensors"] if t["name"] != array]
    project = node(graph, "project")
    project["inputs"] = project["inputs"][:2]


def _rename(header: Document, old: str, new: str) -> None:
    header[new] = header.pop(old)


def _move(header: Document, key: str, by: int) -> None:
    header[key]["data_offsets"] = [o + by for o in header[key]["data_offsets"]]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_named_with_the_place(path: Path, case: str) -> None:
    hs.save(small_network(), path)
    change, message = WRONG[case]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(hs.FormatError, match=f"(?s)net.hsp: .*(?:{message})"):
        hs.load(path)


def _limits(graph: Document, **limits: Any) -> None:
    graph["limits"] = limits


def calibrated(path: Path) -> bytes:
    hs.save(small_network(), path, weights="int8", calibrate=image())
    return path.read_bytes()


WRONG_LIMITS = {
    "a list": (edit(lambda h, g: g.update(limits=[])), "limits"),
    "of no tensor": (edit(lambda h, g: _limits(g, nobody="act:limit")), "nobody"),
    "of a weight": (edit(lambda h, g: _limits(g, **{"stem.weight": "act:limit"})), "no such activation"),
    "of other channels": (edit(lambda h, g: _limits(g, classifier="act:limit")), "act:limit"),
    "in numbers": (edit(lambda h, g: _limits(g, act=6)), "limit of 'act'"),
    "not there": (edit(lambda h, g: _limits(g, act="elsewhere")), "elsewhere"),
    "of weights' bytes": (edit(lambda h, g: _limits(g, act="stem.weight")), "float16"),
    "left alone": (edit(lambda h, g: g.pop("limits")), "no tensor"),
}


@pytest.mark.parametrize("case", WRONG_LIMITS)
def test_wrong_limits_are_named_with_the_place(path: Path, case: str) -> None:
    change, message = WRONG_LIMITS[case]
    path.write_bytes(change(calibrated(path)))
    with pytest.raises(hs.FormatError, match=f"(?s)net.hsp: .*(?:{message})"):
        hs.load(path)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf])
def test_limits_must_be_positive_numbers(path: Path, limit: float) -> None:
    header, _, data = parts(calibrated(path))
    begin = header["act:limit"]["data_offsets"][0]
    path.write_bytes(assemble(header, None, data[:begin] + struct.pack("<e", limit) + data[begin + 2 :]))
    with pytest.raises(hs.FormatError, match="limit of 'act'"):
        hs.load(path)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_must_be_positive_numbers(path: Path, scale: float) -> None:
    hs.save(small_network(), path, weights="int8")
    header, _, data = parts(path.read_bytes())
    begin = header["classifier.weight:scale"]["data_offsets"][0]
    data = data[:begin] + struct.pack("<f", scale) + data[begin + 4 :]
    path.write_bytes(assemble(header, None, data))
    with pytest.raises(hs.FormatError, match=r"classifier\.weight:scale"):
        hs.load(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "net.hsp"
    return calibrated(file)


def runs_or_is_refused(path: Path) -> None:
    """The one thing that must hold for any bytes: an error of ours, or a model that runs."""
    try:
        model = hs.load(path)
    except hs.FormatError as e:
        assert str(path) in str(e)
        return
    shapes = [model.tensors[n].shape for n in model.inputs]
    if sum(int(np.prod(s[1:])) for s in shapes) < 10**6:
        with suppress(hs.HomespunError):
            hs.Predictor(model)(*(np.zeros((1, *s[1:]), np.float32) for s in shapes))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_changed_bytes(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    file = bytearray(whole)
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "net.hsp").write_bytes(file)
    runs_or_is_refused(tmp_path / "net.hsp")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_noticed(tmp_path: Path, whole: bytes, share: float) -> None:
    (tmp_path / "net.hsp").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(hs.FormatError, match=r"net\.hsp"):
        hs.load(tmp_path / "net.hsp")


values = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([2**31 - 1, -(2**31), 2**63, 1e308, -1.0, 0.5, "same_upper", "valid", "", None, True, [], {}]),
    st.lists(st.integers(-2, 4), max_size=6),
)


#: Attributes of operators that move values, where a wrong number would read or write out of bounds.
MOVING = ("shape", "axis", "axes", "start", "stop", "step", "kernel", "stride", "before", "after")


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_changed_graphs(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    header, graph, content = parts(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed = data.draw(st.sampled_from(graph["nodes"]))
        what = data.draw(st.sampled_from(["attribute", "inputs", "outputs", "op", "shape"]))
        known = [t["name"] for t in graph["tensors"]] + [n["name"] for n in graph["nodes"]]
        if what == "attribute":
            keys = [*changed["attributes"], "stride", "padding", "groups", "axis", "eps"]
            changed["attributes"][data.draw(st.sampled_from(keys))] = data.draw(values)
        elif what == "op":
            changed["op"] = data.draw(st.sampled_from(["reshape", "slice", "pad", "max_pool", "transpose", "softmax"]))
            changed["attributes"] = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(MOVING, values)))
        elif what == "shape":
            data.draw(st.sampled_from(graph["tensors"]))["shape"] = data.draw(values)
        else:
            changed[what] = data.draw(st.lists(st.sampled_from(known), max_size=4))
    (tmp_path / "net.hsp").write_bytes(assemble(header, graph, content))
    runs_or_is_refused(tmp_path / "net.hsp")
