"""What newer and rarer networks are made of, held against onnxruntime: norms of groups, attention, folded constants,
and batches that a file fixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import homespun as hs
from homespun.graph import Array
from tests.formats.onnx.made import Made, agree, close, load, predict, run_onnx

Build = Callable[[Made], Any]


def numbers(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def group_norm(m: Made, groups: int, scales: bool = False) -> Any:
    """As PyTorch's exporter writes it: a norm of each of the channels that the groups are reshaped to."""
    parts = m.op("Reshape", m.op("Conv", "x", m.weight(6, 3, 1, 1)), m.ints(0, groups, -1))
    scale, bias = (m.array(np.full(groups, v, np.float32)) for v in ((1.5, 0.5) if scales else (1.0, 0.0)))
    back = m.op("Reshape", m.op("InstanceNormalization", parts, scale, bias), m.array(np.asarray([-1, 6, 9, 8])))
    return m.op("Add", m.op("Mul", back, m.weight(6, 1, 1)), m.weight(6, 1, 1))


NORMS: dict[str, tuple[int, Build, int]] = {
    "instances": (17, lambda m: m.op("InstanceNormalization", "x", m.weight(3), m.weight(3), epsilon=1e-3), 1),
    "one group": (17, lambda m: group_norm(m, 1), 1),
    "two groups": (17, lambda m: group_norm(m, 2), 1),
    "two groups with scales": (17, lambda m: group_norm(m, 2, scales=True), 1),
    "GroupNormalization": (
        21,
        lambda m: m.op("GroupNormalization", "x", m.weight(3), m.weight(3), num_groups=1, epsilon=1e-3),
        1,
    ),
    "RMSNormalization": (23, lambda m: m.op("RMSNormalization", "x", m.weight(8), epsilon=1e-3), 0),
}


@pytest.mark.parametrize(("opset", "build", "sums"), NORMS.values(), ids=NORMS.keys())
def test_norms_of_groups(opset: int, build: Build, sums: int, tmp_path: Path) -> None:
    m = Made(["N", 3, 9, 8], opset)
    model = m.model(build(m))
    model.ir_version = 10
    graph = agree(model, tmp_path, numbers(2, 3, 9, 8))
    assert sum(n.op == "transpose" for n in graph.nodes) == 0
    assert [n.op for n in graph.nodes].count("sub") == sums


@pytest.mark.parametrize("pads", [[0, 0], [2, 1]])
@pytest.mark.parametrize("group", [1, 2])
def test_convolution_of_sequences(pads: list[int], group: int, tmp_path: Path) -> None:
    m = Made(["N", 4, 15])
    weight = m.weight(6, 4 // group, 3)
    y = m.op("Conv", "x", weight, m.weight(6), strides=[2], dilations=[2], pads=pads, group=group)
    model = m.model(y)
    graph = load(model, tmp_path)
    x = numbers(3, 4, 15)
    close(predict(graph, x)[0], run_onnx(model, {"x": x})[0])


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_lengths_over_axes_and_their_gradient_at_zero(op: str, tmp_path: Path) -> None:
    m = Made(["N", 5, 6])
    graph = agree(m.model(m.op("Relu", m.op(op, m.op("Mul", "x", m.weight(6)), axes=[-1], keepdims=0))), tmp_path,
                  numbers(2, 5, 6))  # fmt: skip
    trainer = hs.Trainer(graph, hs.losses.MSE(), hs.optim.SGD(0.1), batch=2)
    found = trainer.compute_gradients(np.zeros((2, 5, 6), np.float32), np.ones((2, 5), np.float32))
    assert all(np.isfinite(g).all() for g in found.values())


def attention(m: Made, width: int, mask: Array | None = None, **more: Any) -> Any:
    """Queries, keys and values are the input in three scales; `width` is that of a head, or of all of them in a row."""
    parts = [m.op("Mul", "x", m.weight(width)) for _ in range(3)]
    return m.op("Attention", *parts, *([] if mask is None else [m.array(mask)]), **more)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    "mask", [None, numbers(5, 5), np.tril(np.ones((5, 5), bool))], ids=["no mask", "numbers", "truths"]
)
@pytest.mark.parametrize("rank", [3, 4])
def test_attention(rank: int, mask: Array | None, causal: int, tmp_path: Path) -> None:
    if mask is not None and causal:
        pytest.skip("one mask is enough")
    shape = [5, 12] if rank == 3 else [3, 5, 4]
    m = Made(["N", *shape], 23)
    heads = {"q_num_heads": 3, "kv_num_heads": 3} if rank == 3 else {}
    model = m.model(attention(m, shape[-1], mask, is_causal=causal, scale=0.4, **heads))
    model.ir_version = 10
    graph = load(model, tmp_path)
    x = numbers(2, *shape)
    close(predict(graph, x)[0], run_onnx(model, {"x": x})[0])


