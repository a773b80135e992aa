"""What an operator says that its gradient reads is what the kernels of its gradient read: no more is kept, and none of
it is declared in vain."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from homespun import losses, optim
from homespun.compile.compiler import choose_isa
from homespun.compile.lowering import ConstantPool, Lowering
from homespun.compile.training import joint_graph
from homespun.graph import Graph, Node, TensorType
from homespun.graph.operator import OPERATORS
from homespun.training import Trainer
from tests.ops.test_gradients import CASES, Case, WeightedSum, graph_of
from tests.reference import evaluate
from tests.training.small import convolutional

#: How the outputs of nodes begin that are not of the forward pass.
BACKWARD = ("gradient/", "gradients/", "update/")


def names_of(node: Node) -> dict[str, str]:
    """Tensor -> the name by which `saves` calls it."""
    inputs = [n.rstrip("?") for n in OPERATORS[node.op].inputs]
    if "*" in inputs:
        inputs = ["*"] * len(node.inputs)
    named = dict(zip(node.inputs, inputs, strict=False))
    return {node.outputs[0]: "output", **{t: n for t, n in named.items() if t}}


def read_by_gradients(trainer: Trainer, targets: tuple[TensorType, ...], batch: int) -> tuple[Graph, set[str]]:
    """The joint graph, its passes for speed left out, and the forward tensors that calls of its backward part read."""
    state, plan = trainer._state, trainer._programs._plan(targets, ())
    own = {t.name for t in state.split.trained.with_role("parameter", "state")}
    states = {n: t for n, t in state.store.layout.types.items() if n not in own}
    graph, types, _ = joint_graph(state.split.trained, replace(plan, fuse=False), "gradients", batch, states)
    low = Lowering(graph, types, choose_isa(None), 1, ConstantPool())
    low.lower_all()
    backward = {n.name for n in graph.nodes if any(o.startswith("gradient/") for o in n.outputs)}
    calls = [c for c in low.calls if c.node in backward]
    return graph, {low.root(name) for call in calls for _, name in call.tensors()} | {
        name for call in calls for _, name in call.tensors()
    }


def of_case(case: Case) -> dict[str, set[str]]:
    """Operator -> what its gradient reads, in one case of the gradients' table."""
    values = [np.ones(s, np.float32) for s in case.shapes]
    graph = graph_of(case, values)
    shape = evaluate(graph, np.zeros((1, 1)))[0].shape
    trainer = Trainer(graph, WeightedSum(), optim.SGD(1.0), batch=shape[0])
    joint, read = read_by_gradients(trainer, (TensorType(shape),), shape[0])
    return found_in(joint, read)


def found_in(joint: Graph, read: set[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for node in joint.nodes:
        if not any(o.startswith(BACKWARD) for o in node.outputs):
            found[node.op] |= {name for tensor, name in names_of(node).items() if tensor in read}
    return found


@pytest.mark.parametrize("op", sorted({c.op for c in CASES}))
def test_gradients_read_what_is_declared(op: str) -> None:
    read: dict[str, set[str]] = defaultdict(set)
    for case in CASES:
        if case.op == op:
            for name, found in of_case(case).items():
                read[name] |= found
    trained = f"train_{op}" if f"train_{op}" in OPERATORS else op
    assert read[trained] == set(OPERATORS[trained].saves)


def test_a_whole_network_reads_what_is_declared() -> None:
    trainer = Trainer(convolutional(dropout=0.2), losses.CrossEntropy(), optim.SGD(0.1), batch=4)
    joint, read = read_by_gradients(trainer, (TensorType((4,), "int32"),), 4)
    forward = [n for n in joint.nodes if not any(o.startswith(BACKWARD) for o in n.outputs)]
    read -= {n for n in read if n.startswith(("gradient", "train/"))}
    declared = {t for n in forward for t, name in names_of(n).items() if name in OPERATORS[n.op].saves}
    assert len(read) > 20
    assert read <= declared


def test_what_is_saved_has_the_name_of_an_input_or_is_the_output() -> None:
    for name, op in OPERATORS.items():
        assert set(op.saves) <= {"output", "*", *(n.rstrip("?") for n in op.inputs)}, name
        assert not op.saves or op.gradient is not None, name
