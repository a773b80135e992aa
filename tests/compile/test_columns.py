"""Tensors that lie as columns of others instead of being copied there: the same results, and where there are copies."""

from __future__ import annotations

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim
from homespun.compile.lowering import Lowering
from homespun.graph import Array, Graph, GraphBuilder
from tests.training.small import images

NETWORKS = ("densenet121", "googlenet", "shufflenet_v2")
#: All networks on the CPU's best instruction set, one on every.
CASES = sorted(
    {(name, p, _native.isas()[0]) for name in NETWORKS for p in ("float32", "mixed")}
    | {("densenet121", p, isa) for isa in _native.isas() for p in ("float32", "mixed")}
)


def network(name: str) -> Graph:
    return getattr(hs.zoo, name)(classes=3, width=0.25, image_size=32)


@pytest.fixture
def copying() -> pytest.MonkeyPatch:
    """Programs compiled behind `copying.setattr(...)` copy into and out of columns."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch  # type: ignore[misc]


def trainer(graph: Graph, precision: str, **options: object) -> hs.Trainer:
    return hs.Trainer(graph, losses.CrossEntropy(), optim.SGD(1e-3), batch=4, precision=precision, **options)  # type: ignore[arg-type]


def copies(t: hs.Trainer) -> int:
    lowered = t._programs.main(4).lowered
    return sum(call[0] == "strided_copy" for call in lowered.instructions)


@pytest.mark.parametrize(("name", "precision", "isa"), CASES)
def test_steps_are_bit_for_bit_those_with_copies(
    name: str, precision: str, isa: str, copying: pytest.MonkeyPatch
) -> None:
    x, y = images(4, 32, 3)
    found = []
    for copy in (False, True):
        if copy:
            copying.setattr(Lowering, "_place_columns", lambda self: None)
        t = trainer(network(name), precision, isa=isa)
        found.append((copies(t), [t.step(x, y).loss for _ in range(3)], t.parameters()))
    (few, losses_of, parameters), (many, other_losses, others) = found
    assert few < many
    assert losses_of == other_losses
    for n, value in parameters.items():
        np.testing.assert_array_equal(value, others[n], err_msg=n)


@pytest.mark.parametrize(("name", "isa"), sorted({(name, isa) for name, _, isa in CASES}))
def test_predictions_are_bit_for_bit_those_with_copies(name: str, isa: str, copying: pytest.MonkeyPatch) -> None:
    x, _ = images(2, 32, 3)
    found = hs.Predictor(network(name), batch=2, isa=isa)(x)
    copying.setattr(Lowering, "_place_columns", lambda self: None)
    np.testing.assert_array_equal(found, hs.Predictor(network(name), batch=2, isa=isa)(x))


def test_nothing_is_copied_in_a_densenet_and_its_features_are_kept_once(copying: pytest.MonkeyPatch) -> None:
    graph = hs.zoo.densenet121(classes=3, image_size=64)
    t = trainer(graph, "float32")
    assert copies(t) == 0
    arena = t.memory.arena
    copying.setattr(Lowering, "_place_columns", lambda self: None)
    assert arena < 0.6 * trainer(graph, "float32").memory.arena


def joined(kinds: tuple[str, str]) -> Graph:
    """Two branches side by side, then a convolution."""
    build = GraphBuilder("joined", 0)
    x = build.input("image", (6, 6, 3))
    parts = []
    for i, kind in enumerate(kinds):
        y = build.conv(x, f"branch{i}", inputs=3, outputs=5 + i)
        parts.append(y if kind == "conv" else str(build.op(kind, y)))
    y = build.conv(str(build.op("concat", *parts, axis=3)), "conv", inputs=11, outputs=3)
    return build.build(str(build.op("flatten", build.op("global_average_pool", y))))


@pytest.mark.parametrize(("kinds", "left"), [(("conv", "conv"), 0), (("relu", "relu"), 0), (("softmax", "conv"), 1)])
def test_what_a_kernel_writes_with_rows_apart_needs_no_copy(kinds: tuple[str, str], left: int) -> None:
    """In inference, activations are the convolution's own; softmax has a kernel that writes row behind row."""
    lowered, _ = hs.Predictor(joined(kinds), batch=2)._compiled(2)
    assert sum(call[0] == "strided_copy" for call in lowered.instructions) == left


def test_a_tensor_may_be_in_two_wholes_and_be_wanted_by_others(copying: pytest.MonkeyPatch) -> None:
    build = GraphBuilder("shared", 0)
    x = build.input("image", (6, 6, 3))
    a, b = (build.conv(x, n, inputs=3, outputs=4) for n in "ab")
    twice = [str(build.op("concat", *parts, axis=3)) for parts in ((a, b), (b, a, a))]
    kept, rest = build.op("split", twice[1], axis=3, sizes=(8, 4), outputs=2)
    ends = [build.conv(v, f"end{i}", inputs=8, outputs=3) for i, v in enumerate((twice[0], kept))]
    ends += [build.conv(v, f"more{i}", inputs=4, outputs=3) for i, v in enumerate((a, rest))]
    total = ends[0]
    for end in ends[1:]:
        total = str(build.op("add", total, end))
    graph = build.build(str(build.op("flatten", build.op("global_average_pool", total))))
    images_of, labels = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32), np.array([0, 1, 2, 0])

    def gradients() -> dict[str, Array]:
        return trainer(graph, "float32").compute_gradients(images_of, labels)

    found = gradients()
    copying.setattr(Lowering, "_place_columns", lambda self: None)
    for name, value in gradients().items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("train", [False, True])
def test_parts_of_what_was_reshaped_are_as_far_apart_as_its_rows(train: bool, copying: pytest.MonkeyPatch) -> None:
    """A channel shuffle as other frameworks write it: the columns are of the reshaped tensor, not of the transposed."""
    build = GraphBuilder("shuffled", 0)
    x = build.conv(
        build.input("image", (6, 6, 3)), "stem", inputs=3, outputs=32
    )  # the largest, so that memory is no matter
    x = build.conv(x, "narrow", inputs=32, outputs=8)
    y = build.op("reshape", x, shape=(-1, 6, 6, 2, 4))
    y = build.op("reshape", build.op("transpose", y, axes=(0, 1, 2, 4, 3)), shape=(-1, 6, 6, 8))
    kept, rest = build.op("split", y, axis=3, sizes=(4, 4), outputs=2)
    rest = str(build.op("relu", build.conv(rest, "branch", inputs=4, outputs=4)))
    y = build.conv(str(build.op("concat", kept, rest, axis=3)), "end", inputs=8, outputs=3)
    graph = build.build(str(build.op("flatten", build.op("global_average_pool", y))))
    pictures = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)

    def computed() -> Array:
        if not train:
            return hs.Predictor(graph, batch=4)(pictures)
        return trainer(graph, "float32").compute_gradients(pictures, np.array([0, 1, 2, 0]))["stem.weight"]

    found = computed()
    copying.setattr(Lowering, "_place_columns", lambda self: None)
    np.testing.assert_array_equal(found, computed())
