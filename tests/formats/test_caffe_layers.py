"""Caffe's layers one by one against the arithmetic of its source, where OpenCV has no word on them or another one;
which layers are there, which inputs and outputs; and what is said of what can't be imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.formats.caffe import pair
from homespun.graph import Graph
from tests.formats.caffe_files import blob, layer, write_weights
from tests.formats.wire import field

RANDOM = np.random.default_rng(1)
X = RANDOM.uniform(-2, 2, (2, 4, 5, 6)).astype(np.float32)
INPUT = 'input: "data" input_shape { dim: 1 dim: 4 dim: 5 dim: 6 }\n'
W = RANDOM.uniform(-1, 1, (3, 120)).astype(np.float32)
ROWS = RANDOM.uniform(-1, 1, (3, 30)).astype(np.float32)
C4 = RANDOM.uniform(0.5, 1.5, 4).astype(np.float32)

Arrays = dict[str, list[np.ndarray]]


def made(folder: Path, text: str, weights: Arrays | None = None, **options: object) -> Graph:
    (folder / "net.prototxt").write_text(text)
    layers = {name: ("Made", arrays) for name, arrays in {"other": [C4], **(weights or {})}.items()}
    write_weights(folder / "net.caffemodel", layers)
    return hs.load(folder / "net.prototxt", **options)


def run(graph: Graph, x: np.ndarray = X) -> list[np.ndarray]:
    """Outputs in Caffe's order of axes."""
    result = hs.Predictor(graph, batch=x.shape[0])(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
    kept = graph.metadata.get("onnx.channels_last", "").split(",")
    outputs = result if isinstance(result, tuple) else (result,)
    return [
        y.transpose(0, 3, 1, 2) if y.ndim == 4 and name not in kept else y
        for name, y in zip(graph.outputs, outputs, strict=True)
    ]


def one(kind: str, settings: str = "") -> str:
    return INPUT + f'layer {{ name: "y" type: "{kind}" bottom: "data" top: "y" {settings} }}'


def response(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    half, c = size // 2, x.shape[1]
    around = [np.square(x[:, max(0, i - half) : i + half + 1]).sum(1) for i in range(c)]
    return x * (k + alpha / size * np.stack(around, 1)) ** -beta


def pooled(x: np.ndarray, kernel: int, stride: int, pad: int, mean: bool, up: bool = True) -> np.ndarray:
    """Window by window, as pooling_layer.cpp has it."""
    n, c, *sides = x.shape
    sizes = []
    for length in sides:
        count = int((np.ceil if up else np.floor)((length + 2 * pad - kernel) / stride)) + 1
        sizes.append(count - 1 if pad and (count - 1) * stride >= length + pad else count)
    y = np.zeros((n, c, *sizes), np.float32)
    for i, j in np.ndindex(*sizes):
        top, left = i * stride - pad, j * stride - pad
        bottom, right = min(top + kernel, sides[0] + pad), min(left + kernel, sides[1] + pad)
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, sides[0]), max(left, 0) : min(right, sides[1])]
        y[:, :, i, j] = window.sum((2, 3)) / area if mean else window.max((2, 3))
    return y


