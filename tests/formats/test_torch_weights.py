"""PyTorch weights without PyTorch: files that torch.save wrote (see tools/record_goldens.py), and hostile ones."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun.formats.torch_weights import read_state_dict
from tests.formats.pickles import Call, Global, Persistent, opcodes, pickled, pickled_state, storage, tensor, zipped
from tests.zoo.made import made_weights

GOLDENS = Path(__file__).parent / "goldens"
BASE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MATRIX = [[0, 1, 2], [3, 4, 5]]
RECORDED: dict[str, Any] = {
    "whole": BASE,
    "transposed": BASE.transpose(2, 1, 0),
    "part": BASE[:, 1:, ::2],
    "spread": np.ones(3, np.float32),
    **{d: np.array(MATRIX, d) for d in ("float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")},
    "bfloat16": np.array(MATRIX, np.float32),
    "scalar": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.ones(2, np.float32),
}
NEWER: dict[str, Any] = {
    **{d: np.array([0, 1, 2], d) for d in ("uint16", "uint32", "uint64")},
    **{d: np.array([0, 1, 2], np.float32) for d in ("float8_e4m3fn", "float8_e5m2")},
}


@pytest.mark.parametrize(("file", "expected"), [("old.pth", RECORDED), ("zip.pth", RECORDED | NEWER)])
def test_every_dtype_and_view_of_both_containers(file: str, expected: dict[str, Any]) -> None:
    state = read_state_dict(GOLDENS / file)
    assert set(state) == set(expected)
    for name, want in expected.items():
        assert state[name].dtype == want.dtype, name
        np.testing.assert_array_equal(state[name], want, err_msg=name)


def test_float8_tables_hold_the_formats_corner_values() -> None:
    from homespun.formats.torch_weights import _WIDENED

    codes = np.array([0x7E, 0x01, 0x80, 0x7F, 0xC0], np.uint8)
    np.testing.assert_array_equal(_WIDENED["float8_e4m3fn"](codes), [448, 2.0**-9, -0.0, np.nan, -2])
    codes = np.array([0x7B, 0x01, 0x7C, 0x7D, 0xFC], np.uint8)
    np.testing.assert_array_equal(_WIDENED["float8_e5m2"](codes), [57344, 2.0**-16, np.inf, np.nan, -np.inf])


@pytest.mark.parametrize("file", ["checkpoint.pth", "protocol4.pth"])
def test_checkpoints_and_later_pickle_protocols(file: str) -> None:
    state = read_state_dict(GOLDENS / file)
    shapes = {n: a.shape for n, a in state.items() if not n.endswith("num_batches_tracked")}
    for name, want in made_weights(shapes).items():
        np.testing.assert_array_equal(state[name], want)


def test_a_section_can_be_named() -> None:
    assert (
        read_state_dict(GOLDENS / "checkpoint.pth", entry="state_dict").keys()
        == read_state_dict(GOLDENS / "protocol4.pth").keys()
    )
    with pytest.raises(hs.FormatError, match="no section 'epoch'"):
        read_state_dict(GOLDENS / "checkpoint.pth", entry="epoch")


def test_a_whole_module_is_refused_by_the_name_of_its_class() -> None:
    with pytest.raises(hs.FormatError, match=r"module\.pth.*torch\.nn\.modules\.container\.Sequential.*refused"):
        read_state_dict(GOLDENS / "module.pth")


def test_big_endian_files(tmp_path: Path) -> None:
    assert_reads(tmp_path, zipped(pickled(tensor("0", 3)), {"data/0": np.arange(3, dtype=">f4"), "byteorder": b"big"}))


# -- loading into the zoo ----------------------------------------------------------------------------------------


def test_load_wants_to_know_the_network() -> None:
    with pytest.raises(hs.OptionError, match=r"architecture=.*mobilenet_v2"):
        hs.load(GOLDENS / "zip.pth")
    with pytest.raises(hs.OptionError, match=r"'resnet'.*mobilenet_v2"):
        hs.load(GOLDENS / "zip.pth", architecture="resnet")
    with pytest.raises(hs.FormatError, match=r"zip\.pth.*does not fit mobilenet_v2.*is missing.*more"):
        hs.load(GOLDENS / "zip.pth", architecture="mobilenet_v2", image_size=32)


def test_load_builds_the_network_with_its_weights(tmp_path: Path) -> None:
    graph = hs.zoo.mobilenet_v1(classes=3, width=0.25, image_size=32)
    members, listed = {}, OrderedDict()
    for i, t in enumerate(graph.with_role("parameter", "state")):
        back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(t.shape)]
        array = np.random.default_rng(i).uniform(0.1, 1, t.shape).astype(np.float32)
        members[f"data/{i}"] = theirs = np.ascontiguousarray(array.transpose(back))
        listed[t.name] = tensor(str(i), *theirs.shape)
        t.data = array
    (tmp_path / "net.pth").write_bytes(zipped(pickled_state(listed), members))
    loaded = hs.load(tmp_path / "net.pth", architecture="mobilenet_v1", classes=3, width=0.25, image_size=32)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(hs.Predictor(loaded)(x), hs.Predictor(graph)(x))


# -- hostile files -------------------------------------------------------------------------------------------------


THREE = {"data/0": np.arange(3, dtype=np.float32)}


def streamed(value: Any, keys: Any = ("0",), tail: bytes | None = None) -> bytes:
    """The container from before PyTorch 1.6."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    pickles = b"".join(b"\x80\x02" + opcodes(v) + b"." for v in (*head, {"weight": value}, list(keys)))
    return pickles + (struct.pack("<q", 3) + THREE["data/0"].tobytes() if tail is None else tail)


