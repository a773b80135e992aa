"""MindIR files and checkpoints of MindSpore: what they compute is what MindSpore recorded, and they train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import homespun as hs
from homespun.formats.mindir.schema import MODEL
from tests.command_line import runner
from tests.formats.mindspore import compare, extract, inputs_of, names
from tests.formats.wire import decode, encode

NETWORKS = {"lenet": "lenet", "mobilenet_v2": "mobilenet_v2", "mobilenet_v2_free": "mobilenet_v2"}
NETWORKS |= {"transformer": "transformer", "functions": "transformer", "twice": "twice", "split_graph": "lenet"}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all recorded files."""
    return extract(tmp_path_factory.mktemp("mindspore"))


@pytest.mark.parametrize("name", names("operators"))
def test_operators_compute_what_mindspore_does(name: str, files: Path) -> None:
    graph = hs.load(files / "operators" / f"{name}.mindir")
    compare(name, graph, 2e-3 if name == "half" else 1e-5)
    if name in NO_TRANSPOSE:
        assert "transpose" not in {node.op for node in graph.nodes}


#: Images stay channels-last: what moves axes in the file moves nothing here.
NO_TRANSPOSE = [n for n in names("operators") if n.startswith(("conv_", "max_pool", "average_", "batch_norm"))]
NO_TRANSPOSE.remove("conv_row")


@pytest.mark.parametrize(("file", "recording"), NETWORKS.items())
def test_networks_compute_what_mindspore_does(file: str, recording: str, files: Path) -> None:
    compare(recording, hs.load(files / f"{file}.mindir"))


