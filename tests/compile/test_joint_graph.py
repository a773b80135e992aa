"""The joint graph of a step: what is left out for what is frozen, what is saved, when parameters are updated."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.compile.lowering import Lowered
from homespun.graph import Graph, GraphBuilder
from homespun.training import Trainer
from homespun.training.trainable import Trainable
from homespun.zoo.tinybert import Size
from tests.training.small import convolutional, images

BACKWARD = ("conv2d_backward", "linear_backward", "normalize_gradient", "normalize_input_gradient")


def trainer(model: Graph, trainable: Trainable = "all", **options: object) -> Trainer:
    given = {"optimizer": optim.SGD(0.1, momentum=0.9), "batch": 8, **options}
    return Trainer(model, losses.CrossEntropy(), trainable=trainable, **given)  # type: ignore[arg-type]


def program(model: Graph, trainable: Trainable = "all", **options: object) -> tuple[Graph, Lowered]:
    compiled = trainer(model, trainable, **options)._main_program()
    return compiled.graph, compiled.lowered


def at_loss(lowered: Lowered) -> int:
    return next(i for i, call in enumerate(lowered.instructions) if call[0] == "softmax_cross_entropy")


def saved(lowered: Lowered) -> dict[str, int]:
    """Tensors that the forward pass makes and the backward pass reads, and their bytes."""
    at = at_loss(lowered)
    return {name: b.size for name, b in lowered.arena.items() if b.first < at < b.last}


def chain(layers: int = 4, act: str = "") -> Graph:
    build = GraphBuilder("chain")
    x = build.input("x", (6,))
    for i in range(layers):
        x = build.linear(x, f"layer{i}", 6, 6)
        x = str(build.op(act, x, name=f"act{i}")) if act else x
    return build.build(x)


def test_only_trained_weights_have_gradients() -> None:
    model = convolutional()
    for trainable in ("all", "head", ["b.*"], ["stem.conv.weight"], ["*.norm.bias"], ["a.expand.conv.weight", "c*"]):
        t = trainer(model, trainable)  # type: ignore[arg-type]
        graph = t._main_program().graph
        updated = {n.inputs[3] for n in graph.nodes if n.op == "sgd"}
        assert updated == set(t.trainable)
        weights = [n for n in graph.nodes if n.op in ("conv2d_backward", "linear_backward")]
        of_weights = {n.inputs[5] for n in weights if n.outputs[2]}
        of_weights |= {n.inputs[3] for n in graph.nodes if n.op == "sgd" and len(n.inputs) > 7}  # by product
        assert of_weights == {n for n in t.trainable if n.endswith((".conv.weight", "classifier.weight"))}
        norms = [n for n in graph.nodes if n.op == "batch_norm_gradient_coefficients"]
        assert sum(bool(o) for n in norms for o in n.outputs[1:]) == sum(".norm." in n for n in t.trainable)


def test_nothing_is_differentiated_before_the_first_trained_layer() -> None:
    graph, _ = program(convolutional(), ["b.depthwise.conv.weight", "classifier.*"])
    touched = {n.inputs[5] for n in graph.nodes if n.op == "conv2d_backward"}
    assert touched == {"b.project.conv.weight", "b.depthwise.conv.weight"}
    depthwise = next(n for n in graph.nodes if n.op == "conv2d_backward" and n.inputs[5] == "b.depthwise.conv.weight")
    assert depthwise.outputs[0] == ""  # its input depends on nothing that is trained
    assert not any(name.startswith(("stem", "a.", "b.expand.conv")) for name in graph.tensors)
    graph, _ = program(convolutional(), "head")
    assert not any(n.op in BACKWARD and n.op != "linear_backward" for n in graph.nodes)


def test_nothing_is_kept_for_frozen_parameters() -> None:
    t = trainer(convolutional(), "head")
    held = [n for n in t._store.views if not n.startswith("train/")]
    assert sorted(held) == sorted(
        ["classifier.weight", "classifier.bias", *(f"optimizer/classifier.{n}/momentum" for n in ("weight", "bias"))]
    )
    assert t.memory.optimizer == sum(v.nbytes for v in t.parameters(trainable_only=True).values())
    assert set(t.compute_gradients(*images())) == {"classifier.weight", "classifier.bias"}


def test_a_frozen_layer_in_the_middle_saves_nothing() -> None:
    """Through a frozen linear layer a gradient passes without its input."""
    _, whole = program(chain())
    _, first = program(chain(), ["layer0.*"])
    # of the frozen layers only the logits are kept, for the loss
    assert set(saved(first)) == {"layer3"}
    assert set(saved(whole)) == {"layer0", "layer1", "layer2", "layer3"}


def test_an_activation_keeps_its_result_only() -> None:
    """The next layer keeps it anyway; the sum before it is overwritten in place."""
    _, lowered = program(chain(3, "relu"))
    assert sum(saved(lowered).values()) == 3 * 8 * 6 * 4
    _, frozen = program(chain(3, "relu"), ["layer0.*"])
    assert sum(saved(frozen).values()) == 3 * 8 * 6 * 4  # the slopes of the activations need them


@pytest.mark.parametrize("precision", ["float32", "mixed", "mixed_float16"])
def test_a_block_of_convolution_norm_and_activation_saves_one_tensor(precision: str) -> None:
    """The raw output of its convolution. Beside these stand the sum that a shortcut makes, and what is small: a few
    numbers for each channel, the pooled features, the logits."""
    model = convolutional(size=32)
    _, lowered = program(model, precision=precision)
    kept = {n: size for n, size in saved(lowered).items() if size > 1024 and not n.startswith("image/")}
    blocks = {n.outputs[0] for n in model.nodes if n.op == "conv2d"}
    shortcuts = sum(n.op == "add" for n in model.nodes)
    assert blocks <= set(kept)
    assert len(kept) == len(blocks) + shortcuts
    item = 4 if precision == "float32" else 2
    for name in blocks:
        assert kept[name] == hs.graph.infer(model, 8)[name].size * item
    small = sum(size for n, size in saved(lowered).items() if n not in kept and not n.startswith("image/"))
    assert small < 0.01 * sum(kept.values())


def test_every_network_of_inverted_residuals_saves_one_tensor_a_block() -> None:
    for model in (hs.zoo.mobilenet_v2(classes=4, image_size=64), hs.zoo.efficientnet_lite0(classes=4, image_size=64)):
        t = trainer(model)
        lowered = t._programs.planned("step", 8, ())
        blocks = {n.outputs[0] for n in model.nodes if n.op == "conv2d"}
        types = hs.graph.infer(model, 8)
        large = [n for n, size in saved(lowered).items() if size >= min(types[b].nbytes for b in blocks)]
        sums = [n for n in large if n not in blocks]
        assert blocks <= set(large)
        # the input of each expansion: a shortcut's sum, or a projection's result, one for each block of three layers
        assert len(sums) <= len(blocks) / 3 + 2


@pytest.mark.parametrize("kind", [optim.SGD(0.1, momentum=0.9), optim.Adam(1e-3)])
def test_a_parameter_is_updated_as_soon_as_its_gradient_is_complete(kind: optim.Optimizer) -> None:
    graph, lowered = program(convolutional(), optimizer=kind, average=0.9)
    gradients = {n.inputs[0] for n in graph.nodes if n.op in ("sgd", "adam") and len(n.inputs) <= 7}  # those stored
    made = {g: i for i, use in enumerate(lowered.uses) for g in use.writes if g in gradients}
    read = {g: i for i, use in enumerate(lowered.uses) for g in use.reads if g in gradients}
    ops = [call[0] for call in lowered.instructions]
    for g in gradients:
        between = ops[made[g] + 1 : read[g]]
        assert set(between) <= {"sgd", "adam", "average_parameters"}, f"{g} waits for {between}"
    # so the gradients of one layer only are alive at a time
    sizes = {g: lowered.arena[g].size for g in gradients}
    layers = [sum(sizes[o] for o in n.outputs if o in sizes) for n in graph.nodes]
    for i in range(len(ops)):
        assert sum(sizes[g] for g in gradients if made[g] <= i <= read[g]) <= max(layers)


def test_gradients_that_are_asked_for_change_no_parameter() -> None:
    t = trainer(convolutional())
    before = t.parameters()
    t.compute_gradients(*images())
    for name, value in t.parameters().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_have_no_gradient_where_the_norm_is_frozen() -> None:
    """A batch norm of which neither weight nor bias is trained uses its running statistics."""
    graph, _ = program(convolutional(), ["*.conv.weight", "classifier.*"])
    assert not any(n.op == "update_statistics" for n in graph.nodes)
    assert all(n.attributes["frozen"] for n in graph.nodes if n.op == "batch_norm_coefficients")


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_what_a_layer_norm_gives_is_computed_again(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its input for its own gradient already; the result is the same bit for bit."""
    from homespun.compile import training

    def trained() -> Trainer:
        model = hs.zoo.tinybert(layers=3, sequence=64, vocabulary=50, size=Size(128, 4, 128), dropout=0.0)
        t = trainer(model, precision=precision, batch=16)
        ids = np.arange(16 * 64).reshape(16, 64).astype(np.int32) % 50
        t.step([ids, np.ones_like(ids), np.zeros_like(ids)], np.arange(16) % 2)
        return t

    again = trained()
    norms = {n for n in saved(again._main_program().lowered) if n.endswith("norm")}
    assert all(n.startswith("layers.2.") for n in norms)  # of the last layer one token is left
    monkeypatch.setattr(training, "worthwhile", lambda found: ())
    kept = trained()
    norms = {n for n in saved(kept._main_program().lowered) if n.endswith("norm")}
    assert len(norms) >= 4 and again.memory.arena < kept.memory.arena
    for name, value in kept.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], value, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_frozen_norm_without_an_activation_keeps_nothing(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is a multiple; what the projection before a shortcut gives is read by nobody else."""
    from dataclasses import replace

    from homespun.graph.operator import OPERATORS

    def trained() -> Trainer:
        t = trainer(convolutional(size=32), ["*.conv.weight", "classifier.*"], precision=precision)
        t.step(*images(size=32))
        return t

    less = trained()
    kept = sum(saved(less._main_program().lowered).values())
    record = OPERATORS["normalize"]

    def through_the_sums(build: object, node: object, grads: object) -> object:
        wanted = build.wanted  # type: ignore[attr-defined]
        build.wanted = lambda name: wanted(name) or name.endswith("project.norm.bias")  # type: ignore[attr-defined]
        try:
            return record.gradient(build, node, grads)  # type: ignore[arg-type,misc]
        finally:
            build.wanted = wanted  # type: ignore[attr-defined]

    monkeypatch.setitem(OPERATORS, "normalize", replace(record, gradient=through_the_sums))  # type: ignore[arg-type]
    more = trained()
    projections = 8 * (32 * 32 * 8 + 16 * 16 * 16) * (4 if precision == "float32" else 2)
    assert sum(saved(more._main_program().lowered).values()) - kept >= projections
    assert less.memory.arena <= more.memory.arena
    for name, value in more.parameters().items():
        np.testing.assert_allclose(less.parameters()[name], value, atol=1e-6, err_msg=name)
