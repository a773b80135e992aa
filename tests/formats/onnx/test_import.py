"""What comes in from ONNX: the same outputs as in onnxruntime, channels-last, trainable, the batch free."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import homespun as hs
from tests.formats.onnx.made import Made, agree, close, load, predict, run_onnx


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape or (2, 3, 9, 8)).astype(np.float32)


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


# -- layers, with all that can be said of windows ----------------------------------------------------------------------


@QUICK
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    rule=st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    group=st.sampled_from([1, 2, 4]),
    multiplier=st.integers(1, 2),
    bias=st.booleans(),
)
def test_convolution(tmp_path: Path, kernel: Any, stride: Any, dilation: Any, pads: Any, rule: str, group: int,
                     multiplier: int, bias: bool) -> None:  # fmt: skip
    if rule.startswith("SAME") and dilation != (1, 1):
        dilation = (1, 1)  # onnxruntime refuses the two together
    m = Made(["N", 4, 9, 8])
    weights = [m.weight(4 * multiplier, 4 // group, *kernel), *([m.weight(4 * multiplier)] if bias else [])]
    where = {"pads": pads} if rule == "NOTSET" else {"auto_pad": rule}
    y = m.op("Conv", "x", *weights, strides=stride, dilations=dilation, group=group, **where)
    agree(m.model(y), tmp_path, image(2, 4, 9, 8))


@QUICK
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    rule=st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    counts=st.booleans(),
)
def test_pooling(tmp_path: Path, op: str, kernel: Any, stride: Any, pads: Any, rule: str, counts: bool) -> None:
    pads = tuple(min(p, kernel[i % 2] - 1) for i, p in enumerate(pads))
    if rule.startswith("SAME"):  # onnxruntime refuses windows that leave gaps
        stride = tuple(min(s, k) for s, k in zip(stride, kernel, strict=True))
    m = Made(["N", 5, 9, 8])
    where: dict[str, Any] = {"pads": pads} if rule == "NOTSET" else {"auto_pad": rule}
    if op == "AveragePool":
        where["count_include_pad"] = int(counts)
    agree(m.model(m.op(op, "x", kernel_shape=kernel, strides=stride, **where)), tmp_path, image(2, 5, 9, 8))


def test_pooling_that_rounds_up(tmp_path: Path) -> None:
    m = Made(["N", 3, 7, 7])
    y = m.op("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    agree(m.model(y), tmp_path, image(2, 3, 7, 7))


@QUICK
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    rule=st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"]),
    group=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
)
def test_transposed_convolution(tmp_path: Path, kernel: Any, stride: Any, dilation: Any, pads: Any, more: Any,
                                rule: str, group: int, bias: bool) -> None:  # fmt: skip
    pads = tuple(min(p, kernel[i % 2] - 1) for i, p in enumerate(pads))
    more = tuple(min(m, s - 1) for m, s in zip(more, stride, strict=True))
    where: dict[str, Any] = {"pads": pads, "output_padding": more}
    if rule != "NOTSET":
        kernel = tuple(max(k, s) for k, s in zip(kernel, stride, strict=True))
        where, dilation = {"auto_pad": rule}, (1, 1)
    m = Made(["N", 4, 5, 6])
    weights = [m.weight(4, 4 // group, *kernel), *([m.weight(4)] if bias else [])]
    y = m.op("ConvTranspose", "x", *weights, strides=stride, dilations=dilation, group=group, **where)
    agree(m.model(y), tmp_path, image(2, 4, 5, 6))


@QUICK
@example((1, 1), 0.6, "nearest", "half_pixel", "floor")  # a float32 that is not quite 0.6
@given(
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    scale=st.one_of(st.none(), st.sampled_from([0.5, 2.0, 3.0, 1.5, 0.6, 2.3])),
    mode=st.sampled_from(["nearest", "linear"]),
    coordinates=st.sampled_from(["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]),
    rounding=st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
)
def test_resizing(tmp_path: Path, size: Any, scale: float | None, mode: str, coordinates: str, rounding: str) -> None:
    m = Made(["N", 3, 9, 8], opset=18)
    given = ["", m.array(np.array([scale, 1.0], np.float32)) if scale else "", "" if scale else m.ints(*size)]
    how = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    if coordinates == "pytorch_half_pixel":
        size = tuple(max(2, s) for s in size)
        given = ["", "", m.ints(*size)]
    agree(m.model(m.op("Resize", "x", *given, axes=[2, 3], **how)), tmp_path, image(2, 3, 9, 8))


# -- one operator, one row ---------------------------------------------------------------------------------------------

Build = Callable[[Made], Any]


def conv(m: Made, outputs: int) -> Any:
    """What is laid out channels-last here: a 1x1 convolution of the input."""
    return m.op("Conv", "x", m.weight(outputs, 3, 1, 1))


IMAGES: dict[str, Build] = {
    **{
        op: lambda m, op=op: m.op(op, "x")
        for op in (
            *("Relu", "Sigmoid", "Tanh", "HardSwish", "Exp", "Neg", "Abs", "Erf", "Softplus", "Identity"),
            *("GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "Elu", "HardSigmoid"),
        )
    },
    "hard sigmoid of another slope": lambda m: m.op("HardSigmoid", "x", alpha=0.3, beta=0.4),
    "relu6": lambda m: m.op("Clip", "x", m.number(0), m.number(6)),
    "clip from below": lambda m: m.op("Clip", "x", m.number(-0.5)),
    "clip from above": lambda m: m.op("Clip", "x", "", m.number(0.5)),
    "PRelu": lambda m: m.op("PRelu", "x", m.weight(3, 1, 1)),
    "add channels": lambda m: m.op("Add", "x", m.weight(3, 1, 1)),
    "mul by one number": lambda m: m.op("Mul", m.number(3), "x"),
    "sub with four axes": lambda m: m.op("Sub", m.weight(1, 3, 1, 1), "x"),
    "div by rows": lambda m: m.op("Div", "x", m.weight(9, 1, low=1.0, high=2.0)),
    "add after convolution": lambda m: m.op("Add", conv(m, 4), m.weight(1, 4, 1, 1)),
    "max of three": lambda m: m.op("Max", "x", m.weight(3, 9, 8), m.weight(8)),
    "sum": lambda m: m.op("Sum", "x", "x", m.op("Relu", "x")),
    "gate": lambda m: m.op("Mul", conv(m, 3), m.op("Sigmoid", m.op("GlobalAveragePool", "x"))),
    "squeeze and excite through linear layers": lambda m: m.op(
        "Mul",
        m.op("Conv", "x", m.weight(4, 3, 1, 1), name="c"),
        m.op(
            "Reshape", m.op("Gemm", m.op("Flatten", m.op("GlobalAveragePool", "x")), m.weight(3, 4)), m.ints(0, 4, 1, 1)
        ),
    ),
    "batch norm": lambda m: m.op(
        "BatchNormalization",
        m.op("Conv", "x", m.weight(4, 3, 3, 3)),
        m.weight(4),
        m.weight(4),
        m.weight(4),
        m.weight(4, low=0.5),
        epsilon=1e-3,
        momentum=0.8,
    ),
    "reduce mean over pixels": lambda m: m.op("ReduceMean", "x", axes=[2, 3], keepdims=1),
    "reduce mean away": lambda m: m.op("ReduceMean", conv(m, 4), axes=[2, 3], keepdims=0),
    "reduce max over channels": lambda m: m.op("ReduceMax", conv(m, 4), axes=[1], keepdims=1),
    "reduce sum over axes apart": lambda m: m.op("ReduceSum", conv(m, 4), m.ints(1, 3)),
    "concat channels": lambda m: m.op("Concat", "x", conv(m, 5), axis=1),
    "concat rows": lambda m: m.op("Concat", conv(m, 3), "x", axis=2),
    "split": lambda m: m.op("Concat", *m.op("Split", conv(m, 6), m.ints(2, 4), outputs=2, axis=1)[::-1], axis=1),
    "slice": lambda m: m.op("Slice", conv(m, 6), m.ints(1, -7), m.ints(2**62, 6), m.ints(1, 2)),
    "pad": lambda m: m.op("Pad", m.op("Relu", conv(m, 2)), m.ints(0, 1, 0, 2, 0, 0, 1, 3), m.number(1.5)),
    "pad before convolution": lambda m: m.op(
        "Conv", m.op("Pad", "x", m.ints(0, 0, 1, 2, 0, 0, 0, 1)), m.weight(2, 3, 3, 3)
    ),
    "resize by sizes that begin as the input's": lambda m: m.op(
        *("Resize", "x", "", ""),
        m.op("Concat", m.op("Slice", m.op("Shape", "x"), m.ints(0), m.ints(2)), m.ints(18, 12), axis=0),
        mode="linear",
    ),
    "local response norm": lambda m: m.op("LRN", conv(m, 8), size=5, alpha=0.7, beta=0.6, bias=1.5),
    "slice with steps": lambda m: m.op(
        "Slice", conv(m, 6), m.ints(1, 0, -1), m.ints(2**62, 9, 0), m.ints(1, 2, 3), m.ints(2, 3, -2)
    ),
    "every second pixel of four": lambda m: m.op(
        "Concat",
        *[m.op("Slice", "x", m.ints(i, j), m.ints(8, 8), m.ints(2, 3), m.ints(2, 2)) for i in (0, 1) for j in (0, 1)],
        axis=1,
    ),
    "pad by reflection": lambda m: m.op("Pad", conv(m, 2), m.ints(0, 0, 2, 3, 0, 0, 1, 0), mode="reflect"),
    "pad by the rim": lambda m: m.op("Pad", conv(m, 2), m.ints(0, 0, 2, 0, 0, 0, 1, 3), mode="edge"),
    "pad that cuts": lambda m: m.op("Pad", conv(m, 2), m.ints(0, 0, -2, 3, 0, 0, 1, -1)),
    "tile": lambda m: m.op("Tile", conv(m, 2), m.ints(1, 3, 1, 2)),
    "reduce min": lambda m: m.op("ReduceMin", conv(m, 4), axes=[2, 3], keepdims=0),
    "gather in any order": lambda m: m.op("Gather", conv(m, 6), m.ints(4, 0, 1, 1), axis=1),
    "gather into two axes": lambda m: m.op("Gather", "x", m.array(np.array([[4, 0], [1, -1]])), axis=3),
    "a class token": lambda m: m.op(
        "Concat",
        m.op("Expand", m.weight(1, 1, 3), m.op("Concat", m.op("Shape", "x", start=0, end=1), m.ints(1, 3), axis=0)),
        m.op("Transpose", m.op("Reshape", "x", m.ints(0, 3, 72)), perm=[0, 2, 1]),
        axis=1,
    ),
    "einsum of heads": lambda m: m.op(
        "Einsum", *[m.op("Reshape", "x", m.ints(0, 9, 2, 12))] * 2, equation="bqhd,bkhd->bhqk"
    ),
    "einsum with values": lambda m: m.op(
        "Einsum",
        m.op("Reshape", "x", m.ints(0, 2, 9, 12)),
        m.op("Reshape", "x", m.ints(0, 12, 2, 9)),
        equation="bhqk,bkhd->bqhd",
    ),
    "gather one channel": lambda m: m.op("Gather", conv(m, 6), m.array(np.int64(-2)), axis=1),
    "depth to space": lambda m: m.op("DepthToSpace", conv(m, 8), blocksize=2),
    "depth to space, columns first": lambda m: m.op("DepthToSpace", conv(m, 8), blocksize=2, mode="CRD"),
    "space to depth": lambda m: m.op(
        "SpaceToDepth", m.op("Pad", m.op("Relu", "x"), m.ints(0, 0, 0, 0, 0, 0, 1, 0)), blocksize=2
    ),
    "channel shuffle": lambda m: m.op(
        "Reshape",
        m.op("Transpose", m.op("Reshape", conv(m, 6), m.ints(0, 2, 3, 9, 8)), perm=[0, 2, 1, 3, 4]),
        m.ints(0, 6, 9, 8),
    ),
    "softmax over channels": lambda m: m.op("Softmax", conv(m, 4), axis=1),
    "softmax over columns": lambda m: m.op("Softmax", conv(m, 4), axis=3),
    "log softmax": lambda m: m.op("LogSoftmax", m.op("Flatten", "x"), axis=1),
    "flatten, then linear": lambda m: m.op(
        "Gemm", m.op("Relu", m.op("Flatten", conv(m, 4))), m.weight(5, 288), m.weight(5), transB=1, alpha=0.5, beta=2.0
    ),
    "flatten, then no linear layer": lambda m: m.op("Add", m.op("Flatten", conv(m, 4)), m.weight(288)),
    "linear over columns": lambda m: m.op("MatMul", conv(m, 4), m.weight(8, 5)),
    "tokens": lambda m: m.op(
        "MatMul", m.op("Transpose", m.op("Reshape", conv(m, 4), m.ints(0, 4, -1)), perm=[0, 2, 1]), m.weight(4, 6)
    ),
    "squeeze": lambda m: m.op("Squeeze", m.op("GlobalAveragePool", conv(m, 4)), m.ints(2, 3)),
    "unsqueeze": lambda m: m.op("Unsqueeze", m.op("Flatten", m.op("GlobalAveragePool", "x")), m.ints(2, -1)),
    "power": lambda m: m.op("Sqrt", m.op("Pow", "x", m.number(2))),
    "dropout": lambda m: m.op("Dropout", conv(m, 4), m.number(0.3)),
    "shape of the batch": lambda m: m.op(
        "Reshape",
        conv(m, 4),
        m.op(
            "Concat",
            m.op("Unsqueeze", m.op("Gather", m.op("Shape", "x"), m.array(np.int64(0))), m.ints(0)),
            m.ints(-1),
            axis=0,
        ),
    ),
    "two orders": lambda m: m.op("Add", m.op("Transpose", conv(m, 4), perm=[0, 2, 3, 1]), m.weight(4)),
}


@pytest.mark.parametrize("build", IMAGES.values(), ids=IMAGES.keys())
def test_operator_over_images(build: Build, tmp_path: Path) -> None:
    m = Made(["N", 3, 9, 8])
    agree(m.model(build(m)), tmp_path, image())


def heads(m: Made, order: list[int]) -> Any:
    return m.op("Transpose", m.op("Reshape", m.op("MatMul", "x", m.weight(6, 6)), m.ints(-1, 2, 3)), perm=order)


VECTORS: dict[str, Build] = {
    "Gemm": lambda m: m.op("Gemm", "x", m.weight(6, 4), m.weight(1, 4)),
    "MatMul with a bias": lambda m: m.op("Add", m.weight(4), m.op("MatMul", "x", m.weight(6, 4))),
    "batch norm": lambda m: m.op("BatchNormalization", "x", *(m.weight(6, low=0.5) for _ in range(4))),
    "Mish": lambda m: m.op("Mul", "x", m.op("Tanh", m.op("Softplus", "x"))),
    "reshape to images": lambda m: m.op("Conv", m.op("Reshape", "x", m.ints(-1, 1, 2, 3)), m.weight(2, 1, 2, 2)),
    "layer norm": lambda m: m.op("LayerNormalization", "x", m.weight(6), m.weight(6), epsilon=1e-3),
    "product of two": lambda m: m.op("MatMul", heads(m, [0, 2, 1]), heads(m, [0, 1, 2])),
    "attention": lambda m: m.op(
        "MatMul", m.op("Softmax", m.op("MatMul", heads(m, [0, 1, 2]), heads(m, [0, 2, 1]))), heads(m, [0, 1, 2])
    ),
    "Log": lambda m: m.op("Log", m.op("Reciprocal", m.op("Sqrt", m.op("Exp", "x")))),
}


@pytest.mark.parametrize("build", VECTORS.values(), ids=VECTORS.keys())
def test_operator_over_vectors(build: Build, tmp_path: Path) -> None:
    m = Made(["N", 6])
    agree(m.model(build(m)), tmp_path, image(2, 6))


def test_an_embedding(tmp_path: Path) -> None:
    m = Made(["N", 4])
    m.inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 4])]
    model = m.model(m.op("Gather", m.weight(9, 5), "x"))
    ids = np.array([[0, 8, 3, 3], [1, 2, 0, 7]])
    close(predict(load(model, tmp_path), ids.astype(np.int32))[0], run_onnx(model, {"x": ids})[0])


ENCODERS = sorted((Path(__file__).parents[1] / "goldens" / "onnx").glob("encoder_*.onnx"))


@pytest.mark.parametrize("path", ENCODERS, ids=lambda p: p.stem)
def test_an_encoder_with_a_mask_as_pytorch_exports_it(path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 30, (3, 12))
    mask = np.ones((3, 12), np.int64)
    mask[1, 7:] = mask[2, 3:] = 0
    (want,) = run_onnx(str(path), {"ids": ids, "mask": mask})
    graph = hs.load(path)
    assert {n: graph.tensors[n].dtype for n in graph.inputs} == {"ids": "int32", "mask": "float32"}
    inputs = (ids.astype(np.int32), mask.astype(np.float32))
    np.testing.assert_allclose(predict(graph, *inputs)[0], want, atol=1e-6)
    unmasked = predict(graph, inputs[0], np.ones_like(inputs[1]))[0]
    assert np.abs(unmasked[1:] - want[1:]).max() > 1e-3
    trainer = hs.Trainer(graph, hs.losses.CrossEntropy(), hs.optim.Adam(1e-2), batch=3)
    losses = [trainer.step(inputs, np.array([0, 1, 2])).loss for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1


def test_there_are_encoders_of_three_kinds() -> None:
    assert {p.stem.split("_")[1] for p in ENCODERS} == {"added", "expanded", "filled"}


WHOLE = {
    **{op: lambda m, op=op: m.op(op, "x", m.ints(2)) for op in ("Equal", "Greater", "Less")},
    **{op: lambda m, op=op: m.op(op, "x", m.ints(2)) for op in ("GreaterOrEqual", "LessOrEqual")},
    **{f"{op} turned": lambda m, op=op: m.op(op, m.ints(*range(5)), "x") for op in ("Equal", "Greater", "LessOrEqual")},
    "Not": lambda m: m.op("Not", m.op("Equal", "x", m.ints(1))),
    "And": lambda m: m.op("And", m.op("Less", "x", m.ints(4)), m.op("Greater", "x", m.ints(1))),
    "Or": lambda m: m.op("Or", m.array(np.arange(5) > 3), m.op("Greater", "x", m.ints(3))),
    "Cast to bool": lambda m: m.op("Cast", "x", to=TensorProto.BOOL),
    "Where of numbers": lambda m: m.op("Where", m.op("Less", "x", m.ints(3)), m.number(-2.5), m.weight(5)),
    "Where of what is computed": lambda m: m.op(
        "Where", m.op("Less", "x", m.ints(3)), m.op("Cast", "x", to=TensorProto.FLOAT), m.weight(5)
    ),
    "Where by a constant": lambda m: m.op(
        "Where", m.array(np.arange(5) % 2 == 0), m.weight(5), m.op("Cast", "x", to=TensorProto.FLOAT)
    ),
    "Expand": lambda m: m.op(
        "Flatten",
        m.op("Expand", m.op("Unsqueeze", m.op("Cast", "x", to=TensorProto.FLOAT), m.ints(1)), m.ints(1, 3, 5)),
    ),
}


@pytest.mark.parametrize("build", WHOLE.values(), ids=WHOLE.keys())
def test_truths_and_choices(build: Build, tmp_path: Path) -> None:
    m = Made(["N", 5])
    m.inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 5])]
    model = m.model(m.op("Cast", build(m), to=TensorProto.FLOAT))
    x = np.random.default_rng(0).integers(0, 6, (4, 5))
    (want,) = run_onnx(model, {"x": x})
    np.testing.assert_allclose(predict(load(model, tmp_path), x.astype(np.float32))[0], want, atol=1e-6)


def test_fractions_are_not_compared(tmp_path: Path) -> None:
    m = Made(["N", 5])
    y = m.op("Cast", m.op("Greater", m.op("Sigmoid", "x"), m.number(0.5)), to=TensorProto.FLOAT)
    with pytest.raises(hs.FormatError, match="may be fractions"):
        load(m.model(y), tmp_path)


def test_a_dropout_keeps_its_rate_for_training(tmp_path: Path) -> None:
    m = Made(["N", 6])
    graph = load(m.model(m.op("Dropout", m.op("Relu", "x"), m.number(0.3))), tmp_path)
    assert [n.attributes["rate"] for n in graph.nodes if n.op == "dropout"] == [pytest.approx(0.3)]


# -- what exporters write in several operators -----------------------------------------------------------------------

SPELLED_OUT: dict[str, tuple[str, Build]] = {
    "silu": ("silu", lambda m: m.op("Mul", m.op("Sigmoid", "x"), "x")),
    "hard swish by hard sigmoid": (
        "hard_swish",
        lambda m: m.op("Mul", "x", m.op("HardSigmoid", "x", alpha=1 / 6, beta=0.5)),
    ),
    "hard swish, product first": (
        "hard_swish",
        lambda m: m.op("Div", m.op("Mul", "x", _relu6_of_x_plus_3(m)), m.number(6)),
    ),
    "hard swish, division first": (
        "hard_swish",
        lambda m: m.op("Mul", "x", m.op("Div", _relu6_of_x_plus_3(m), m.number(6))),
    ),
    "gelu as PyTorch has it": ("gelu", lambda m: m.op("Mul", m.op("Mul", "x", _one_plus_erf(m)), m.number(0.5))),
    "gelu as TensorFlow has it": ("gelu", lambda m: m.op("Mul", m.op("Mul", m.number(0.5), "x"), _one_plus_erf(m))),
    "linear with a bias": ("linear", lambda m: m.op("Add", m.op("MatMul", "x", m.weight(6, 4)), m.weight(4))),
}


def _relu6_of_x_plus_3(m: Made) -> Any:
    plus = m.op("Add", "x", m.number(3))
    return m.op("Clip", plus, m.number(0), m.number(6))


def _one_plus_erf(m: Made) -> Any:
    return m.op("Add", m.op("Erf", m.op("Div", "x", m.number(np.sqrt(2)))), m.number(1))


@pytest.mark.parametrize(("op", "build"), SPELLED_OUT.values(), ids=SPELLED_OUT.keys())
def test_an_activation_that_is_spelled_out_is_one_operator(op: str, build: Build, tmp_path: Path) -> None:
    m = Made(["N", 6])
    graph = agree(m.model(build(m)), tmp_path, image(2, 6))
    assert [n.op for n in graph.nodes] == [op]


# -- whole networks ---------------------------------------------------------------------------------------------------


def small_network(opset: int = 17, batch: Any = "N", classes: int = 4) -> Made:
    """Convolutions, norms, a residual, squeeze and excite, a flattened image, two linear layers."""
    m = Made([batch, 3, 12, 12], opset)

    def block(x: str, inputs: int, outputs: int, **attributes: Any) -> str:
        weight = m.weight(outputs, inputs // attributes.get("group", 1), 3, 3)
        y = m.op("Conv", x, weight, pads=[1, 1, 1, 1], **attributes)
        return str(m.op("BatchNormalization", y, *(m.weight(outputs, low=0.5, high=1.5) for _ in range(4))))

    x = m.op("Relu", block("x", 3, 8, strides=[2, 2]))
    y = m.op("Relu", block(x, 8, 8, group=8))
    x = m.op("Add", block(y, 8, 8), x)
    x = m.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m.op("Flatten", x)
    x = m.op("Relu", m.op("Gemm", x, m.weight(16, 72), m.weight(16), transB=1))
    m.last = m.op("Gemm", x, m.weight(16, classes), m.weight(classes))  # type: ignore[attr-defined]
    return m


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    m = small_network(opset)
    model = m.model(m.last)  # type: ignore[attr-defined]
    model.ir_version = 8 if opset < 20 else 10
    agree(model, tmp_path, image(2, 3, 12, 12))


def test_no_transpose_is_left_and_the_network_trains(tmp_path: Path) -> None:
    m = small_network()
    graph = load(m.model(m.last), tmp_path)  # type: ignore[attr-defined]
    assert not [n for n in graph.nodes if n.op == "transpose"]
    assert graph.tensors["x"].shape == (-1, 12, 12, 3)
    assert {t.role for t in graph.tensors.values() if "BatchNorm" in t.name and t.data is not None} <= {
        "state",
        "parameter",
    }
    random = np.random.default_rng(0)
    x, y = random.standard_normal((16, 12, 12, 3)).astype(np.float32), random.integers(0, 4, 16)
    trainer = hs.Trainer(graph, hs.losses.CrossEntropy(), hs.optim.Adam(1e-2), batch=16)
    losses = [trainer.step(x, y).loss for _ in range(40)]
    assert losses[-1] < 0.05 * losses[0]
    trainer.export(tmp_path / "small.hsp", weights="int8")
    assert predict(hs.load(tmp_path / "small.hsp"), x)[0].shape == (16, 4)


def test_a_batch_that_the_file_fixes_is_free(tmp_path: Path) -> None:
    m = Made([1, 3, 9, 8])
    x = m.op("Reshape", conv(m, 4), m.ints(1, 288))
    model = m.model(m.op("MatMul", x, m.weight(288, 5)))
    graph = load(model, tmp_path)
    given = image(3, 3, 9, 8)
    got = predict(graph, given.transpose(0, 2, 3, 1))[0]
    for i in range(3):
        close(got[i : i + 1], run_onnx(model, {"x": given[i : i + 1]})[0])


def test_an_input_that_is_channels_last_in_the_file_stays_so(tmp_path: Path) -> None:
    m = Made(["N", 9, 8, 3])
    first = m.op("Transpose", "x", perm=[0, 3, 1, 2])
    y = m.op("Transpose", m.op("Conv", first, m.weight(4, 3, 3, 3)), perm=[0, 2, 3, 1])
    graph = agree(m.model(y), tmp_path, image(2, 9, 8, 3))
    assert [n.op for n in graph.nodes] == ["conv2d"]


def test_weights_are_shared_where_the_file_shares_them_and_biases_are_not(tmp_path: Path) -> None:
    m = Made(["N", 6])
    w, b = m.weight(6, 6), m.array(np.zeros(6, np.float32))
    graph = load(m.model(m.op("Gemm", m.op("Relu", m.op("Gemm", "x", w, b)), w, b)), tmp_path)
    assert len(graph.parameters()) == 3


def test_quantised_weights_and_activations_become_float(tmp_path: Path) -> None:
    m = Made(["N", 3, 9, 8])
    codes = m.array(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8))
    scales = m.array(np.asarray([0.01, 0.02, 0.03, 0.04], np.float32))
    weight = m.op("DequantizeLinear", codes, scales, m.array(np.zeros(4, np.int8)), axis=0)
    y = m.op("Conv", "x", weight, m.weight(4))
    scale, zero = m.number(6 / 255), m.array(np.uint8(0))
    y = m.op("DequantizeLinear", m.op("QuantizeLinear", y, scale, zero), scale, zero)
    graph = load(m.model(y), tmp_path)
    assert [n.op for n in graph.nodes] == ["conv2d", "relu6"]
    (want,) = run_onnx(m.model(y), {"x": image()})
    (got,) = predict(graph, image().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, atol=0.5 * 6 / 255 + 1e-5)


# -- what can't come in ----------------------------------------------------------------------------------------------


def test_all_unsupported_operators_are_listed_at_once_with_names_and_advice(tmp_path: Path) -> None:
    m = Made(["N", 6])
    a = m.op("Sin", "x", name="first/sin")
    b = m.op("Relu", m.op("TopK", a, m.ints(2), outputs=2, name="best")[0])
    c = m.op("Pow", "x", m.number(1.7), name="odd power")
    with pytest.raises(hs.FormatError) as e:
        load(m.model(m.op("Add", b, c)), tmp_path)
    for part in ("first/sin (Sin)", "best (TopK)", "odd power (Pow)", "1.7", "What to do", "model.onnx"):
        assert part in str(e.value)


def test_nodes_that_no_output_needs_do_not_matter(tmp_path: Path) -> None:
    m = Made(["N", 6])
    m.op("Sin", "x")
    agree(m.model(m.op("Relu", "x")), tmp_path, image(2, 6))


def test_old_operator_sets_are_refused_with_advice(tmp_path: Path) -> None:
    m = Made(["N", 6], opset=9)
    with pytest.raises(hs.FormatError, match="version_converter"):
        load(m.model(m.op("Relu", "x")), tmp_path)


def test_open_sizes_are_asked_for_and_taken(tmp_path: Path) -> None:
    m = Made(["N", 3, "H", "W"])
    model = m.model(m.op("Conv", "x", m.weight(4, 3, 3, 3)))
    with pytest.raises(hs.FormatError, match=r"shapes=\{'x'"):
        load(model, tmp_path)
    graph = load(model, tmp_path, shapes={"x": (1, 3, 9, 8)})
    assert graph.tensors["x"].shape == (-1, 9, 8, 3)
    with pytest.raises(hs.OptionError, match="no input 'z'"):
        load(model, tmp_path, shapes={"z": (1, 3, 9, 8)})


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Made(["N", 6])
    load(m.model(m.op("Relu", "x")), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(hs.MissingPackageError, match=r"homespun\[onnx\]"):
        hs.load(tmp_path / "model.onnx")