ARITHMETIC: dict[str, tuple[str, Arrays, Callable[[np.ndarray], np.ndarray]]] = {
    "LRN with k": (
        one("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }"),
        {},
        lambda x: response(x, 3, 0.5, 0.6, 2.0),
    ),
    "mean pooling, window over the edge": (
        one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
        {},
        lambda x: pooled(x, 3, 2, 1, True),
    ),
    "mean pooling, rounded up": (
        one("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
        {},
        lambda x: pooled(x, 2, 2, 0, True),
    ),
    "pooling, rounded down": (
        one("Pooling", "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }"),
        {},
        lambda x: pooled(x, 2, 2, 0, False, up=False),
    ),
    "largest of a wide window": (
        one("Pooling", "pooling_param { kernel_size: 4 stride: 3 pad: 2 }"),
        {},
        lambda x: pooled(x, 4, 3, 2, False),
    ),
    "inner product, transposed": (
        one("InnerProduct", "inner_product_param { num_output: 3 transpose: true bias_term: false }"),
        {"y": [np.ascontiguousarray(W.T)]},
        lambda x: x.reshape(2, -1) @ W.T,
    ),
    "inner product of the last axes": (
        one("InnerProduct", "inner_product_param { num_output: 3 axis: 2 }"),
        {"y": [ROWS, C4[:3]]},
        lambda x: x.reshape(2, 4, 30) @ ROWS.T + C4[:3],
    ),
    "scale by another blob": (
        INPUT
        + 'layer { name: "s" type: "Pooling" bottom: "data" top: "s" pooling_param { pool: AVE global_pooling: true } }'
        + 'layer { name: "f" type: "Flatten" bottom: "s" top: "f" }'
        + 'layer { name: "y" type: "Scale" bottom: "data" bottom: "f" top: "y" scale_param { axis: 0 } }',
        {},
        lambda x: x * x.mean((2, 3), keepdims=True),
    ),
    "gate and add": (
        INPUT
        + 'layer { name: "s" type: "Pooling" bottom: "data" top: "s" pooling_param { pool: AVE global_pooling: true } }'
        + 'layer { name: "t" type: "TanH" bottom: "data" top: "t" }'
        + 'layer { name: "y" type: "Axpy" bottom: "s" bottom: "data" bottom: "t" top: "y" }',
        {},
        lambda x: x * x.mean((2, 3), keepdims=True) + np.tanh(x),
    ),
    "scale of the last axis": (
        one("Scale", "scale_param { axis: -1 bias_term: true }"),
        {"y": [np.float32(ROWS[0, :6]), np.float32(ROWS[1, :6])]},
        lambda x: x * ROWS[0, :6] + ROWS[1, :6],
    ),
    "bias": (one("Bias"), {"y": [C4]}, lambda x: x + C4[:, None, None]),
    "logarithm": (
        INPUT
        + 'layer { name: "a" type: "AbsVal" bottom: "data" top: "a" }'
        + 'layer { name: "y" type: "Log" bottom: "a" top: "y" log_param { base: 2 scale: 3 shift: 1 } }',
        {},
        lambda x: np.log2(3 * np.abs(x) + 1),
    ),
    "clip": (one("Clip", "clip_param { min: -0.5 max: 1.5 }"), {}, lambda x: np.clip(x, -0.5, 1.5)),
    "power of one": (one("Power"), {}, lambda x: x),
    "swish": (one("Swish", "swish_param { beta: 2 }"), {}, lambda x: x / (1 + np.exp(-2 * x))),
    "upsample": (one("Upsample", "upsample_param { scale: 2 }"), {}, lambda x: x.repeat(2, 2).repeat(2, 3)),
    "shrink": (
        one("Interp", "interp_param { shrink_factor: 2 pad_end: -1 }"),
        {},
        lambda x: shrunk(x),
    ),
    "sum of squares": (
        one("Reduction", "reduction_param { operation: SUMSQ axis: 1 coeff: 0.5 }"),
        {},
        lambda x: 0.5 * np.square(x).sum((1, 2, 3)),
    ),
    "mean of the last axes": (
        one("Reduction", "reduction_param { operation: MEAN axis: 2 }"),
        {},
        lambda x: x.mean((2, 3)),
    ),
    "reshape of one axis": (
        one("Reshape", "reshape_param { shape { dim: 2 dim: -1 } axis: 1 num_axes: 1 }"),
        {},
        lambda x: x.reshape(2, 2, 2, 5, 6),
    ),
    "softmax over rows": (
        one("Softmax", "softmax_param { axis: 2 }"),
        {},
        lambda x: np.exp(x) / np.exp(x).sum(2, keepdims=True),
    ),
    "weights shared by name": (
        INPUT
        + "".join(
            f'layer {{ name: "{n}" type: "PReLU" bottom: "{b}" top: "{n}" param {{ name: "slopes" }} }}'
            for n, b in (("p", "data"), ("q", "p"))
        ),
        {"p": [C4], "q": [C4]},
        lambda x: np.where(x > 0, x, x * np.square(C4[:, None, None])),
    ),
}


def shrunk(x: np.ndarray) -> np.ndarray:
    """The last row and column cut off, then every second pixel of what is left, which corners on corners are."""
    return x[:, :, :4, :5][:, :, [0, 3]][..., [0, 2, 4]]


@pytest.mark.parametrize(("text", "weights", "reference"), ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_layers(text: str, weights: Arrays, reference: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    graph = made(tmp_path, text, weights)
    (got,), want = run(graph), reference(X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_shared_weights_are_one_parameter(tmp_path: Path) -> None:
    text, weights, _ = ARITHMETIC["weights shared by name"]
    assert len(made(tmp_path, text, weights).parameters()) == 1


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_numbers_of_every_kind_are_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(one("Bias"))
    write_weights(tmp_path / "net.caffemodel", {"y": ("Bias", [C4])}, kind=kind)
    np.testing.assert_allclose(hs.load(tmp_path / "net.caffemodel").data("y.bias").reshape(-1), C4, rtol=1e-3)


def test_batch_norm_without_batches_has_statistics_of_zero(tmp_path: Path) -> None:
    graph = made(tmp_path, one("BatchNorm"), {"y": [C4, C4, np.zeros(1, np.float32)]})
    np.testing.assert_allclose(run(graph)[0], X / np.sqrt(np.float32(1e-5)), rtol=1e-5)


# -- which layers, inputs and outputs there are -----------------------------------------------------------------------

TRAINING = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 5 } }
layer { name: "train" type: "TanH" bottom: "data" top: "y" include { phase: TRAIN } }
layer { name: "test" type: "ReLU" bottom: "data" top: "y" exclude { phase: TRAIN } }
layer { name: "staged" type: "Sigmoid" bottom: "y" top: "y" include { stage: "late" } }
layer { name: "fc" type: "Convolution" bottom: "data" top: "fc" convolution_param { num_output: 3 kernel_size: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
layer { name: "quiet" type: "Silence" bottom: "label" }
"""
FC = [np.zeros((3, 4, 5, 5), np.float32), C4[:3]]


def test_the_network_is_the_one_that_tests(tmp_path: Path) -> None:
    graph = made(tmp_path, TRAINING, {"fc": FC})
    assert graph.tensors["data"].shape == (-1, 5, 5, 4)  # channels by the convolution's weights
    assert graph.outputs == ["fc", "y"]  # what losses read comes first
    assert {n.op for n in graph.nodes} == {"conv2d", "relu"}
    staged = made(tmp_path, TRAINING + 'state { stage: "late" }', {"fc": FC})
    assert {n.op for n in staged.nodes} == {"conv2d", "relu", "sigmoid"}


def test_the_caller_says_what_the_file_does_not(tmp_path: Path) -> None:
    text = TRAINING.replace("transform_param { crop_size: 5 }", "")
    with pytest.raises(hs.FormatError, match=r"shapes=\{'data': \(1, channels, height, width\)\}"):
        made(tmp_path, text, {"fc": FC})
    assert made(tmp_path, text, {"fc": FC}, shapes={"data": (1, 4, 9, 7)}).tensors["data"].shape == (-1, 9, 7, 4)
    with pytest.raises(hs.OptionError, match="no input 'image'; it has data"):
        made(tmp_path, TRAINING, {"fc": FC}, shapes={"image": (1, 4, 9, 7)})


def test_in_place_layers_keep_what_was_read_before(tmp_path: Path) -> None:
    text = (
        INPUT
        + 'layer { name: "a" type: "TanH" bottom: "data" top: "a" }'
        + 'layer { name: "early" type: "AbsVal" bottom: "a" top: "early" }'
        + 'layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }'
        + 'layer { name: "twice" type: "Power" bottom: "a" top: "a" power_param { scale: 2 } }'
    )
    graph = made(tmp_path, text)
    assert graph.outputs == ["early", "twice"]  # "a" is what the first of its layers computes
    early, late = run(graph)
    np.testing.assert_allclose(early, np.abs(np.tanh(X)), atol=1e-6)
    np.testing.assert_allclose(late, 2 * np.maximum(np.tanh(X), 0), atol=1e-6)


def test_text_format_in_all_its_forms(tmp_path: Path) -> None:
    text = (
        "# a comment, with `layer {` in it\n"
        "\ufeffinput: 'da' \"ta\" input_dim: [1, 4, 0x5, 06];\n"
        "layer < name: 'y\\x2d\\061' type: \"Power\" bottom: 'data', top: 'y'\n"
        "  power_param: { scale: .5e+0f power: 1. shift: -0 }; >"
    )
    (tmp_path / "net.prototxt").write_text(text.replace("\ufeff", ""))
    write_weights(tmp_path / "net.caffemodel", {"other": ("Made", [C4])})
    graph = hs.load(tmp_path / "net.prototxt")
    assert graph.nodes[-1].name.startswith("y")
    np.testing.assert_allclose(run(graph)[0], X / 2)


# -- the two files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "beside", "expected"),
    [
        ("a.prototxt", ["a.caffemodel", "b.caffemodel"], "a.prototxt a.caffemodel"),
        ("a.prototxt", ["b.caffemodel"], "a.prototxt b.caffemodel"),
        ("a.caffemodel", ["solver.prototxt", "deploy.prototxt", "x.prototxt"], "deploy.prototxt a.caffemodel"),
        ("A.CAFFEMODEL", ["B.PROTOTXT"], "B.PROTOTXT A.CAFFEMODEL"),
        ("a.prototxt", [], "none is beside it"),
        ("a.caffemodel", ["x.prototxt", "y.prototxt"], "2 are beside it"),
    ],
)
def test_the_other_file_is_found(given: str, beside: Sequence[str], expected: str, tmp_path: Path) -> None:
    for name in (given, *beside):
        (tmp_path / name).touch()
    if "beside" in expected:
        with pytest.raises(hs.FormatError, match=rf"{expected}.*--architecture net\.prototxt"):
            pair(tmp_path / given)
    else:
        assert " ".join(p.name for p in pair(tmp_path / given)) == expected


def test_the_network_is_named(tmp_path: Path) -> None:
    made(tmp_path, one("ReLU"))
    (tmp_path / "other.prototxt").write_text(one("TanH"))
    graph = hs.load(tmp_path / "net.caffemodel", architecture=tmp_path / "other.prototxt")
    assert [n.op for n in graph.nodes] == ["tanh"]
    with pytest.raises(hs.FormatError, match=r"its network should be a \.prototxt file; mobilenet_v2 is none"):
        hs.load(tmp_path / "net.caffemodel", architecture="mobilenet_v2")


# -- what can't be imported -------------------------------------------------------------------------------------------


def test_everything_that_cannot_come_in_is_listed_at_once(tmp_path: Path) -> None:
    text = (
        INPUT
        + 'layer { name: "conv" type: "Convolution" bottom: "data" top: "c"'
        + " convolution_param { num_output: 9 kernel_size: 3 } }"
        + 'layer { name: "code" type: "Python" bottom: "c" top: "p" python_param { module: "os" layer: "x" } }'
        + 'layer { name: "after" type: "ReLU" bottom: "p" top: "p" }'
        + 'layer { name: "odd" type: "ReLU" bottom: "data" top: "r" relu_param { negative_slop: 0.1 } }'
        + 'layer { name: "best" type: "ArgMax" bottom: "data" top: "m" }'
        + 'layer { name: "pool" type: "Pooling" bottom: "data" top: "s"'
        + " pooling_param { pool: STOCHASTIC kernel_size: 2 } }"
        + 'layer { name: "sum" type: "Eltwise" bottom: "r" bottom: "s" top: "t" }'
    )
    with pytest.raises(hs.FormatError) as caught:
        made(tmp_path, text)
    message = str(caught.value)
    for line in (
        "5 of 7 nodes can't be imported",
        "conv (Convolution): net.caffemodel has no weight for it",
        "code (Python): there is no such layer here",
        "odd (ReLU): it sets negative_slop, which is not understood here",
        "best (ArgMax): there is no such layer here",
        "pool (Pooling): pool is 'STOCHASTIC'; MAX, AVE can be read",
        "What to do:",
        "Python: its code is not run",
        "ArgMax: take it out",
    ):
        assert line in message, message
    assert "after" not in message and "sum (" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (INPUT + 'layer { name: "y" type: "ReLU" bottom: "z" top: "y" }', "layer 'y': it reads 'z', which no layer"),
        (
            INPUT
            + 'layer { name: "a" type: "ReLU" bottom: "b" top: "a" }'
            + 'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }',
            "layer 'a': it reads 'b', which no layer before it writes",
        ),
        (INPUT, "no layer of it computes anything"),
        ("", "no layer of it computes anything"),
        (INPUT + "layer { name: ", "line 2: the end stands where a value is expected"),
        (INPUT + 'layer { name: "y"', "line 2: the text ends where '}' is expected"),
        (INPUT + "}", "line 2: '}' stands where a field's name is expected"),
        (INPUT + "layer { name @ }", "line 2: '@ }' can't be read"),
        (INPUT + "layer " * 2, "line 2: 'layer' stands where ':' or '{' is expected"),
        (INPUT + "a { " * 20, "nested more than 16 deep"),
        ("train_net: 'x' base_lr: 0.1", "'train_net' is nothing that a network has"),
        ('input: "data" input_dim: 1', "0 input shapes .* do not fit 1 inputs"),
        ('input: "data" input_shape { dim: 1 dim: -5 }' + one("ReLU")[len(INPUT) :], "its shape is not known"),
        (one("Convolution", "convolution_param { num_output: 4 kernel_size: 9 }"), "has no weight"),
        (one("Pooling", "pooling_param { kernel_size: 1 stride: 3 }"), "its last window lies outside the image"),
        (one("Pooling", "pooling_param { kernel_size: 0 }"), "kernel_size is"),
        (one("Pooling", "pooling_param { kernel_size: 3 kernel_h: 3 }"), "both given"),
        (one("Slice", "slice_param { slice_point: 9 }"), "do not cut an axis of 4"),
        (one("Reshape", "reshape_param { shape { dim: 0 dim: 7 } }"), "can't be reshaped"),
        (one("Power", "power_param { power: 7 }"), "its exponent is 7"),
        (one("Power", "power_param { scale: nan }"), "scale is not finite"),
        (one("Concat", "concat_param { axis: 0 }"), "it joins or cuts batches"),
        (one("Flatten", "flatten_param { axis: 9 }"), "axis 9 is outside its 4 axes"),
        (one("Dropout", "dropout_param { dropout_ratio: 2 }"), "its ratio is 2"),
        (
            INPUT
            + 'layer { name: "y" type: "Pooling" bottom: "data" top: "y" top: "m" pooling_param { kernel_size: 2 } }',
            "it has 2 tops; the first can be had",
        ),
        (
            'layer { name: "d" type: "Data" top: "x" top: "l" transform_param { crop_size: 5 } }'
            'layer { name: "c" type: "Convolution" bottom: "x" top: "c"'
            " convolution_param { num_output: 4 kernel_size: 1 } }"
            'layer { name: "y" type: "Eltwise" bottom: "c" bottom: "l" top: "y" }',
            r"y \(Eltwise\): it reads labels",
        ),
    ],
)
def test_wrong_networks_are_refused(text: str, says: str, tmp_path: Path) -> None:
    weights = {"c": [np.ones((4, 4, 1, 1), np.float32), C4]} if '"c"' in text else {}
    with pytest.raises(hs.FormatError, match=says) as caught:
        made(tmp_path, text, weights)
    assert str(tmp_path / "net.prototxt") in str(caught.value)


WRONG_WEIGHTS = {
    "nothing": (b"", "there are no layers in it"),
    "zeros": (b"\x00" * 40, "file: "),
    "ones": (b"\xff" * 40, "file: "),
    "too few axes": (
        layer("y", "Bias", [field(5, C4.tobytes()) + field(7, field(1, b"\x05"))]),
        "4 numbers do not fit the shape",
    ),
    "no numbers": (layer("y", "Bias", [field(7, field(1, b"\xff" * 7 + b"\x01"))]), "0 numbers do not fit"),
    "unknown kind": (layer("y", "Bias", [field(10, 4) + field(12, b"1234")]), "raw data of type 4 can't be read"),
    "two of a name": (layer("y", "Bias", [blob(C4)]) * 2, "two layers with weights have this name"),
    "of another shape": (
        layer("y", "Bias", [blob(C4[:3])]),
        r"its bias should be \[4, 1, 1\]; it is \[3\] in net.caffemodel",
    ),
    "no number": (layer("y", "Bias", [blob(np.float32([1, 2, np.nan, 4]))]), "not finite"),
}


@pytest.mark.parametrize(("raw", "says"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS.keys())
def test_wrong_weights_are_refused(raw: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(one("Bias"))
    (tmp_path / "net.caffemodel").write_bytes(raw)
    with pytest.raises(hs.FormatError, match=says) as caught:
        hs.load(tmp_path / "net.caffemodel")
    assert str(tmp_path) in str(caught.value)
