"""The arena of every network of the zoo, in every mode, stays within five percent of what is alive at once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import pytest

import homespun as hs
from homespun import losses, optim
from homespun.compile.autodiff import GraphExtension
from homespun.compile.compiler import choose_isa, lower
from homespun.compile.lowering import ConstantPool
from homespun.compile.passes import for_inference
from homespun.compile.training import Mode
from homespun.graph import Array, Graph, TensorType
from homespun.training import Trainer
from homespun.training.budget import as_bytes, choose

#: Every builder of the zoo: a new one is tested from the day it is there.
NETWORKS = [name for name in hs.zoo.__all__ if inspect.isfunction(getattr(hs.zoo, name))]


class Squares(losses.Loss):
    """The mean square of every output: a loss that any network can be given."""

    def build(self, build: GraphExtension, outputs: Sequence[str], targets: Sequence[str]) -> str:
        total = ""
        for output in outputs:
            square = build.add("square", [output])
            axes = tuple(range(len(build.type(square).shape)))
            mean = build.add("reduce_mean", [square], axes=axes)
            total = build.add("add", [total, mean]) if total else mean
        return total

    def target_types(self, outputs: Sequence[TensorType], targets: Sequence[Array]) -> list[TensorType]:
        return []


def build(name: str) -> Graph:
    builder = getattr(hs.zoo, name)
    options = {"classes": 10} if "classes" in inspect.signature(builder).parameters else {}
    model = builder(**options)
    assert isinstance(model, Graph)
    return model


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_arena_of_inference_is_close_to_its_lower_bound(name: str, weights: str) -> None:
    graph = for_inference(build(name), int8=weights == "int8")
    for batch in (1, 8):
        plan = lower(graph, batch, choose_isa(None), 2, ConstantPool()).plan
        assert plan.lower_bound <= plan.size <= 1.05 * plan.lower_bound, f"batch {batch}"


@pytest.mark.parametrize("precision", ["float32", "mixed", "mixed_float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_arena_of_training_is_close_to_its_lower_bound(name: str, precision: str) -> None:
    model = build(name)
    for trainable in ("all", "last:2", "head"):
        trainer = Trainer(model, Squares(), optim.SGD(0.1, momentum=0.9), trainable=trainable, precision=precision)
        for mode in ("step", "gradients"):
            lowered = trainer._programs.planned(mode, 8, None)  # type: ignore[arg-type]
            plan = lowered.plan
            assert plan.lower_bound <= plan.size <= 1.05 * plan.lower_bound, f"{trainable}, {mode}"
            assert plan.size < lowered.unshared_bytes


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "tinybert"])
def test_the_arena_within_a_budget_is_close_to_its_lower_bound(name: str, precision: str) -> None:
    """Whatever was computed again, and however the batch was split, down to the least that will do."""
    model = build(name)
    trainer = Trainer(model, Squares(), optim.SGD(0.1), precision=precision)
    whole = trainer.state_bytes + trainer._programs.planned("step", 8, None).plan.size
    with pytest.raises(hs.BudgetError, match="takes") as refused:
        choose(trainer._programs, 8, 1)
    least = as_bytes(str(refused.value).rpartition("takes ")[2])
    seen = set()
    for budget in (int(0.1 * least + 0.9 * whole), (least + whole) // 2, least):
        choice = choose(trainer._programs, 8, budget)
        seen.add(str(choice))
        mode: Mode = "gradients" if choice.micro_batch else "step"
        plan = trainer._programs.planned(mode, choice.micro_batch or 8, choice.recompute).plan
        assert plan.lower_bound <= plan.size <= 1.05 * plan.lower_bound, str(choice)
        assert plan.size + trainer.state_bytes <= choice.bytes <= budget
    assert len(seen) > 1


def test_the_report_is_that_of_the_plan() -> None:
    model = hs.zoo.mobilenet_v2(classes=10, image_size=96, width=0.35)
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(1e-3), batch=4)
    report = trainer.memory
    weights = sum(v.nbytes for v in model.parameters().values())
    statistics = sum(t.data.nbytes for t in model.with_role("state") if t.data is not None)
    assert weights + statistics <= report.parameters <= weights + statistics + 4096
    assert report.optimizer == 2 * weights
    assert report.lower_bound <= report.arena <= 1.05 * report.lower_bound < report.without_reuse
    trainer.step(np.zeros((4, 96, 96, 3), np.float32), np.zeros(4, np.int64))
    assert trainer.memory == report
    assert f"{report.arena / 1e6:.1f} MB" in str(report)