def test_attention_with_a_cap_or_shared_keys_is_refused(tmp_path: Path) -> None:
    m = Made(["N", 3, 5, 4], 23)
    y = attention(m, 4, softcap=2.0, name="capped")
    with pytest.raises(hs.FormatError, match=r"capped.*cap"):
        load(m.model(y), tmp_path)


FOLDED: dict[str, Build] = {
    "Mod": lambda m: m.op("Cast", m.op("Mod", m.ints(7, -7, 5, 12, 3, 1), m.ints(3)), to=1),
    "Mod of fractions": lambda m: m.op("Mod", m.weight(6, low=-9, high=9), m.number(2.5), fmod=1),
    "CumSum": lambda m: m.op("CumSum", m.weight(6), m.array(np.int64(0)), exclusive=1, reverse=1),
    "ScatterND": lambda m: m.op("ScatterND", m.weight(6), m.array(np.asarray([[1], [4]])), m.weight(2)),
    "Sin": lambda m: m.op("Sin", m.weight(6)),
    "Cos": lambda m: m.op("Cos", m.weight(6)),
    "Sign": lambda m: m.op("Sign", m.weight(6)),
    "Round": lambda m: m.op("Round", m.weight(6, low=-9, high=9)),
    "Tanh": lambda m: m.op("Tanh", m.weight(6)),
    "Sigmoid": lambda m: m.op("Sigmoid", m.weight(6)),
    "Relu": lambda m: m.op("Relu", m.weight(6)),
    "Clip": lambda m: m.op("Clip", m.weight(6), m.number(-0.5), m.number(0.25)),
    "Trilu": lambda m: m.op("Trilu", m.weight(6, 6), m.array(np.int64(1)), upper=0),
    "EyeLike": lambda m: m.op("EyeLike", m.weight(6, 6), k=1),
    "MatMul": lambda m: m.op("MatMul", m.weight(6, 4), m.weight(4, 6)),
    "ReduceMean": lambda m: m.op("ReduceMean", m.weight(4, 6), axes=[0]),
    "ReduceL2": lambda m: m.op("ReduceL2", m.weight(4, 6), axes=[0], keepdims=0),
    "GreaterOrEqual": lambda m: m.op("Cast", m.op("GreaterOrEqual", m.weight(6), m.number(0.0)), to=1),
    "LessOrEqual": lambda m: m.op("Cast", m.op("LessOrEqual", m.weight(6), m.number(0.0)), to=1),
}


@pytest.mark.parametrize("build", FOLDED.values(), ids=FOLDED.keys())
def test_what_depends_on_constants_is_computed_while_loading(build: Build, tmp_path: Path) -> None:
    m = Made(["N", 6, 6])
    graph = agree(m.model(m.op("Add", "x", build(m))), tmp_path, numbers(2, 6, 6))
    assert [n.op for n in graph.nodes] == ["add"]


def test_weights_that_are_standardised_train_as_weights(tmp_path: Path) -> None:
    """A batch norm of the weights by their own statistics, as exporters write standardised convolutions."""
    m = Made(["N", 3, 9, 8], 14)
    flat = m.op("Reshape", m.weight(4, 3, 3, 3), m.ints(1, 4, -1))
    norm = [m.weight(4, low=0.5), m.array(np.zeros(4, np.float32)), m.weight(4), m.weight(4, low=0.5)]
    scaled = m.op("BatchNormalization", flat, *norm, outputs=3, training_mode=1, epsilon=1e-3)[0]
    model = m.model(m.op("Conv", "x", m.op("Reshape", scaled, m.ints(4, 3, 3, 3)), m.weight(4)))
    graph = agree(model, tmp_path, numbers(2, 3, 9, 8))
    assert [n.op for n in graph.nodes] == ["conv2d"]
    assert [t.shape for t in graph.with_role("parameter")] == [(3, 3, 3, 4), (4,)]


