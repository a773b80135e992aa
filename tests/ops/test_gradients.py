"""Every operator's gradient against finite differences of the float64 reference: one table of shapes and attributes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from homespun import _native
from homespun.compile.autodiff import GraphExtension, differentiate
from homespun.compile.passes import for_inference
from homespun.compile.passes.store_half import ACTIVATIONS as ACTIVATIONS_IN_16
from homespun.compile.passes.store_half import HALF as IN_16
from homespun.compile.training import joint_graph, other_states
from homespun.errors import ModelError
from homespun.graph import Array, Graph, GraphBuilder, TensorType, infer
from homespun.graph.operator import OPERATORS
from homespun.ops.activation import FUNCTIONS
from homespun.ops.update import UPDATES
from homespun.training import Trainer, losses, optim
from homespun.zoo import mobilenet_v2
from tests.reference import FUNCTIONS as FUNCTIONS_IN_NUMPY
from tests.reference import evaluate


class WeightedSum(losses.Loss):
    """sum(output * target): its gradient with respect to the output is the target."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        product = build.add("mul", [outputs[0], targets[0]])
        return build.add("reduce_sum", [product], axes=tuple(range(len(build.type(product).shape))))


@dataclass
class Case:
    op: str
    shapes: list[tuple[int, ...]]
    attributes: dict[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    integers: dict[int, Any] = field(default_factory=dict)  # inputs that are int32 constants, by position

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}{self.shapes}{options}".replace(" ", "")