@pytest.mark.parametrize("file", NETWORKS)
def test_networks_train_and_compute_the_same_in_onnxruntime(file: str, files: Path, tmp_path: Path) -> None:
    graph = hs.load(files / f"{file}.mindir")
    inputs = inputs_of(NETWORKS[file], graph)
    graph.outputs = graph.outputs[-1:]
    trainer = hs.Trainer(graph, hs.losses.CrossEntropy(), hs.optim.Adam(3e-3), batch=3)
    given = inputs[: len(graph.inputs)]
    first = trainer.step(given if len(given) > 1 else given[0], np.array([0, 1, 2])).loss
    for _ in range(30):
        last = trainer.step(given if len(given) > 1 else given[0], np.array([0, 1, 2])).loss
    assert last < first / 2
    trainer.export(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    feeds = {i: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for i, a in zip(graph.inputs, given, strict=True)}
    (theirs,) = session.run(None, feeds)
    trainer.export(tmp_path / "net.hsp")
    ours = hs.Predictor(hs.load(tmp_path / "net.hsp"), batch=3)(*given)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_names_are_mindspore_s(files: Path) -> None:
    graph = hs.load(files / "mobilenet_v2.mindir")
    roles = {t.name: t.role for t in graph.with_role("parameter", "state")}
    assert roles["features.4.layers.3.weight"] == "parameter"
    assert roles["features.1.gamma"] == roles["classifier.1.bias"] == "parameter"
    assert roles["features.1.moving_mean"] == roles["features.1.moving_variance"] == "state"
    assert graph.inputs == ["x"]
    assert graph.metadata["source"].startswith("MindIR, MindSpore 2.")


def test_parts_of_a_parameter_are_trained_under_its_name(files: Path) -> None:
    graph = hs.load(files / "operators" / "attention.mindir")
    parameters = [n for n in graph.parameters() if n.startswith("self_attn.")]
    assert sum(n.startswith("self_attn.in_proj_weight") for n in parameters) == 3
    assert "self_attn.out_proj.weight" in parameters


def test_a_layer_that_is_used_twice_is_one(files: Path) -> None:
    assert [*hs.load(files / "twice.mindir").parameters()] == ["dense.weight", "dense.bias"]


def test_the_batch_norm_of_a_network_for_training_has_its_statistics(files: Path) -> None:
    graph = hs.load(files / "mobilenet_v2_training.mindir")
    compare("mobilenet_v2", graph)  # predictors use the statistics, as MindSpore does for inference
    norm = next(n for n in graph.nodes if n.op == "batch_norm")
    assert norm.attributes["momentum"] == pytest.approx(0.1)  # of the new batch: MindSpore's 0.9, of the old
    assert [n.attributes["rate"] for n in graph.nodes if n.op == "dropout"] == [pytest.approx(0.2)]


#: What was an attribute in older versions of MindSpore, and is an operand today: from which on, and its names.
ONCE_ATTRIBUTES = {
    "BatchNorm": (5, ("is_training", "epsilon", "momentum", "format")),
    "MatMul": (2, ("transpose_a", "transpose_b")),
    "BiasAdd": (2, ("format",)),
    "ReduceMean": (2, ("keep_dims",)),
}


@pytest.mark.parametrize("name", ["lenet", "mobilenet_v2"])
def test_operators_with_the_attributes_of_older_versions_are_read(name: str, files: Path, tmp_path: Path) -> None:
    model = decode((files / f"{name}.mindir").read_bytes(), MODEL)
    primitives = {p["name"]: p for p in model.pop("primitives")}
    graph = model["graph"]
    constants = {n["output"][0]: n["attribute"][0] for n in graph["node"] if n["op_type"] == "Constant"}
    moved = 0
    for node in graph["node"]:
        primitive = primitives.get(node["op_type"].removeprefix("REF::"), {"op_type": node["op_type"]})
        node["op_type"] = primitive["op_type"]
        node.setdefault("attribute", []).extend(primitive.get("attribute", []))
        first, settings = ONCE_ATTRIBUTES.get(node["op_type"], (99, ()))
        for constant, setting in zip(node.get("input", [])[first:], settings, strict=False):
            node["attribute"].append({**constants[constant], "name": setting})
            moved += 1
        node["input"] = node.get("input", [])[:first]
    assert moved > 5
    path = tmp_path / "net.mindir"
    path.write_bytes(encode(MODEL, model))
    compare(name, hs.load(path))


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet.ckpt", "checked.ckpt"])
def test_weights_of_a_checkpoint_go_into_a_network(name: str, files: Path) -> None:
    graph = hs.load(files / name, architecture=str(files / "lenet.mindir"))
    compare("lenet.ckpt", graph)
    assert not np.array_equal(graph.data("fc1.bias"), hs.load(files / "lenet.mindir").data("fc1.bias"))


def test_weights_of_a_checkpoint_go_into_the_zoo(files: Path) -> None:
    graph = hs.load(files / "mindcv.ckpt", architecture="mobilenet_v2", width=0.1, classes=3, image_size=32)
    compare("mindcv.ckpt", graph)


def test_what_training_keeps_beside_weights_is_left_out(files: Path) -> None:
    from homespun.formats.mindir.checkpoint import read_checkpoint

    found = read_checkpoint(files / "trained.ckpt")
    assert sorted(found) == ["dense.bias", "dense.weight"]
    assert found["dense.weight"].shape == (8, 8)


def test_weights_of_another_network_are_refused(files: Path) -> None:
    with pytest.raises(hs.FormatError, match="not in the weights"):
        hs.load(files / "lenet.ckpt", architecture=str(files / "twice.mindir"))
    with pytest.raises(hs.FormatError, match="is missing"):
        hs.load(files / "lenet.ckpt", architecture="mobilenet_v2")
    with pytest.raises(hs.OptionError, match="architecture="):
        hs.load(files / "lenet.ckpt")
    with pytest.raises(hs.OptionError, match="no such file"):
        hs.load(files / "lenet.ckpt", architecture="nowhere.mindir")
    with pytest.raises(hs.OptionError, match="takes shapes"):
        hs.load(files / "lenet.ckpt", architecture=str(files / "lenet.mindir"), width=0.5)


def test_the_command_line_converts_and_checks(files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = runner(capfd)
    target = tmp_path / "net.hsp"
    network, weights = files / "lenet.mindir", files / "lenet.ckpt"
    assert run("model", "convert", weights, target, "--architecture", network).code == 0
    compare("lenet.ckpt", hs.load(target))
    assert run("model", "check", network, target).code == 1  # these are other weights
    assert run("model", "convert", network, target).code == 0
    assert run("model", "check", network, target).code == 0


# -- what can't be imported ------------------------------------------------------------------------------------------

REFUSED = {
    "argmax": ("Argmax", "the first choice is for the caller"),
    "selected": ("3 of", "Select", "CumSum", "Greater"),
    "group_norm": ("GroupNorm", "no such operator"),
    "assigned": ("Assign", "changes a parameter"),
    "branches": ("call of a computed function", "export the branch that is meant"),
    "samples": ("one sample out of the batch",),
}


@pytest.mark.parametrize(("name", "says"), REFUSED.items())
def test_what_can_t_be_imported_is_said(name: str, says: tuple[str, ...], files: Path) -> None:
    with pytest.raises(hs.FormatError) as error:
        hs.load(files / "refused" / f"{name}.mindir")
    for text in (*says, "can't be imported", "What to do", f"{name}.mindir: graph: "):
        assert text in str(error.value)