def each_sample(model: Any, graph: Any, x: Array) -> None:
    """A network whose file fixes one sample computes for three what it computes for each."""
    (got,) = predict(graph, x if x.ndim != 4 else x.transpose(0, 2, 3, 1))
    for i in range(len(x)):
        close(got[i : i + 1], run_onnx(model, {"x": x[i : i + 1]})[0])


def test_attention_that_keeps_tokens_before_the_batch_of_one_is_free(tmp_path: Path) -> None:
    """`nn.MultiheadAttention` as PyTorch exports it for one sample: the batch joins heads, then tokens."""
    m = Made([1, 5, 12])
    first = m.op("Transpose", "x", perm=[1, 0, 2])
    heads = []
    for _ in range(3):
        rows = m.op("MatMul", first, m.weight(12, 12))
        heads.append(m.op("Transpose", m.op("Reshape", rows, m.ints(5, 3, 4)), perm=[1, 0, 2]))
    q, k, v = heads
    scores = m.op("Softmax", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = m.op("Transpose", m.op("MatMul", scores, v), perm=[1, 0, 2])
    y = m.op("Gemm", m.op("Reshape", y, m.ints(5, 12)), m.weight(12, 12), m.weight(12))
    y = m.op("Transpose", m.op("Reshape", y, m.ints(5, 1, 12)), perm=[1, 0, 2])
    model = m.model(y)
    graph = load(model, tmp_path)
    assert graph.tensors["x"].shape == (-1, 5, 12)
    each_sample(model, graph, numbers(3, 5, 12))


def test_heads_that_join_the_batch_before_an_open_axis_are_free(tmp_path: Path) -> None:
    m = Made([1, 8, 4, 5])
    y = m.op("Conv", "x", m.weight(8, 8, 1, 1))
    y = m.op("Softmax", m.op("Reshape", y, m.ints(2, 4, -1)), axis=-1)
    model = m.model(m.op("Reshape", y, m.ints(1, 160)))
    graph = load(model, tmp_path)
    assert graph.tensors["x"].shape == (-1, 4, 5, 8)
    each_sample(model, graph, numbers(3, 8, 4, 5))


def test_a_network_that_mixes_samples_keeps_the_batch_of_its_file(tmp_path: Path) -> None:
    m = Made([2, 6])
    scores = m.op("Softmax", m.op("Transpose", "x", perm=[1, 0]), axis=-1)
    model = m.model(m.op("Transpose", scores, perm=[1, 0]))
    graph = load(model, tmp_path)
    assert graph.tensors["x"].shape == (2, 6)
    close(predict(graph, numbers(2, 6))[0], run_onnx(model, {"x": numbers(2, 6)})[0])
    for info in (*model.graph.input,):
        info.CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6]))
    with pytest.raises(hs.FormatError, match="mixes the samples"):
        load(model, tmp_path)


def test_operators_behind_one_that_is_refused_are_not_blamed(tmp_path: Path) -> None:
    m = Made(["N", 6])
    m_shape = m.op("Ceil", m.op("Det", "x", name="refused"), name="after it")
    with pytest.raises(hs.FormatError, match="refused") as error:
        load(m.model(m_shape), tmp_path)
    assert "after it" not in str(error.value)
    m = Made(["N", 6])
    with pytest.raises(hs.FormatError, match=r"of the input.*computed from the model's input"):
        load(m.model(m.op("Ceil", "x", name="of the input")), tmp_path)


def test_folding_is_bounded_in_time_and_memory(tmp_path: Path) -> None:
    m = Made(["N", 4])
    big, other = (m.array(np.ones(shape, np.float32)) for shape in ((512, 1024), (1024, 512)))
    y = "x"
    for _ in range(64):
        y = m.op("Add", y, m.op("ReduceMean", m.op("MatMul", big, other), axes=[0, 1], keepdims=0))
    with pytest.raises(hs.FormatError, match="constants take longer to compute than makes sense"):
        load(m.model(y), tmp_path)