def assert_reads(folder: Path, file: bytes) -> None:
    (folder / "net.pth").write_bytes(file)
    np.testing.assert_array_equal(read_state_dict(folder / "net.pth")["weight"], [0, 1, 2])


def test_the_files_made_here_are_readable_before_they_are_spoilt(tmp_path: Path) -> None:
    assert_reads(tmp_path, zipped(pickled(tensor("0", 3)), THREE))
    assert_reads(tmp_path, streamed(tensor("0", 3)))
    assert_reads(tmp_path, streamed(Call(Global("torch._utils", "_rebuild_tensor"), storage(count=3), 0, (3,), (1,))))
    part = storage("0", 3, "FloatStorage", ("view", 0, 3))
    assert_reads(tmp_path, streamed(Call(Global("torch._utils", "_rebuild_tensor"), part, 0, (3,), (1,))))


def raw(body: bytes) -> bytes:
    """A zip file whose pickle is exactly this."""
    return zipped(b"\x80\x02" + body + b".", THREE)


def without_a_checksum(file: bytes) -> bytes:
    at = file.index(THREE["data/0"].tobytes())
    return file[: at + 4] + b"\x07" + file[at + 5 :]


def directory_that_claims(file: bytes, size: int) -> bytes:
    at = file.rindex(b"PK\x05\x06")
    return file[: at + 12] + struct.pack("<L", size) + file[at + 16 :]


HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello", "neither a zip file"),
    "another pickle": (pickle.dumps({"a": 1}), "neither a zip file"),
    "os.system": (zipped(pickled(Call(Global("posix", "system"), "touch pwned")), {}), "posix.system.*refused"),
    "eval": (zipped(pickled(Call(Global("builtins", "eval"), "1")), {}), "builtins.eval.*refused"),
    "a torch function": (zipped(pickled(Call(Global("torch", "load"), "x")), {}), "torch.load.*refused"),
    "os.system by STACK_GLOBAL": (raw(b"\x8c\x05posix\x8c\x06system\x93(\x8c\x02lst\x52"), "posix.system.*refused"),
    "os.system in the old container": (streamed(Call(Global("os", "system"), "x")), "os.system.*refused"),
    "a call in the header": (b"\x80\x02" + opcodes(Call(Global("os", "system"), "x")) + b".", "neither a zip"),
    "INST": (raw(b"(X\x01\0\0\0xiposix\nsystem\n"), "INST.*refused"),
    "OBJ": (raw(b"(cposix\nsystem\nS'x'\no"), "refused"),
    "NEWOBJ": (raw(b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ.*refused"),
    "EXT1": (raw(b"\x82\x01"), "EXT1.*refused"),
    "an attribute set on a class": (raw(b"ccollections\nOrderedDict\n}b"), "malformed"),
    "a call of a dtype": (raw(b"ctorch\nfloat32\n)R"), "refused"),
    "a call of a dictionary": (raw(b"})R"), "refused"),
    "a call with a list": (raw(b"ctorch\nSize\n]R"), "refused"),
    "a call with too few arguments": (raw(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "malformed"),
    "no stop": (zipped(b"\x80\x02}", THREE), "malformed|does not end"),
    "empty pickle": (zipped(b"", THREE), "malformed|does not end"),
    "stop on an empty stack": (raw(b""), "malformed"),
    "a mark that is not there": (raw(b"t"), "malformed"),
    "a memo that is not there": (raw(b"h\x05"), "malformed"),
    "an odd dictionary": (raw(b"}(X\x01\0\0\0au"), "malformed"),
    "a key that can't be hashed": (raw(b"}]K\x01s"), "malformed"),
    "a key nested 10,000 times": (raw(b"})" + b"\x85" * 10_000 + b"K\x01s"), "malformed"),
    "a huge memo index": (raw(b"}r\xff\xff\xff\xff"), "no state dict|no tensors"),
    "text longer than the file": (raw(b"X\xff\xff\xff\x7fabc"), "malformed"),
    "bytes longer than the file": (raw(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f"), "malformed"),
    "a number of many digits": (raw(b"I" + b"9" * 100_000 + b"\n"), "malformed"),
    "a persistent id that is text": (raw(b"X\x01\0\0\0aQ"), "persistent id"),
    "a storage of no class": (zipped(pickled(Persistent(("storage", "x", "0", "cpu", 3))), THREE), "storage"),
    "a storage of negative size": (zipped(pickled(storage(count=-1)), THREE), "storage"),
    "a view without size": (streamed(storage("0", 3, "FloatStorage", (1, 2))), "view"),
    "a storage of two dtypes": (zipped(pickled([storage(), storage(kind="HalfStorage")]), THREE), "two dtypes"),
    "a storage that is missing": (zipped(pickled(tensor("1", 3)), THREE), "data/1"),
    "a key that climbs": (zipped(pickled(tensor("../../etc/passwd", 3)), THREE), "no member"),
    "a member that climbs": (zipped(pickled(tensor("0", 3)), THREE | {"../../evil": b"x"}), "outside"),
    "an absolute member": (zipped(pickled(tensor("0", 3)), THREE, root="/net"), "outside|data.pkl"),
    "no data.pkl": (zipped(pickled(tensor("0", 3)), THREE, root="a/b"), "data.pkl"),
    "more elements than bytes": (zipped(pickled(tensor("0", 4)), THREE), "weight.*storage"),
    "reaches past the end": (zipped(pickled(tensor("0", 3, offset=1)), THREE), "weight.*reaches"),
    "reaches before the start": (zipped(pickled(tensor("0", 3, offset=-1)), THREE), "weight.*reaches"),
    "strides past the end": (zipped(pickled(tensor("0", 3, stride=(2,))), THREE), "weight.*reaches"),
    "negative strides": (zipped(pickled(tensor("0", 3, stride=(-1,), offset=2)), THREE), "weight.*negative"),
    "negative sizes": (zipped(pickled(tensor("0", -3, count=3)), THREE), "weight.*negative"),
    "sizes of fractions": (zipped(pickled(tensor("0", 3.0, stride=(1,), count=3)), THREE), "malformed"),
    "fewer strides than sizes": (zipped(pickled(tensor("0", 3, stride=())), THREE), "malformed"),
    "a tensor of nothing": (
        zipped(pickled(Call(Global("torch._utils", "_rebuild_tensor_v2"), 1, 0, (), ())), {}),
        "malf",
    ),
    "one element spread over an exabyte": (
        zipped(pickled(tensor("0", 2**60, stride=(0,), count=3)), THREE),
        "weight.*more than the whole file",
    ),
    "overflowing strides": (zipped(pickled(tensor("0", 2, stride=(2**70,), count=3)), THREE), "weight.*reaches"),
    "a compressed member": (zipped(pickled(tensor("0", 3)), THREE, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a bomb": (
        lambda: zipped(pickled(tensor("0", 3)), {"data/0": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "a changed byte": (without_a_checksum(zipped(pickled(tensor("0", 3)), THREE)), "data/0.*checksum"),
    "cut": (zipped(pickled(tensor("0", 3)), THREE)[:-30], "zip directory"),
    "a huge directory": (directory_that_claims(zipped(pickled(tensor("0", 3)), THREE), 2**31), "directory"),
    "no tensors": (zipped(b"\x80\x02}.", THREE), "no tensors"),
    "a list": (zipped(b"\x80\x02].", THREE), "no state dict"),
    "two sections": (
        zipped(b"\x80\x02" + opcodes({"a": {"w": tensor("0", 3)}, "b": {"w": tensor("0", 3)}}) + b".", THREE),
        "a, b; name one",
    ),
    "old: cut in the storages": (streamed(tensor("0", 3))[:-4], "storage '0'.*truncated"),
    "old: no storages": (streamed(tensor("0", 3), tail=b""), "storage '0'.*truncated"),
    "old: a huge storage": (streamed(tensor("0", 3), tail=struct.pack("<q", 2**62)), "storage '0'.*more than"),
    "old: a negative storage": (streamed(tensor("0", 3), tail=struct.pack("<q", -1)), "storage '0'"),
    "old: keys twice": (streamed(tensor("0", 3), keys=("0", "0")), "twice"),
    "old: keys missing": (streamed(tensor("0", 3), keys=()), "not in the file"),
    "old: keys of nobody": (streamed(tensor("0", 3), keys=("0", "9")), "'9'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_name_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "net.pth"
    path.write_bytes(content() if callable(content) else content)
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    monkeypatch.setattr("builtins.eval", ran.append)
    tracemalloc.start()
    try:
        with pytest.raises(hs.FormatError, match=f"(?s)net.pth.*(?:{message})"):
            read_state_dict(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6
    assert not ran
    assert list(tmp_path.iterdir()) == [path]


def test_endless_pickles_end(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(raw(b"N" * 1_000_001))
    with pytest.raises(hs.FormatError, match="more than 1,000,000 pickle opcodes"):
        read_state_dict(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # from pickletools, at a changed byte in a text
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), name=st.sampled_from(["old.pth", "zip.pth", "protocol4.pth"]))
def test_changed_bytes_give_an_error_or_arrays(tmp_path: Path, data: st.DataObject, name: str) -> None:
    file = bytearray((GOLDENS / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(tmp_path / "net.pth", bytes(file[: data.draw(st.integers(len(file) // 2, len(file)))]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    body=st.lists(st.binary(max_size=8) | st.sampled_from([bytes([c]) for c in b"()]}tRQ.012abclqrsu0"]), max_size=40)
)
def test_any_pickle_gives_an_error_or_arrays(tmp_path: Path, body: list[bytes]) -> None:
    read_or_refused(tmp_path / "net.pth", raw(b"".join(body)))


def read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        for array in read_state_dict(path).values():
            array.sum()  # every byte that an array claims is there
    except hs.FormatError as e:
        assert str(path) in str(e)
