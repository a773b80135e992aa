"""Predictors against the NumPy reference: every operator, fused and not, on every instruction set of this machine."""

import threading

import numpy as np
import pytest

from homespun import GraphBuilder, OptionError, Predictor, ShapeError, _native
from homespun.graph import Graph
from tests.reference import evaluate

ISAS = _native.isas()


def close(got: np.ndarray, want: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * scale)


def agree(graph: Graph, *inputs: np.ndarray, isa: str | None = None, threads: int = 2) -> None:
    got = Predictor(graph, batch=inputs[0].shape[0], isa=isa, threads=threads)(*inputs)
    for a, b in zip(got if isinstance(got, tuple) else (got,), evaluate(graph, *inputs), strict=True):
        close(a, b)


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def residual_network(activation: str = "relu6") -> Graph:
    """Stem, expansion, depthwise, projection, residual, second head: all that the fusions look for."""
    b = GraphBuilder("residual", seed=3)
    x = b.input("image", (13, 11, 3))

    def block(y: str, name: str, act: str = activation, **conv: int) -> str:
        y = b.batch_norm(b.conv(y, name, **conv), f"{name}.norm", conv["outputs"])
        return b.op(act, y, name=f"{name}.act") if act else y

    y = stem = block(x, "stem", inputs=3, outputs=16, kernel=3, stride=2)
    y = block(y, "expand", inputs=16, outputs=96)
    y = block(y, "depthwise", inputs=96, outputs=96, kernel=3, groups=96)
    y = block(y, "project", act="", inputs=96, outputs=16)
    y = b.op("add", y, stem, name="residual")
    side = b.op("global_average_pool", stem, name="side")
    y = block(y, "down", inputs=16, outputs=32, kernel=5, stride=2, groups=2)
    y = b.op("flatten", b.op("dropout", b.op("global_average_pool", y), rate=0.2), name="flat")
    graph = b.build(b.op("softmax", b.linear(y, "head", 32, 10)), side)
    random = np.random.default_rng(1)
    for tensor in graph.tensors.values():  # statistics as a trained network has them
        if tensor.name.endswith(("running_mean", "norm.bias", "head.bias")):
            tensor.data = random.normal(0, 0.5, tensor.shape).astype(np.float32)
        if tensor.name.endswith(("running_var", "norm.weight")):
            tensor.data = random.uniform(0.5, 2.0, tensor.shape).astype(np.float32)
    return graph


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["relu6", "hard_swish", "leaky_relu", "gelu"])
def test_a_network_with_residuals_norms_and_two_outputs(isa: str, activation: str) -> None:
    agree(residual_network(activation), image(3, 13, 11, 3), isa=isa)


OPERATORS = {
    "relu": ((5, 4, 3), {}),
    "clip": ((5, 4, 3), {"low": -0.5, "high": 0.25}),
    "leaky_relu": ((5, 4, 3), {"alpha": 0.2}),
    "elu": ((17,), {"alpha": 0.7}),
    "gelu": ((33,), {}),
    "gelu_tanh": ((33,), {}),
    "mish": ((33,), {}),
    "softplus": ((33,), {}),
    "silu": ((33,), {}),
    "sigmoid": ((33,), {}),
    "tanh": ((33,), {}),
    "hard_sigmoid": ((33,), {}),
    "erf": ((33,), {}),
    "exp": ((33,), {}),
    "square": ((33,), {}),
    "abs": ((33,), {}),
    "neg": ((33,), {}),
    "reciprocal": ((33,), {}),
    "softmax": ((5, 37), {}),
    "log_softmax": ((5, 37), {}),
    "max_pool": ((9, 7, 5), {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 0, 1, 1)}),
    "average_pool": ((9, 7, 5), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "ceil": True}),
    "global_average_pool": ((9, 7, 5), {}),
    "reshape": ((6, 4), {"shape": (0, 3, 8)}),
    "flatten": ((6, 4), {}),
    "identity": ((6, 4), {}),
    "transpose": ((3, 5, 4), {"axes": (0, 3, 1, 2)}),
    "slice": ((6, 10), {"axis": 2, "start": 3, "stop": 7}),
    "pad": ((4, 3, 2), {"before": (0, 1, 0, 2), "after": (0, 2, 1, 0), "value": 1.5}),
    "channel_shuffle": ((3, 2, 42), {"groups": 3}),
    "upsample": ((3, 4, 5), {"factor": (2, 3)}),
    "resize": ((4, 5, 19), {"size": (7, 3)}),
    "local_response_norm": ((2, 3, 37), {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 1.5}),
    "reduce_sum": ((4, 5, 6), {"axes": (1, 2)}),
    "reduce_mean": ((4, 5, 6), {"axes": (-1,), "keep_axes": True}),
    "reduce_max": ((4, 5, 6), {"axes": (2,)}),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", OPERATORS)
def test_one_operator(op: str, isa: str) -> None:
    shape, attributes = OPERATORS[op]
    b = GraphBuilder(op)
    y = b.op(op, b.input("x", shape), name="y", **attributes)
    agree(b.build(y), image(2, *shape), isa=isa)


@pytest.mark.parametrize("op", ["log", "sqrt"])
def test_functions_of_positive_numbers(op: str) -> None:
    b = GraphBuilder(op)
    agree(b.build(b.op(op, b.input("x", (33,)), name="y")), np.abs(image(2, 33)) + 0.01)


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_pool_counts_padding_as_told(count_include_pad: bool) -> None:
    b = GraphBuilder("pool")
    window = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    y = b.op("average_pool", b.input("x", (8, 8, 4)), count_include_pad=count_include_pad, **window)
    agree(b.build(y), image(1, 8, 8, 4))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum"])
