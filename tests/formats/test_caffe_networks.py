"""Whole Caffe networks: GoogLeNet as it was trained, against the zoo's; MobileNet; what came in trains and goes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import homespun as hs
from homespun.graph import Graph
from homespun.graph.graph import AUXILIARY_KEY
from tests.command_line import runner
from tests.formats.caffe_files import write_weights

Weights = dict[str, tuple[str, list[np.ndarray]]]
MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
CLASSES = 10


class Text:
    """A `.prototxt` layer by layer; every method gives the name of its top."""

    def __init__(self, *first: str) -> None:
        self.lines = list(first)

    def layer(self, kind: str, name: str, bottom: str, rest: str = "", top: str = "") -> str:
        bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top or name}" {rest} }}')
        return top or name

    def conv(self, name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, rest: str = "") -> str:
        window = f"num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {kernel // 2} {rest}"
        return self.layer("Convolution", name, bottom, f"convolution_param {{ {window} }}")

    def pool(self, name: str, bottom: str, window: str) -> str:
        return self.layer("Pooling", name, bottom, f"pooling_param {{ {window} }}")


def googlenet(zoo: Graph) -> tuple[str, dict[str, str]]:
    """The text of BVLC's train_val.prototxt, as wide as the zoo's, and for each layer with weights that one's name."""
    text = Text(
        'name: "GoogLeNet"',
        'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } }',
        'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }'
        " transform_param { mirror: false crop_size: 224 mean_value: 104 mean_value: 117 mean_value: 123 }"
        ' data_param { source: "nowhere" batch_size: 50 backend: LMDB } }',
    )
    names: dict[str, str] = {}

    def conv(name: str, ours: str, bottom: str, kernel: int = 1, stride: int = 1) -> str:
        names[name] = ours
        text.conv(name, bottom, zoo.data(f"{ours}.bias").size, kernel, stride, 'weight_filler { type: "xavier" }')
        return text.layer("ReLU", f"{name}_relu", name, top=name)

    def linear(name: str, ours: str, bottom: str) -> str:
        names[name] = ours
        outputs = zoo.data(f"{ours}.bias").size
        return text.layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} }}")

    def response(name: str, bottom: str) -> str:
        return text.layer("LRN", name, bottom, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def loss(name: str, bottom: str, weight: float) -> None:
        text.layer("SoftmaxWithLoss", name, f"{bottom} label", f"loss_weight: {weight}")
        text.layer("Accuracy", f"{name}/top-1", f"{bottom} label", "include { phase: TEST }")

    half = "pool: MAX kernel_size: 3 stride: 2"
    x = conv("conv1/7x7_s2", "stem.0.conv", "data", 7, 2)
    x = response("pool1/norm1", text.pool("pool1/3x3_s2", x, half))
    x = conv("conv2/3x3_reduce", "stem.1.conv", x)
    x = response("conv2/norm2", conv("conv2/3x3", "stem.2.conv", x, 3))
    x = text.pool("pool2/3x3_s2", x, half)
    for index, label in enumerate(MODULES):
        theirs, ours = f"inception_{label}", f"blocks.{index}"
        a = conv(f"{theirs}/1x1", f"{ours}.branch1.conv", x)
        b = conv(f"{theirs}/3x3_reduce", f"{ours}.branch2.reduce.conv", x)
        b = conv(f"{theirs}/3x3", f"{ours}.branch2.filter.conv", b, 3)
        c = conv(f"{theirs}/5x5_reduce", f"{ours}.branch3.reduce.conv", x)
        c = conv(f"{theirs}/5x5", f"{ours}.branch3.filter.conv", c, 5)
        d = text.pool(f"{theirs}/pool", x, "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        d = conv(f"{theirs}/pool_proj", f"{ours}.branch4.project.conv", d)
        x = text.layer("Concat", f"{theirs}/output", f"{a} {b} {c} {d}")
        if label in ("4a", "4d"):
            head, aux = ("loss1", "aux1") if label == "4a" else ("loss2", "aux2")
            y = text.pool(f"{head}/ave_pool", x, "pool: AVE kernel_size: 5 stride: 3")
            y = conv(f"{head}/conv", f"{aux}.conv.conv", y)
            y = linear(f"{head}/fc", f"{aux}.hidden", y)
            text.layer("ReLU", f"{head}/relu_fc", y, top=y)
            text.layer("Dropout", f"{head}/drop_fc", y, "dropout_param { dropout_ratio: 0.7 }", top=y)
            loss(f"{head}/loss", linear(f"{head}/classifier", f"{aux}.classifier", y), 0.3)
        if label in ("3b", "4e"):
            x = text.pool(f"pool{label[0]}/3x3_s2", x, half)
    x = text.pool("pool5/7x7_s1", x, "pool: AVE kernel_size: 7 stride: 1")
    text.layer("Dropout", "pool5/drop_7x7_s1", x, "dropout_param { dropout_ratio: 0.4 }", top=x)
    loss("loss3/loss3", linear("loss3/classifier", "classifier", x), 1)
    return "\n".join(text.lines), names


def weights_of(zoo: Graph, names: Mapping[str, str]) -> Weights:
    """The zoo's weights in Caffe's layout."""
    found: Weights = {}
    for name, ours in names.items():
        weight, bias = zoo.data(f"{ours}.weight"), zoo.data(f"{ours}.bias")
        turned = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        found[name] = ("Convolution" if weight.ndim == 4 else "InnerProduct", [np.ascontiguousarray(turned), bias])
    return found


def test_googlenet_as_trained_computes_what_the_zoo_s_does(tmp_path: Path) -> None:
    zoo = hs.zoo.googlenet(classes=CLASSES, width=0.25, norm="response", auxiliary=True)
    random = np.random.default_rng(0)
    for name, array in zoo.parameters().items():
        if name.endswith(".bias"):
            array[:] = random.normal(0, 0.1, array.shape)
    text, names = googlenet(zoo)
    (tmp_path / "train_val.prototxt").write_text(text)
    write_weights(tmp_path / "googlenet.caffemodel", weights_of(zoo, names))
    graph = hs.load(tmp_path / "googlenet.caffemodel")
    assert graph.inputs == ["data"]  # labels and losses are of training, which is done here otherwise
    assert graph.outputs == ["loss3/classifier", "loss1/classifier", "loss2/classifier"]
    assert graph.metadata[AUXILIARY_KEY] == "loss1/classifier,loss2/classifier"
    shapes = [sorted(a.shape for a in g.parameters().values()) for g in (graph, zoo)]
    assert shapes[0] == shapes[1]
    x = random.uniform(-2, 2, (1, 224, 224, 3)).astype(np.float32)
    got, want = hs.Predictor(graph)(x), hs.Predictor(zoo)(x)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(np.abs(theirs).max()))


def mobilenet(classes: int = 1000, width: float = 1.0, size: int = 224) -> tuple[str, Weights]:
    """MobileNetV1 as it went around for Caffe: batch norm and scale behind every convolution, in place."""
    text = Text('name: "MOBILENET"', f'input: "data" input_dim: 1 input_dim: 3 input_dim: {size} input_dim: {size}')
    random, weights = np.random.default_rng(0), Weights()

    def normed(name: str, bottom: str, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> str:
        y = text.conv(name, bottom, outputs, kernel, stride, f"bias_term: false group: {groups}")
        text.layer("BatchNorm", f"{name}/bn", y, "param { lr_mult: 0 } batch_norm_param { eps: 0.00001 }", top=y)
        text.layer("Scale", f"{name}/scale", y, "scale_param { bias_term: true }", top=y)
        text.layer("ReLU", f"relu/{name}", y, top=y)
        std = (2 / (kernel * kernel * inputs / groups)) ** 0.5
        shape = (outputs, inputs // groups, kernel, kernel)
        weights[name] = ("Convolution", [random.normal(0, std, shape).astype(np.float32)])
        mean, variance = random.normal(0, 0.1, outputs), random.uniform(0.5, 1.5, outputs)
        weights[f"{name}/bn"] = ("BatchNorm", [np.float32(900 * mean), np.float32(900 * variance), np.full(1, 900.0)])
        weights[f"{name}/scale"] = ("Scale", [random.uniform(0.8, 1.2, outputs), random.normal(0, 0.1, outputs)])
        return y

    channels = int(32 * width)
    x = normed("conv1", "data", 3, channels, 3, 2)
    pairs = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for i, (plain, stride) in enumerate(pairs):
        outputs = int(plain * width)
        x = normed(f"conv{i + 2}/dw", x, channels, channels, 3, stride, channels)
        x = normed(f"conv{i + 2}/sep", x, channels, outputs, 1, 1)
        channels = outputs
    x = text.pool("pool6", x, "pool: AVE global_pooling: true")
    x = text.conv("fc7", x, classes)
    weights["fc7"] = ("Convolution", [random.normal(0, 0.03, (classes, channels, 1, 1)), np.zeros(classes)])
    text.layer("Softmax", "prob", text.layer("Flatten", "logits", x))
    return "\n".join(text.lines), weights


def written(folder: Path, text: str, weights: Weights) -> Path:
    (folder / "net.prototxt").write_text(text)
    write_weights(folder / "net.caffemodel", weights)
    return folder / "net.prototxt"


def test_mobilenet_has_the_paper_s_parameters(tmp_path: Path) -> None:
    graph = hs.load(written(tmp_path, *mobilenet()))
    zoo = hs.zoo.mobilenet_v1()
    assert sum(a.size for a in graph.parameters().values()) == 4_231_976  # Howard et al. 2017, table 8: 4.2 million
    counts = [sorted(a.size for a in g.parameters().values()) for g in (graph, zoo)]
    assert counts[0] == counts[1]
    ops = [n.op for n in graph.nodes]
    assert ops.count("conv2d") == 28 and ops.count("batch_norm") == 27  # 27 pairs of batch norm and scale, and fc7
    assert not {"mul", "add", "transpose", "reshape"}.intersection(ops)
    np.testing.assert_allclose(hs.Predictor(graph)(np.zeros((1, 224, 224, 3), np.float32)).sum(), 1, rtol=1e-5)


def small(folder: Path) -> Graph:
    return hs.load(written(folder, *mobilenet(classes=4, width=0.25, size=32)))


@pytest.mark.parametrize("trainable", ["all", ["fc7*"], ["conv14/*", "fc7*"]], ids=str)
def test_trains_from_any_layer_up(trainable: object, tmp_path: Path) -> None:
    graph = small(tmp_path)
    graph.outputs = ["logits"]
    graph.prune()
    before = {name: array.copy() for name, array in graph.parameters().items()}
    statistics = {t.name: graph.data(t.name).copy() for t in graph.with_role("state")}
    trainer = hs.Trainer(graph, hs.losses.CrossEntropy(), hs.optim.Adam(3e-3), batch=8, trainable=trainable)
    random = np.random.default_rng(0)
    x, y = random.standard_normal((8, 32, 32, 3)).astype(np.float32), np.arange(8) % 4
    losses = [trainer.step(x, y).loss for _ in range(12)]
    assert losses[-1] < 0.98 * losses[0]
    after = trainer.parameters()
    moved = {name for name in before if name in after and not np.array_equal(before[name], after[name])}
    expected = {n for n in before if trainable == "all" or n.startswith(tuple(p.rstrip("*") for p in trainable))}
    assert moved == expected
    followed = {name for name, array in trainer.state().items() if not np.array_equal(statistics[name], array)}
    assert followed == {
        n for n in statistics if trainable == "all" or n.startswith(tuple(p.rstrip("*") for p in trainable))
    }


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = runner(capfd)
    network = written(tmp_path, *mobilenet(classes=4, width=0.25, size=32))
    weights = network.with_suffix(".caffemodel")
    done = run("model", "convert", network, tmp_path / "net.onnx", "--json")
    assert done.code == 0 and done.json["file"].endswith("net.onnx")
    assert run("model", "check", weights, tmp_path / "net.onnx").code == 0
    (tmp_path / "other.prototxt").write_text(network.read_text())
    network.rename(tmp_path / "third.prototxt")
    failed = run("model", "convert", weights, tmp_path / "net.hsp")
    assert failed.code == 1 and "2 are beside it" in failed.err and "--architecture" in failed.err
    named = ("--architecture", tmp_path / "other.prototxt", "--weights", "int8")
    assert run("model", "convert", weights, tmp_path / "net.hsp", *named).code == 0
    assert (tmp_path / "net.hsp").is_file()


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_goes_out_as_onnx_to_compute_the_same(weights: str, tmp_path: Path) -> None:
    graph = small(tmp_path)
    hs.save(graph, tmp_path / "net.onnx", weights=weights)
    hs.save(graph, tmp_path / "net.hsp", weights=weights)
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"data": x})
    got = hs.Predictor(hs.load(tmp_path / "net.hsp"), batch=3)(x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
