"""Files that MindSpore has written and what it computed of them, recorded by `tools/record_mindspore_goldens.py`."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import numpy as np

import homespun as hs
from homespun.formats.onnx.layout import KEPT_ORDER
from homespun.graph import Array

GOLDENS = Path(__file__).parent / "goldens"


@functools.cache
def recorded() -> dict[str, Array]:
    with np.load(GOLDENS / "mindspore.npz") as arrays:
        return dict(arrays)


def names(folder: str) -> list[str]:
    """Files of a folder of the recording, without their suffix."""
    with zipfile.ZipFile(GOLDENS / "mindspore.zip") as archive:
        return [Path(n).stem for n in archive.namelist() if n.startswith(f"{folder}/")]


def extract(folder: Path) -> Path:
    """All recorded files, in a folder."""
    with zipfile.ZipFile(GOLDENS / "mindspore.zip") as archive:
        archive.extractall(folder)
    return folder


def inputs_of(name: str, graph: hs.Graph) -> list[Array]:
    """What a network was recorded on, channels last."""
    found = []
    for i, ours in enumerate(graph.inputs):
        shape = graph.tensors[ours].shape[1:]
        foreign = (shape[-1], *shape[:-1]) if is_image(graph, ours, len(shape) + 1) else shape
        shared = "in/" + "x".join(str(n) for n in foreign)
        own = recorded()[f"{name}/in{i}" if f"{name}/in{i}" in recorded() else shared]
        found.append(own.transpose(0, 2, 3, 1) if foreign != shape else own)
    return found


def is_image(graph: hs.Graph, name: str, rank: int) -> bool:
    """Whether an input or output is channels-last here and channels-first there."""
    return rank == 4 and name not in graph.metadata.get(KEPT_ORDER, "").split(",")


def compare(name: str, graph: hs.Graph, tolerance: float = 1e-5) -> None:
    """The outputs of a network are those of the recording."""
    inputs = inputs_of(name, graph)
    results = hs.Predictor(graph, batch=len(inputs[0]))(*inputs)
    for i, ours in enumerate(results if isinstance(results, tuple) else (results,)):
        theirs = recorded()[f"{name}/out{i}"]
        if is_image(graph, graph.outputs[i], theirs.ndim):
            theirs = theirs.transpose(0, 2, 3, 1)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=tolerance * 10, atol=tolerance * max(1.0, np.abs(theirs).max()))


def export(stem: Path) -> None:
    """A small MobileNetV2 as MindSpore exports it: `stem.mindir`, and weights for it in `stem.ckpt`."""
    with zipfile.ZipFile(GOLDENS / "mindspore.zip") as archive:
        stem.with_suffix(".mindir").write_bytes(archive.read("mobilenet_v2_free.mindir"))
        stem.with_suffix(".ckpt").write_bytes(archive.read("mobilenet_v2.ckpt"))