@pytest.mark.parametrize(
    "shapes", [((4, 5, 6), (4, 5, 6)), ((4, 5, 6), (1, 1, 6)), ((4, 5, 1), (4, 1, 6)), ((7,), (1,))]
)
def test_arithmetic_broadcasts_as_numpy_does(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    b = GraphBuilder(op)
    y = b.op(op, b.input("a", shapes[0]), b.input("b", shapes[1]), name="y", activation="relu")
    agree(b.build(y), image(2, *shapes[0]), image(2, *shapes[1], seed=1) + 3)


def test_concatenation_and_reuse_of_an_input() -> None:
    b = GraphBuilder("concat")
    x = b.input("x", (4, 4, 3))
    y = b.op("concat", x, b.op("relu", x, name="r"), x, name="y", axis=3)
    agree(b.build(y, "r"), image(2, 4, 4, 3))


def test_a_split_gives_its_parts() -> None:
    b = GraphBuilder("split")
    parts = b.op("split", b.input("x", (3, 9, 4)), name="part", outputs=3, axis=2, sizes=(2, 4, 3))
    agree(b.build(parts[2], parts[0], b.op("relu", parts[1], name="r")), image(2, 3, 9, 4))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 6, 8, 12, 24, 30, 40, 60, 120])
def test_channels_shuffle_in_any_number_of_groups(groups: int) -> None:
    b = GraphBuilder("shuffle")
    y = b.op("channel_shuffle", b.input("x", (3, 2, 120)), name="y", groups=groups)
    agree(b.build(y), image(2, 3, 2, 120))


def test_an_output_that_is_an_input_is_copied() -> None:
    b = GraphBuilder("same")
    x = b.input("x", (4, 3))
    graph = b.build(b.op("flatten", x, name="flat"), x)
    agree(graph, image(2, 4, 3))


def test_an_output_that_is_listed_twice_comes_twice() -> None:
    b = GraphBuilder("twice")
    y = b.op("relu", b.input("x", (4, 3)), name="y")
    agree(b.build(y, y, b.op("flatten", y, name="flat")), image(2, 4, 3))


@pytest.mark.parametrize("padding", ["same_upper", "valid"])
def test_padding_in_the_way_of_tensorflow(padding: str) -> None:
    b = GraphBuilder("padding")
    y = b.conv(b.input("x", (10, 9, 3)), "c", inputs=3, outputs=6, kernel=3, stride=2, padding=padding, bias=True)
    agree(b.build(y), image(2, 10, 9, 3))


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int) -> None:
    agree(residual_network(), image(2, 13, 11, 3), threads=threads)


def test_any_number_of_samples_at_once() -> None:
    graph = residual_network()
    predict = Predictor(graph, batch=4)
    for count in (0, 1, 3, 4, 9):
        x = image(count, 13, 11, 3)
        probabilities, side = predict(x)
        assert probabilities.shape == (count, 10) and side.shape == (count, 1, 1, 16)
        if count:
            close(probabilities, evaluate(graph, x)[0])


def test_calls_from_many_threads_do_not_mix() -> None:
    graph = residual_network()
    predict = Predictor(graph, batch=2)
    inputs = [image(2, 13, 11, 3, seed=i) for i in range(8)]
    wanted = [evaluate(graph, x)[0] for x in inputs]
    failures: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.allclose(predict(inputs[i])[0], wanted[i], atol=1e-4):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_a_predictor_leaves_the_model_as_it_was() -> None:
    graph = residual_network()
    before = str(graph), {k: v.copy() for k, v in graph.parameters().items()}
    Predictor(graph)
    assert str(graph) == before[0]
    for name, value in graph.parameters().items():
        np.testing.assert_array_equal(value, before[1][name])


def test_memory_is_reused_and_reported() -> None:
    memory = Predictor(residual_network(), batch=2).memory
    assert memory.lower_bound <= memory.arena <= 1.05 * memory.lower_bound
    assert memory.without_reuse > 1.5 * memory.arena
    assert "lower bound" in str(memory)


def test_epilogues_are_fused() -> None:
    predict = Predictor(residual_network())
    kernels = [call.split("(")[1] for call in predict.profile(image(1, 13, 11, 3), repeat=1)]
    assert not any(k.startswith(("affine", "unary", "binary")) for k in kernels)


@pytest.mark.parametrize("shape", [(2, 13, 11, 4), (13, 11, 3), (2, 12, 11, 3)])
def test_a_wrong_shape_says_what_was_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"input 'image' has shape .* expected \(N, 13, 11, 3\)"):
        Predictor(residual_network())(image(*shape))


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"threads": 0}, {"threads": "2"}, {"batch": 1.5}, {"weights": "int4"}, {"isa": "avx1024"}]
)
def test_an_impossible_option_says_what_is_possible(options: dict) -> None:
    with pytest.raises(OptionError, match=r"at least 1|'float32' or 'int8'|usable are"):
        Predictor(residual_network(), **options)


def test_a_path_is_no_model() -> None:
    with pytest.raises(OptionError, match=r"model is 'net.hsp'; it must be a Graph"):
        Predictor("net.hsp")  # type: ignore[arg-type]
