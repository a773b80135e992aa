"""The memory plan of whole programs, forward and backward, on random graphs: nothing is overwritten that is still to be
read, and results are bit for bit those of a plan that never reuses a byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun import losses, optim
from homespun.compile import lowering
from homespun.compile.compiler import choose_isa, lower
from homespun.compile.lowering import ARENA, ConstantPool, Lowering
from homespun.compile.memory import Buffer, Plan, aligned, lower_bound
from homespun.compile.passes import for_inference
from homespun.graph import Graph, GraphBuilder, infer
from homespun.graph.operator import operator
from homespun.training import Trainer

SIZE, CHANNELS = 5, 4
Bytes = np.ndarray
ONE_INPUT = ("relu", "relu6", "sigmoid", "silu", "square", "abs", "tanh", "hard_swish", "neg", "softmax", "identity")
TWO_INPUTS = ("add", "sub", "mul", "maximum")
LAYERS = ("conv", "block", "depthwise", "dropout", "double", "concat", "transpose", "reshape", "shuffle", "pool")

choices = st.lists(
    st.tuples(st.sampled_from(ONE_INPUT + TWO_INPUTS + LAYERS), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=14,
)


def random_graph(picks: list[tuple[str, int, int]]) -> Graph:
    """A graph of images (N, 5, 5, 4) in which any value may be read again, late or never."""
    build = GraphBuilder("random", 1)
    values = [build.input("image", (SIZE, SIZE, CHANNELS))]
    for i, (op, first, second) in enumerate(picks):
        x, y = values[first % len(values)], values[second % len(values)]
        name = f"n{i}"
        if op in ("conv", "block", "depthwise"):
            depthwise = op == "depthwise"
            groups, kernel = (CHANNELS, 3) if depthwise else (1, 1)
            out = build.conv(x, name, inputs=CHANNELS, outputs=CHANNELS, kernel=kernel, groups=groups)
            if op == "block":
                out = str(build.op("relu6", build.batch_norm(out, f"{name}.norm", CHANNELS)))
        elif op == "double":
            out = str(build.op("add", x, x))
        elif op == "concat":
            out = str(build.op("concat", x, y, axis=3))
            out = str(build.op("slice", out, axis=3, start=2, stop=2 + CHANNELS))
        elif op == "transpose":
            out = str(build.op("transpose", x, axes=(0, 2, 1, 3)))
        elif op == "reshape":
            out = str(build.op("reshape", x, shape=(-1, SIZE * SIZE, CHANNELS)))
            out = str(build.op("reshape", out, shape=(-1, SIZE, SIZE, CHANNELS)))
        elif op == "shuffle":  # as other frameworks write it: halves of what was (groups, channels / groups), turned
            out = str(build.op("reshape", x, shape=(-1, SIZE, SIZE, 2, CHANNELS // 2)))
            out = str(build.op("transpose", out, axes=(0, 1, 2, 4, 3)))
            out = str(build.op("reshape", out, shape=(-1, SIZE, SIZE, CHANNELS)))
            half = str(build.op("slice", out, axis=3, start=0, stop=CHANNELS // 2))
            rest = str(build.op("slice", y, axis=3, start=CHANNELS // 2, stop=CHANNELS))
            out = str(build.op("concat", half, rest, axis=3))
        elif op == "pool":
            out = str(build.op("max_pool", x, kernel=(3, 3), padding=(1, 1, 1, 1)))
        elif op == "dropout":
            out = str(build.op("dropout", x, rate=0.25))
        else:
            out = str(build.op(op, x, y) if op in TWO_INPUTS else build.op(op, x))
        values.append(out)
    last = str(build.op("flatten", build.op("global_average_pool", values[-1])))
    return build.build(build.linear(last, "classifier", CHANNELS, 3))


def without_reuse(buffers: list[Buffer]) -> Plan:
    """Every buffer has bytes of its own."""
    offsets, end = [], 0
    for b in buffers:
        offsets.append(end)
        end += aligned(b.size)
    return Plan(tuple(offsets), end, lower_bound(buffers))


def check_walk(low: Lowering, lowered: lowering.Lowered) -> None:
    """Walk a program and note which tensor each byte of the arena belongs to: what is read must still be there, and a
    call may write over what it reads only where its operator allows that."""
    owner = np.full(lowered.plan.size, -1, np.int64)
    numbers: dict[str, int] = {}
    nodes = {n.name: n for n in low.graph.nodes}
    for call, (kernel, operands, _, _) in zip(low.calls, lowered.instructions, strict=True):
        node = nodes.get(call.node)
        places = dict(zip(low._schema[kernel][0], operands, strict=True))
        reads: list[tuple[str, Bytes]] = []
        writes: list[tuple[str, Bytes]] = []
        for operand, name in call.tensors():
            space, offset = places[operand]
            if space == ARENA:
                span = bytes_of(low, name, offset)
                assert span[0] >= 0 and span[-1] < lowered.plan.size
                written = operand in ("workspace", "output") or (node is not None and name in node.outputs)
                (writes if written else reads).append((low.root(name), span))
        for root, span in reads:
            assert (owner[span] == numbers[root]).all(), f"{call.node}: {root} was overwritten before it was read"
        for i, (root, span) in enumerate(writes):
            assert not any(meet(span, other) and not np.array_equal(span, other) for _, other in writes[:i])
            over = [r for r, other in reads if meet(span, other)]
            if over and root not in over:  # concatenation adds to what it writes
                assert node is not None and len(over) == 1, f"{call.node} writes over {over}"
                allowed = [low.root(node.inputs[i]) for i in operator(node).in_place if i < len(node.inputs)]
                assert over[0] in allowed, f"{call.node} writes over {over[0]}"
            owner[span] = numbers.setdefault(root, len(numbers))


def bytes_of(low: Lowering, name: str, offset: int) -> Bytes:
    """Places in the arena of all bytes of a tensor whose first is at `offset`, in ascending order."""
    t, whole = low.types[name], low.types[low.root(name)]
    if t.nbytes == whole.nbytes:
        return np.arange(offset, offset + t.nbytes)
    width, row = (n * t.nbytes // t.size for n in (t.shape[-1], whole.shape[-1]))
    return (offset + row * np.arange(t.nbytes // width)[:, None] + np.arange(width)).reshape(-1)


def meet(a: Bytes, b: Bytes) -> bool:
    return bool(a[0] <= b[-1] and b[0] <= a[-1] and np.isin(a, b, assume_unique=True).any())


@given(choices)
@settings(max_examples=40, deadline=None)
def test_nothing_is_overwritten_before_it_is_read(picks: list[tuple[str, int, int]]) -> None:
    graph = for_inference(random_graph(picks))
    low = Lowering(graph, infer(graph, 2), choose_isa(None), 2, ConstantPool())
    check_walk(low, low.assemble())


@given(choices, st.sampled_from(["step", "gradients"]), st.sampled_from(["float32", "mixed"]))
@settings(max_examples=60, deadline=None)
def test_nothing_is_overwritten_in_training(picks: list[tuple[str, int, int]], mode: str, precision: str) -> None:
    seen = []

    class Kept(Lowering):
        def assemble(self) -> lowering.Lowered:
            lowered = super().assemble()
            seen.append((self, lowered))
            return lowered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("homespun.compile.training.Lowering", Kept)
        trainer = Trainer(random_graph(picks), losses.CrossEntropy(), optim.SGD(0.1), batch=2, precision=precision)
        trainer._programs.planned(mode, 2, None)  # type: ignore[arg-type]
    check_walk(*seen[-1])


@given(picks=choices)
@settings(max_examples=25, deadline=None)
def test_results_are_those_of_a_plan_without_reuse(picks: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        random = np.random.default_rng(0)
        x, y = random.standard_normal((2, SIZE, SIZE, CHANNELS)).astype(np.float32), np.array([0, 2])
        results = []
        for reuse in (True, False):
            if not reuse:
                patch.setattr(lowering, "plan", without_reuse)
                patch.setattr(Lowering, "_share_in_place", lambda self, roots: lambda name: name)
            graph = random_graph(picks)
            trainer = Trainer(graph, losses.CrossEntropy(), optim.Adam(0.01), batch=2, seed=3)
            steps = [trainer.step(x, y).loss for _ in range(2)]
            gradients = trainer.compute_gradients(x, y)
            results.append((hs.Predictor(graph, 2)(x), steps, gradients, trainer.parameters()))
    (a, first, ga, pa), (b, second, gb, pb) = results
    np.testing.assert_array_equal(a, b)
    assert first == second
    for name in ga:
        np.testing.assert_array_equal(ga[name], gb[name], err_msg=name)
        np.testing.assert_array_equal(pa[name], pb[name], err_msg=name)


def test_a_chain_runs_in_place_and_a_fork_does_not() -> None:
    def arena(fork: bool) -> int:
        build = GraphBuilder("chain")
        x = build.input("x", (256,))
        a = str(build.op("square", x))
        b = str(build.op("sigmoid", a))
        out = str(build.op("mul", b, a)) if fork else str(build.op("abs", b))
        graph = build.build(str(build.op("softmax", out)))
        return lower(for_inference(graph), 1, choose_isa(None), 1, ConstantPool()).plan.size

    assert arena(fork=True) == arena(fork=False) + 1024