POSITIVE = ("log", "sqrt", "reciprocal")
CASES = [
    *[
        Case(f, [(3, 37)], low=0.3 if f in POSITIVE else -4.0, high=8.0 if f in ("relu6", "clip") else 4.0)
        for f in FUNCTIONS
    ],
    Case("leaky_relu", [(5, 7)], {"alpha": 0.2}),
    Case("elu", [(5, 7)], {"alpha": 0.7}),
    Case("clip", [(4, 9)], {"low": -0.5, "high": 1.0}),
    *[Case(op, [(3, 5, 7), (3, 5, 7)]) for op in ("add", "sub", "mul", "maximum", "minimum")],
    *[Case(op, [(3, 5, 7), (7,)]) for op in ("add", "sub", "mul", "maximum")],
    *[Case(op, [(2, 3, 4, 5), (2, 1, 4, 1)]) for op in ("add", "mul")],
    Case("mul", [(3, 1, 5), (4, 1)]),
    Case("div", [(3, 6), (3, 6)], low=0.5, high=2.0),
    Case("div", [(3, 6), (6,)], low=0.5, high=2.0),
    Case("linear", [(5, 7), (7, 3)]),
    Case("linear", [(2, 3, 19), (19, 35), (35,)]),
    Case("linear", [(70, 33), (33, 40), (40,)]),
    Case("conv2d", [(2, 5, 6, 3), (1, 1, 3, 5)]),
    Case("conv2d", [(2, 9, 9, 17), (1, 1, 17, 37), (37,)]),
    Case("conv2d", [(2, 7, 6, 3), (3, 3, 3, 5), (5,)], {"padding": (1, 1, 1, 1)}),
    Case("conv2d", [(1, 8, 7, 2), (3, 2, 2, 4)], {"padding": (1, 0, 2, 1), "stride": (2, 3)}),
    Case("conv2d", [(1, 9, 9, 2), (3, 3, 2, 4)], {"padding": (2, 2, 2, 2), "dilation": (2, 2)}),
    Case("conv2d", [(2, 6, 6, 4), (3, 3, 2, 6), (6,)], {"padding": (1, 1, 1, 1), "groups": 2}),
    Case("conv2d", [(2, 6, 5, 4), (1, 1, 2, 6)], {"groups": 2, "stride": (2, 2)}),
    Case("conv2d", [(1, 8, 8, 3), (3, 3, 3, 4)], {"padding": "same_upper", "stride": (2, 2)}),
    # Windows so deep that they are multiplied in parts: odd and even numbers of channels, many lines and images.
    Case("conv2d", [(2, 13, 11, 67), (3, 3, 67, 69), (69,)], {"padding": (1, 1, 1, 1)}),
    Case("conv2d", [(9, 2, 3, 129), (3, 3, 129, 130)], {"padding": (1, 1, 1, 1)}),
    Case("conv2d", [(3, 9, 8, 71), (3, 3, 71, 73)], {"padding": "same_upper", "stride": (2, 2)}),
    Case("conv2d", [(2, 9, 9, 140), (3, 3, 70, 146)], {"padding": (2, 2, 2, 2), "dilation": (2, 2), "groups": 2}),
    Case("conv2d", [(1, 4, 7, 80), (2, 4, 80, 70)], {"padding": (3, 4, 0, 1)}),
    Case("conv2d", [(2, 5, 6, 260), (3, 3, 260, 272), (272,)], {"padding": (1, 1, 1, 1)}),  # more weights than input
    *[
        Case("conv2d", [(n, h, w, c), (k, k, 1, c)], {"padding": (k // 2,) * 4, "stride": (s, s), "groups": c})
        for n, h, w, c, k, s in [
            (2, 6, 7, 5, 3, 1),
            (2, 7, 6, 5, 3, 2),
            (1, 9, 8, 19, 5, 1),
            (3, 9, 8, 3, 5, 2),
            (1, 2, 2, 33, 3, 1),
            (8, 2, 2, 32, 3, 1),
            (2, 1, 1, 4, 3, 1),
            (2, 8, 8, 4, 3, 3),
        ]
    ],
    Case("conv2d", [(2, 7, 7, 4), (3, 3, 1, 4), (4,)], {"padding": (2, 2, 2, 2), "dilation": (2, 2), "groups": 4}),
    Case("conv2d", [(1, 7, 7, 4), (3, 3, 1, 4), (4,)], {"padding": "same_upper", "stride": (2, 2), "groups": 4}),
    Case("max_pool", [(2, 6, 7, 5)], {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    Case("max_pool", [(1, 6, 6, 3)], {"kernel": (2, 2), "stride": (2, 2)}),
    Case("average_pool", [(2, 6, 7, 5)], {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    Case("average_pool", [(2, 6, 7, 5)], {"kernel": (3, 2), "padding": (1, 1, 1, 0), "count_include_pad": True}),
    Case("global_average_pool", [(3, 4, 5, 21)]),
    Case("softmax", [(4, 9)]),
    Case("log_softmax", [(2, 3, 17)]),
    Case("reduce_sum", [(3, 4, 5)], {"axes": (1,)}),
    Case("reduce_mean", [(3, 4, 5)], {"axes": (1, 2), "keep_axes": True}),
    Case("reduce_max", [(3, 4, 5)], {"axes": (2,)}),
    Case("reshape", [(3, 4, 5)], {"shape": (3, 20)}),
    Case("flatten", [(3, 4, 5)]),
    Case("identity", [(3, 4)]),
    Case("transpose", [(2, 3, 4, 5)], {"axes": (0, 2, 3, 1)}),
    Case("concat", [(2, 3, 4), (2, 5, 4), (2, 1, 4)], {"axis": 1}),
    Case("slice", [(2, 7, 4)], {"axis": 1, "start": 2, "stop": 5}),
    Case("layer_norm", [(3, 4, 19), (19,), (19,)]),
    Case("layer_norm", [(70, 33), (33,), (33,)], {"eps": 1e-12}),
    Case("layer_norm", [(2, 1), (1,), (1,)], {"eps": 0.5}),
    Case("embedding", [(7, 5)], integers={0: [[0, 3, 3], [6, 3, 1]]}),
    Case("embedding", [(40, 33)], integers={0: np.arange(64).reshape(2, 32) % 23}),
    Case("attention", [(2, 5, 6), (2, 5, 6), (2, 5, 6)], {"heads": 2}),
    Case("attention", [(1, 3, 4), (1, 7, 4), (1, 7, 4)], {"heads": 1, "scale": 0.3}),
    Case("attention", [(2, 3, 6)] * 3, {"heads": 3}, integers={3: [[1, 1, 0], [1, 0, 0]]}),
    Case("attention", [(2, 3, 4)] * 3, {"heads": 2}, integers={3: [[0, 0, 0], [0, 1, 1]]}),
    Case("attention", [(1, 300, 38)] * 3, {"heads": 2}),
    Case("attention", [(3, 33, 78)] * 3, {"heads": 3}, integers={3: [[1] * 20 + [0] * 13] * 3}),
    Case("matmul", [(3, 5, 7), (3, 7, 4)]),
    Case("matmul", [(2, 2, 5, 3), (2, 2, 7, 3)], {"transpose_b": True}),
    Case("matmul", [(2, 3, 5), (2, 3, 4)], {"transpose_a": True}),
    Case("matmul", [(2, 3, 5), (2, 4, 3)], {"transpose_a": True, "transpose_b": True}),
    Case("matmul", [(9, 20, 3), (9, 3, 17)]),
    Case("matmul", [(2, 3, 5), (5, 4)]),
    Case("matmul", [(2, 20, 33), (70, 33)], {"transpose_b": True}),
    Case("split", [(2, 7, 4)], {"axis": 1, "sizes": (2, 4, 1)}),
    *[Case("channel_shuffle", [(2, 1, 3, 24)], {"groups": g}) for g in (2, 3, 4, 6, 8, 12)],
    Case("upsample", [(2, 3, 2, 17)], {"factor": (2, 3)}),
    Case("resize", [(2, 3, 4, 19)], {"size": (7, 9)}),
    Case("resize", [(1, 7, 5, 3)], {"size": (4, 2), "coordinates": "align_corners"}),
    Case("resize", [(1, 2, 3, 3)], {"size": (5, 4), "coordinates": "asymmetric", "scale": (2.7, 1.5)}),
    *[
        Case("resize", [(2, 3, 4, 3)], {"size": s, "mode": "nearest", "coordinates": c, "rounding": r})
        for c, r, s in [
            ("half_pixel", "round_prefer_ceil", (6, 2)),
            ("asymmetric", "floor", (7, 9)),
            ("align_corners", "round_prefer_floor", (2, 7)),
            ("half_pixel", "ceil", (1, 4)),
        ]
    ],
    *[
        Case("conv2d_transpose", shapes, {"size": size, **more})
        for shapes, size, more in [
            ([(2, 3, 4, 5), (1, 1, 3, 5)], (3, 4), {}),
            ([(2, 3, 4, 5), (3, 2, 3, 5)], (6, 8), {"stride": (2, 2), "padding": (0, 0, 1, 0)}),
            ([(1, 3, 3, 17), (4, 4, 19, 17)], (6, 6), {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
            ([(1, 3, 2, 4), (3, 3, 3, 4)], (7, 5), {"dilation": (2, 1), "padding": (0, 0, 0, 0), "stride": (1, 2)}),
            ([(2, 3, 3, 6), (3, 3, 2, 6)], (6, 6), {"groups": 3, "stride": (2, 2), "padding": (1, 1, 1, 1)}),
            ([(2, 3, 3, 6), (3, 3, 1, 6)], (5, 5), {"groups": 6, "stride": (2, 2), "padding": (1, 1, 1, 1)}),
        ]
    ],
    Case("local_response_norm", [(2, 3, 1, 21)], {"size": 5, "alpha": 0.5, "bias": 1.5}),
    Case("local_response_norm", [(1, 2, 3, 6)], {"size": 9, "alpha": 2.0, "beta": 0.5}),
    *[Case("mul", shapes) for shapes in ([(3, 4, 5, 67), (3, 1, 1, 67)], [(2, 1, 5), (2, 70, 5)])],
    Case("pad", [(2, 3, 4)], {"before": (0, 1, 2), "after": (0, 2, 0), "value": 1.5}),
]
#: Below, since they are other functions in training; and losses (tests/training/test_goldens.py,
#: tests/zoo/test_yolov3.py).
ELSEWHERE = {"batch_norm", "dropout", "softmax_cross_entropy", "yolo_loss"}


def graph_of(case: Case, values: list[Array], between: bool = False) -> Graph:
    """A graph of one operator over parameters; `between` activations, it and its gradient may run in place."""
    build = GraphBuilder(case.op)
    build.input("unused", (1,))
    names: list[Any] = [build.parameter(f"p{i}", -v if between else v) for i, v in enumerate(values)]
    if between:
        names = [build.op("neg", n) for n in names]
    for at, numbers in case.integers.items():
        names.insert(at, build.graph.add_array(f"integers{at}", np.array(numbers, np.int32)))
    out = build.op(case.op, *names, outputs=len(case.attributes.get("sizes", "1")), **case.attributes)
    if not isinstance(out, str):
        out = build.op("concat", *reversed(out), axis=case.attributes["axis"])
    return build.build(build.op("neg", out) if between else out)


def apart(values: Array, gap: float, corners: Sequence[float]) -> Array:
    """Values moved away from corners of piecewise functions, where a finite difference means nothing."""
    for corner in corners:
        near = np.abs(values - corner) < gap
        values = np.where(near, corner + gap * np.where(values < corner, -1, 1), values)
    return values


def finite_differences(graph: Graph, values: list[Array], weights: Array, unused: Array) -> list[Array]:
    gradients = []
    for i, value in enumerate(values):
        gradient = np.zeros(value.shape)
        for at in np.ndindex(*value.shape):
            sides = []
            for sign in (1, -1):
                moved = value.astype(np.float64)
                moved[at] += sign * 1e-5
                graph.tensors[f"p{i}"].data = moved
                sides.append(float((evaluate(graph, unused)[0] * weights).sum()))
            gradient[at] = (sides[0] - sides[1]) / 2e-5
        graph.tensors[f"p{i}"].data = value
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_that_of_finite_differences(case: Case, isa: str) -> None:
    random = np.random.default_rng(7)
    values = [
        apart(random.uniform(case.low, case.high, s), 1e-3, (0, 6, -3, 3, -0.5, 1.0)).astype(np.float32)
        for s in case.shapes
    ]
    graph = graph_of(case, values)
    shape = evaluate(graph, np.zeros((1, 1)))[0].shape
    unused = np.zeros((shape[0], 1), np.float32)
    weights = random.uniform(-1, 1, shape).astype(np.float32)
    trainer = Trainer(graph, WeightedSum(), optim.SGD(1.0), batch=shape[0], isa=isa)
    found = trainer.compute_gradients(unused, weights)
    between = Trainer(graph_of(case, values, between=True), WeightedSum(), optim.SGD(1.0), batch=shape[0], isa=isa)
    for name, value in between.compute_gradients(unused, weights).items():
        np.testing.assert_array_equal(value, found[name], err_msg=f"{name}, in place")
    if any(v.size > 400 for v in values):
        _along_directions(graph, values, weights, unused, found, random)
        return
    for i, expected in enumerate(finite_differences(graph, values, weights, unused)):
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(found[f"p{i}"], expected, atol=3e-5 * scale + 1e-6, err_msg=f"input {i}")


#: Operators whose activations are stored in 16 bits in mixed precision; others compute in float32 there.
IN_16_BITS = [
    *[c for c in CASES if c.op in ("conv2d", "linear", "global_average_pool", "max_pool", "average_pool")],
    *[c for c in CASES if c.op in ("attention", "layer_norm")],
    *[Case(op, [(2, 6, 6, 21), (2, 6, 6, 21)]) for op in ("add", "sub", "mul")],
    *[Case("mul", shapes) for shapes in ([(2, 6, 7, 67), (2, 1, 1, 67)], [(2, 1, 5), (2, 70, 5)])],
    *[Case(op, [(2, 6, 6, 21)]) for op in ACTIVATIONS_IN_16],
    Case("leaky_relu", [(2, 6, 6, 21)], {"alpha": 0.2}),
    Case("concat", [(2, 6, 6, 21), (2, 6, 6, 4)]),
    Case("split", [(2, 6, 6, 21)], {"axis": 3, "sizes": (4, 16, 1)}),
    *[Case("channel_shuffle", [(2, 6, 6, 24)], {"groups": g}) for g in (3, 12)],
    Case("upsample", [(2, 6, 6, 21)], {"factor": (2, 2)}),
    Case("resize", [(2, 6, 6, 21)], {"size": (12, 12)}),
    Case("local_response_norm", [(2, 6, 6, 21)], {"size": 5, "alpha": 0.5}),
]


#: What has tests of its own: batch norm as it is in training, and dropout.
ELSEWHERE_IN_16_BITS = {"channel_sums", "normalize", "train_dropout"}


def computed_in_16_bits(case: Case) -> set[str]:
    """Operators of a case's training graph that read bfloat16 in mixed precision."""
    graph = graph_of(case, [np.ones(s, np.float32) for s in case.shapes])
    shape = evaluate(graph, np.zeros((1, 1)))[0].shape
    trainer = Trainer(graph, WeightedSum(), optim.SGD(1.0), batch=shape[0], precision="mixed")
    state, plan = trainer._state, trainer._programs._plan((TensorType(shape),), ())
    states = other_states(state.split.trained, state.store.layout)
    joint, types, _ = joint_graph(state.split.trained, replace(plan, fuse=False), "gradients", shape[0], states)
    forward = [n for n in joint.nodes if not any(o.startswith(("gradient", "update")) for o in n.outputs)]
    return {n.op for n in forward if n.op != "cast" and any(i and types[i].dtype == "bfloat16" for i in n.inputs)}


def test_every_operator_that_reads_16_bits_is_in_the_table() -> None:
    """And is given 16 bits there: few rows stay float32, and would show nothing."""
    found = set().union(*(computed_in_16_bits(case) for case in IN_16_BITS))
    assert set(IN_16) - ELSEWHERE_IN_16_BITS <= found


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(("precision", "tolerance"), [("mixed", 0.006), ("mixed_float16", 0.001)])
@pytest.mark.parametrize("case", IN_16_BITS, ids=str)
def test_gradient_in_16_bits(case: Case, precision: str, tolerance: float, isa: str) -> None:
    """Values that bfloat16 and float16 hold exactly, so that only products and sums are rounded."""
    random = np.random.default_rng(7)
    values = [(random.integers(-16, 17, s) / 8).astype(np.float32) for s in case.shapes]
    graph = graph_of(case, values)
    shape = evaluate(graph, np.zeros((1, 1)))[0].shape
    unused = np.zeros((shape[0], 1), np.float32)
    weights = (random.integers(-8, 9, shape) / 8).astype(np.float32)
    options = {"batch": shape[0], "isa": isa}
    exact = Trainer(graph, WeightedSum(), optim.SGD(1.0), **options).compute_gradients(unused, weights)  # type: ignore[arg-type]
    half = Trainer(graph, WeightedSum(), optim.SGD(1.0), precision=precision, **options)  # type: ignore[arg-type]
    for name, found in half.compute_gradients(unused, weights).items():
        scale = np.abs(exact[name]).max() + 1e-6
        np.testing.assert_allclose(found, exact[name], atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed", 0.01), ("mixed_float16", 0.002)])
@pytest.mark.parametrize("case", [c for c in CASES if c.op in ("conv2d", "linear")], ids=str)
def test_outputs_in_training(case: Case, precision: str, tolerance: float, isa: str) -> None:
    """What a step's forward half computes, by kernels of its own; gradients of sums don't depend on it."""
    random = np.random.default_rng(7)
    values = [(random.integers(-16, 17, s) / 8).astype(np.float32) for s in case.shapes]
    graph = graph_of(case, values)
    expected = evaluate(graph, np.zeros((1, 1)))[0]
    unused = np.zeros((expected.shape[0], 1), np.float32)
    weights = (random.integers(-8, 9, expected.shape) / 8).astype(np.float32)
    trainer = Trainer(graph, WeightedSum(), optim.SGD(1e-9), batch=len(unused), isa=isa, precision=precision)
    products = expected * weights
    assert abs(trainer.step(unused, weights).loss - products.sum()) < tolerance * (np.linalg.norm(products) + 1)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("activation", ["none", "relu6", "silu"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (9, 33), (2, 3, 3, 16)], ids=str)
def test_gradient_through_the_statistics_of_a_batch(shape: tuple[int, ...], activation: str, isa: str) -> None:
    """Batch norm in training: mean and variance are functions of x."""
    random = np.random.default_rng(3)
    c = shape[-1]
    values = {"x": random.standard_normal(shape), "weight": random.uniform(0.5, 2, c), "bias": random.uniform(-1, 1, c)}
    weights = random.uniform(-1, 1, shape)

    def evaluated(v: dict[str, Array]) -> float:
        axes = tuple(range(len(shape) - 1))
        x = v["x"]
        y = (x - x.mean(axis=axes)) / np.sqrt(x.var(axis=axes) + 1e-5) * v["weight"] + v["bias"]
        return float((FUNCTIONS_IN_NUMPY[activation](y, 0.0, 0.0) * weights).sum())

    build = GraphBuilder("norm")
    build.input("unused", (1,))
    names = [build.parameter(n, v.astype(np.float32)) for n, v in values.items()]
    names += [build.graph.add_array(n, np.ones(c, np.float32), "state") for n in ("mean", "variance")]
    out = build.op("batch_norm", *names)
    graph = build.build(out if activation == "none" else build.op(activation, out))
    trainer = Trainer(graph, WeightedSum(), optim.SGD(1.0), batch=shape[0], isa=isa)
    found = trainer.compute_gradients(np.zeros((shape[0], 1), np.float32), weights.astype(np.float32))
    for name, value in values.items():
        for _ in range(6):
            direction = random.standard_normal(value.shape)
            ends = [evaluated({**values, name: value + sign * 1e-6 * direction}) for sign in (1, -1)]
            expected = (ends[0] - ends[1]) / 2e-6
            scale = float(np.linalg.norm(found[name])) * np.sqrt(value.size) / 4
            assert abs(float((found[name] * direction).sum()) - expected) < 1e-4 * scale, name


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_gradient_of_dropout_is_where_values_were_kept(precision: str, isa: str) -> None:
    build = GraphBuilder("dropout")
    build.input("unused", (1,))
    x = build.parameter("x", np.full((70, 33), 2.0, np.float32))
    graph = build.build(build.op("dropout", x, rate=0.25))
    _gradient_is_where_values_were_kept(graph, precision, isa)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("threads", [1, 3])
def test_gradient_of_stochastic_depth_is_that_of_the_samples_that_were_kept(
    threads: int, precision: str, isa: str
) -> None:
    build = GraphBuilder("stochastic_depth")
    build.input("unused", (1,))
    x = build.parameter("x", np.full((70, 33), 2.0, np.float32))
    graph = build.build(build.op("dropout", x, rate=0.25, samples=True))
    kept = _gradient_is_where_values_were_kept(graph, precision, isa, threads)
    assert (kept == kept[:, :1]).all()


def _gradient_is_where_values_were_kept(graph: Graph, precision: str, isa: str, threads: int = 1) -> Array:
    """Of the sum of squares of a dropout's output; returns where that is."""

    class Square(losses.Loss):
        def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
            return build.add("reduce_sum", [build.add("square", [outputs[0]])], axes=(0, 1))

    trainer = Trainer(graph, Square(), optim.SGD(1.0), batch=70, seed=5, isa=isa, precision=precision, threads=threads)
    unused = np.zeros((70, 1), np.float32)
    found = trainer.compute_gradients(unused, np.zeros((70, 33), np.float32))["x"]
    kept = found != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(found[kept], 2 * 2 / 0.75**2, rtol=0.01 if precision == "mixed" else 1e-6)
    assert trainer.loss_of(unused, np.zeros((70, 33), np.float32)) == pytest.approx(
        float(kept.sum()) * (2 / 0.75) ** 2, rel=0.01
    )
    return kept


def _along_directions(
    graph: Graph,
    values: list[Array],
    weights: Array,
    unused: Array,
    found: dict[str, Array],
    random: np.random.Generator,
) -> None:
    """For large inputs: the derivative along some directions rather than along every axis."""
    for i, value in enumerate(values):
        for _ in range(6):
            direction = random.standard_normal(value.shape)
            sides = []
            for sign in (1, -1):
                graph.tensors[f"p{i}"].data = value.astype(np.float64) + sign * 1e-6 * direction
                sides.append(float((evaluate(graph, unused)[0] * weights).sum()))
            graph.tensors[f"p{i}"].data = value
            expected = (sides[0] - sides[1]) / 2e-6
            scale = float(np.linalg.norm(found[f"p{i}"])) + 1e-6
            assert abs(float((found[f"p{i}"] * direction).sum()) - expected) < 1e-4 * scale, f"input {i}"


def test_every_operator_with_a_gradient_is_in_the_table() -> None:
    differentiable = {n for n, o in OPERATORS.items() if o.gradient is not None and not n.startswith("train_")}
    # what batch_norm becomes; mixed precision has tests of its own; a constant has no gradient to speak of
    written_otherwise = {"normalize", "cast", "constant_like"}
    assert differentiable - written_otherwise - ELSEWHERE <= {c.op for c in CASES}


#: What compilers append to a graph, and no model has of its own; beside gradients themselves.
MADE_BY_THE_COMPILER = {
    *UPDATES,
    *("guard", "add_square_sum", "add_gradients", "accumulate_gradient", "average_parameters"),
    *("channel_sums", "batch_norm_coefficients", "batch_norm_gradient_coefficients", "update_statistics"),
}


def test_an_operator_without_a_gradient_says_why() -> None:
    for name, op in OPERATORS.items():
        trained = f"train_{name}" in OPERATORS or name == "batch_norm"
        made = name in MADE_BY_THE_COMPILER or name.endswith(("_gradient", "_backward"))
        if op.gradient is None and not trained and not made:
            assert op.no_gradient, name
        assert op.gradient is None or not op.no_gradient, name


@pytest.mark.parametrize(
    ("op", "int8"),
    [
        ("quantized_linear", True),
        ("quantized_conv2d", True),
        ("quantized_global_average_pool", True),
        ("inverted_residual", False),
    ],
)
def test_gradients_through_what_is_for_inference_only_are_refused_by_the_nodes_name(op: str, int8: bool) -> None:
    graph = for_inference(mobilenet_v2(classes=4, image_size=64, width=0.35), int8=int8)
    types = infer(graph, 2)
    node = next(n for n in reversed(graph.nodes) if n.op == op and types[n.outputs[0]].dtype == "float32")
    graph.outputs = [node.outputs[0]]
    graph.prune()
    build = GraphExtension(graph, types, "loss")
    rank = len(types[node.outputs[0]].shape)
    mean = build.add("reduce_mean", [node.outputs[0]], axes=tuple(range(rank)))
    with pytest.raises(ModelError, match=re.escape(node.name)) as refused:
        differentiate(graph, types, mean, graph.inputs)
    assert str(OPERATORS[op].no_gradient) in str(refused.value)
