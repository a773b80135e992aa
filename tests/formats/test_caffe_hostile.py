"""Caffe files that are wrong, truncated or hostile: `FormatError`, quickly, in little memory, and nothing else."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import homespun as hs
from tests.formats.caffe_files import blob, layer
from tests.formats.wire import field, varint

GOLDENS = Path(__file__).parent / "goldens" / "caffe"
NAMES = ("classifier", "norms", "movement", "pooling", "deconvolution", "version1", "version0")
TEXTS = {n: (GOLDENS / f"{n}.prototxt").read_text() for n in NAMES}
WEIGHTS = {n: (GOLDENS / f"{n}.caffemodel").read_bytes() for n in NAMES}
WORDS = sorted({w for text in TEXTS.values() for w in re.findall(r"[A-Za-z_]\w*", text)})
BOUNDED = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
INPUT = 'input: "data" input_shape { dim: 1 dim: 4 dim: 5 dim: 6 }\n'


def refused_or_read(folder: Path, text: str | bytes, weights: bytes) -> bool:
    """Loads the two files; the one error that may come out is ours. True if they were read."""
    (folder / "net.prototxt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "net.caffemodel").write_bytes(weights)
    try:
        graph = hs.load(folder / "net.prototxt")
    except hs.FormatError as e:
        assert str(folder) in str(e)
        return False
    assert graph.nodes
    return True


@pytest.mark.parametrize("name", NAMES)
def test_what_is_mutated_is_read(name: str, tmp_path: Path) -> None:
    assert refused_or_read(tmp_path, TEXTS[name], WEIGHTS[name])


@BOUNDED
@given(name=st.sampled_from(NAMES), part=st.floats(0, 1), of_text=st.booleans())
def test_truncated(tmp_path: Path, name: str, part: float, of_text: bool) -> None:
    text, weights = TEXTS[name], WEIGHTS[name]
    cut = (text[: int(part * len(text))], weights) if of_text else (text, weights[: int(part * len(weights))])
    refused_or_read(tmp_path, *cut)


@BOUNDED
@given(
    name=st.sampled_from(NAMES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    of_text=st.booleans(),
)
def test_bytes_changed(tmp_path: Path, name: str, changes: list[tuple[float, int]], of_text: bool) -> None:
    text, weights = bytearray(TEXTS[name].encode()), bytearray(WEIGHTS[name])
    changed = text if of_text else weights
    for at, value in changes:
        changed[int(at * len(changed))] = value
    refused_or_read(tmp_path, bytes(text), bytes(weights))


@BOUNDED
@given(data=st.data())
def test_words_and_numbers_changed(tmp_path: Path, data: st.DataObject) -> None:
    """The structure stays: types, names of fields and blobs, and numbers change."""
    name = data.draw(st.sampled_from(NAMES))
    tokens = re.split(r"([A-Za-z_]\w*|-?\d+\.?\d*)", TEXTS[name])
    numbers = st.sampled_from(["0", "1", "-1", "2", "3", "255", "-2147483648", "4294967296", "1e30", "nan", "0.5"])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(tokens) // 2 - 1)) * 2 + 1
        is_word = tokens[at][0].isalpha()
        tokens[at] = data.draw(st.sampled_from(WORDS) if is_word else numbers)
    refused_or_read(tmp_path, "".join(tokens), WEIGHTS[name])


@BOUNDED
@given(text=st.binary(max_size=200), weights=st.binary(max_size=200))
def test_noise(tmp_path: Path, text: bytes, weights: bytes) -> None:
    assert not refused_or_read(tmp_path, TEXTS["classifier"], weights)
    assert not refused_or_read(tmp_path, text, WEIGHTS["classifier"])


# -- what someone might think of ---------------------------------------------------------------------------------------

SMALL = layer("y", "Bias", [blob(np.ones(4, np.float32))])


def one(kind: str, rest: str, more: str = "") -> str:
    return INPUT + f'layer {{ name: "y" type: "{kind}" bottom: "data" {more} top: "y" {rest} }}'


HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "comments that could end anywhere": (INPUT + "#" * 100_000 + "\n@", SMALL, "can't be read"),
    "text that never ends": (INPUT + 'layer { name: "' + "\\'" * 100_000, SMALL, "can't be read"),
    "messages in messages": ("a {" * 100_000, SMALL, "nested more than 16 deep"),
    "a number of a million digits": (INPUT + "a: " + "9" * 1_000_000, SMALL, "too long for a number"),
    "a larger text than networks have": ("#" * (2**21 + 1), SMALL, "more than the text of a network has"),
    "a million unknown fields": ("a: 1 " * 400_000, SMALL, "is nothing that a network has"),
    "a huge image": (
        'input: "data" input_shape { dim: 1 dim: 30000 dim: 30000 dim: 30000 }' + one("ReLU", "")[len(INPUT) :],
        SMALL,
        "would have",
    ),
    "an image enlarged": (one("Interp", "interp_param { height: 2000000000 width: 2000000000 }"), SMALL, "would have"),
    "more outputs than weights": (
        one("Convolution", "convolution_param { num_output: 2000000000 kernel_size: 1000 }"),
        SMALL,
        "should be",
    ),
    "a batch norm of everything": (one("BatchNorm", ""), SMALL, "no count of batches"),
    "joined a thousand times, twice": (
        INPUT
        + 'layer { name: "a" type: "Concat" '
        + 'bottom: "data" ' * 1000
        + 'top: "a" } '
        + 'layer { name: "b" type: "Concat" '
        + 'bottom: "a" ' * 1000
        + 'top: "b" } '
        + 'layer { name: "c" type: "Concat" '
        + 'bottom: "b" ' * 1000
        + 'top: "c" }',
        SMALL,
        "would have",
    ),
    "a layer that reads a hundred thousand blobs": (
        one("Eltwise", "", 'bottom: "data" ' * 100_000),
        SMALL,
        "reads 100001 blobs",
    ),
    "a chain of a layer's own name": (
        INPUT
        + 'layer { name: "y" type: "ReLU" bottom: "data" top: "data" } ' * 5_000
        + 'layer { type: "X" bottom: "data" top: "z" }',
        SMALL,
        "there is no such layer",
    ),
    "weights of a shape that is not there": (
        one("Bias", ""),
        layer("y", "Bias", [field(7, field(1, varint(2**40)))]),
        "0 numbers do not fit",
    ),
    "a shape of a million axes": (
        one("Bias", ""),
        layer("y", "Bias", [field(7, field(1, b"\x01" * 900_000)) + field(5, b"1234")]),
        "numbers do not fit",
    ),
    "a field that is longer than the file": (one("Bias", ""), b"\xa2\x06" + varint(2**60), "truncated"),
    "millions of empty fields": (one("Bias", ""), b"\x08\x00" * 2_000_000, "fields"),
    "layers in layers": (one("Bias", ""), field(2, field(1, field(1, "y")) * 3), "no bias for it"),
}


@pytest.mark.parametrize(("text", "weights", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_in_little_memory(text: str, weights: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "net.caffemodel").write_bytes(weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(hs.FormatError, match=says):
        hs.load(tmp_path / "net.caffemodel")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024
