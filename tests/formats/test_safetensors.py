"""`.safetensors`: weights go out as PyTorch lays them out, and come back into the network; wrong files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

import homespun as hs
from homespun.formats import safetensors as reader
from tests.formats.networks import small_network

SMALL = {"classes": 3, "width": 0.25, "image_size": 32}
BOUNDED = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
WHOLE = save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})


def test_weights_go_out_and_come_back(tmp_path: Path) -> None:
    model = hs.zoo.mobilenet_v2(seed=3, **SMALL)
    hs.save(model, tmp_path / "w.safetensors")
    back = hs.load(tmp_path / "w.safetensors", architecture="mobilenet_v2", **SMALL)
    for name, data in model.parameters().items():
        np.testing.assert_array_equal(back.data(name), data)


def test_the_layout_is_pytorchs(tmp_path: Path) -> None:
    model = small_network()
    hs.save(model, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found["stem.weight"].shape == (8, 3, 3, 3)
    np.testing.assert_array_equal(found["stem.weight"].transpose(2, 3, 1, 0), model.data("stem.weight"))
    np.testing.assert_array_equal(found["classifier.weight"].T, model.data("classifier.weight"))
    assert set(found) == {t.name for t in model.with_role("parameter", "state")}


def test_halves(tmp_path: Path) -> None:
    model = hs.zoo.mobilenet_v2(**SMALL)
    hs.save(model, tmp_path / "w.safetensors", weights="float16")
    back = hs.load(tmp_path / "w.safetensors", architecture="mobilenet_v2", **SMALL)
    name = "classifier.weight"
    np.testing.assert_array_equal(back.data(name), model.data(name).astype(np.float16).astype(np.float32))
    with pytest.raises(hs.OptionError, match="int8"):
        hs.save(model, tmp_path / "w.safetensors", weights="int8")


def test_bfloat16_is_read(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}} '
    raw = len(header).to_bytes(8, "little") + header + np.array([0x3F80, 0xC000], "<u2").tobytes()
    (tmp_path / "w.safetensors").write_bytes(raw)
    np.testing.assert_array_equal(reader.read_state_dict(tmp_path / "w.safetensors")["a"], [1.0, -2.0])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    save_file({"somewhere.weight": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(hs.FormatError, match="does not fit mobilenet_v2"):
        hs.load(tmp_path / "w.safetensors", architecture="mobilenet_v2", **SMALL)
    with pytest.raises(hs.OptionError, match="architecture"):
        hs.load(tmp_path / "w.safetensors")


@BOUNDED
@given(
    st.one_of(st.binary(max_size=200), st.integers(0, len(WHOLE)), st.tuples(st.integers(0, 90), st.integers(0, 255)))
)
def test_damaged_files_are_refused_or_read(tmp_path: Path, change: bytes | int | tuple[int, int]) -> None:
    raw = bytearray(WHOLE)
    if isinstance(change, bytes):
        raw = bytearray(change)
    elif isinstance(change, int):
        raw = raw[:change]
    else:
        raw[change[0]] = change[1]
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw)
    try:
        reader.read_state_dict(path)
    except hs.FormatError as e:
        assert str(path) in str(e)
