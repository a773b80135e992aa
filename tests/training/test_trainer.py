"""Steps, gradients in and out, virtual batches, what is trained, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import _native, losses, optim
from homespun.training import Trainer
from tests.training.small import convolutional, images, perceptron, rows


def trainer(model: hs.Graph | None = None, **options: object) -> Trainer:
    given = {"loss": losses.CrossEntropy(), "optimizer": optim.SGD(0.1, momentum=0.9), "batch": 8, **options}
    return Trainer(model or convolutional(), **given)  # type: ignore[arg-type]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_it_learns(precision: str) -> None:
    x, y = images()
    t = trainer(precision=precision)
    first = t.step(x, y).loss
    for _ in range(30):
        last = t.step(x, y).loss
    assert last < 0.2 * first
    predicted = hs.Predictor(t.model(), batch=8)(x).argmax(axis=1)
    assert (predicted == y).mean() >= 0.75


def test_the_model_given_stays_as_it_was() -> None:
    model = convolutional()
    before = {n: v.copy() for n, v in model.parameters().items()}
    t = trainer(model)
    t.step(*images())
    assert same(before, dict(model.parameters()))
    assert not same(before, t.parameters())


def test_two_runs_are_the_same_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        t = trainer(convolutional(dropout=0.3), seed=5)
        for i in range(4):
            t.step(*images(seed=i))
        results.append(t.parameters())
    assert same(*results)


def test_another_seed_drops_out_others() -> None:
    a, b = (trainer(convolutional(dropout=0.5), seed=s) for s in (0, 1))
    assert a.step(*images()).loss != b.step(*images()).loss


def test_compute_and_apply_gradients_are_a_step() -> None:
    x, y = images()
    whole, halves = trainer(), trainer()
    for _ in range(3):
        whole.step(x, y)
        halves.apply_gradients(halves.compute_gradients(x, y))
    for name, value in whole.parameters().items():
        np.testing.assert_allclose(value, halves.parameters()[name], atol=1e-6, err_msg=name)


def test_a_virtual_batch_is_one_large_batch() -> None:
    x, y = rows(24)
    large = trainer(perceptron(), batch=24)
    virtual = trainer(perceptron(), batch=8, accumulate=3)
    uneven = trainer(perceptron(), batch=10, accumulate=3)
    for _ in range(5):
        a, b, c = large.step(x, y), virtual.step(x, y), uneven.step(x, y)
        assert a.loss == pytest.approx(b.loss, rel=1e-5) == pytest.approx(c.loss, rel=1e-5)
        assert a.learning_rate == b.learning_rate
    for name, value in large.parameters().items():
        np.testing.assert_allclose(value, virtual.parameters()[name], atol=2e-6)
        np.testing.assert_allclose(value, uneven.parameters()[name], atol=2e-6)


def test_only_what_is_trainable_changes() -> None:
    for choice, expected in [
        ("head", {"classifier.weight", "classifier.bias"}),
        (["b.project.*", "classifier.*"], None),
        (lambda name: name.endswith("norm.weight"), None),
    ]:
        t = trainer(trainable=choice)
        before = t.parameters()
        t.step(*images())
        changed = {n for n, v in t.parameters().items() if not np.array_equal(v, before[n])}
        assert changed <= set(t.trainable)
        assert expected is None or changed == expected
        assert changed


def test_a_frozen_part_is_neither_differentiated_nor_saved() -> None:
    whole, head = trainer(), trainer(trainable="head")
    assert head.memory.arena < 0.1 * whole.memory.arena
    program = next(iter(head._programs.compiled.values()))
    assert not any(n.op in ("conv2d_backward", "train_conv2d") for n in program.graph.nodes)


def test_a_parameter_that_no_output_depends_on_is_left_alone() -> None:
    build = hs.GraphBuilder("idle")
    x = build.input("x", (6,))
    build.linear(x, "idle", 6, 4)
    t = trainer(build.build(build.linear(x, "used", 6, 3)))
    assert t.trainable == ("used.weight", "used.bias")
    assert set(t.compute_gradients(*rows())) == set(t.trainable)
    assert np.isfinite(t.step(*rows()).loss)


def test_frozen_norms_keep_their_statistics() -> None:
    t = trainer(trainable=["stem.conv.*"])
    before = t.state()
    t.step(*images())
    assert same(before, t.state())
    t = trainer()
    t.step(*images())
    assert not same(before, t.state())


def test_cached_features_give_the_same_steps() -> None:
    x, y = images()
    plain, cached = trainer(trainable="head"), trainer(trainable="head")
    features = cached.features(x)
    for _ in range(3):
        plain.step(x, y)
        cached.step_on_features(features, y)
    assert same(plain.parameters(), cached.parameters())


def test_batches_of_any_size_up_to_the_declared() -> None:
    t = trainer()
    x, y = images()
    assert np.isfinite(t.step(x[:3], y[:3]).loss)
    with pytest.raises(hs.ShapeError, match="1 to 8 samples"):
        t.step(*images(9))


def test_bad_input_is_refused_and_changes_nothing() -> None:
    t, untroubled = trainer(), trainer()
    x, y = images()
    for each in (t, untroubled):
        each.step(x, y)
    parameters, state, optimizer = t.parameters(), t.state(), t.optimizer_state()
    bad = x.copy()
    bad[0, 0, 0, 0] = np.nan
    cases = [
        (lambda: t.step(x[:, :5], y), hs.ShapeError, "image"),
        (lambda: t.step(x, y[:4]), hs.ShapeError, "samples"),
        (lambda: t.step(x, y + 4), hs.TrainingError, "out of range"),
        (lambda: t.step(x, y - 4), hs.TrainingError, "out of range"),
        (lambda: t.step(bad, y), hs.TrainingError, "step 2"),
        (lambda: t.compute_gradients(bad, y), hs.TrainingError, "loss is nan"),
        (lambda: t.apply_gradients({"nobody": x}), hs.TrainingError, "nobody"),
        (lambda: t.apply_gradients({"classifier.bias": x}), hs.ShapeError, "classifier.bias"),
        (lambda: t.step(x, None), hs.ShapeError, "targets"),
        (lambda: t.step(x[:0], y[:0]), hs.ShapeError, "1 to 8 samples"),
        (lambda: t.loss_of(x, y + 4), hs.TrainingError, "out of range"),
        (lambda: t.apply_gradients({"classifier.bias": np.full(4, np.inf)}), hs.TrainingError, "not finite"),
        (lambda: t.load_parameters({"nobody": x}), hs.TrainingError, "nobody"),
        (lambda: t.load_parameters({"classifier.bias": np.full(4, np.nan)}), hs.TrainingError, "not finite"),
        (
            lambda: t.load_parameters({"classifier.weight": x, "stem.conv.weight": x}),
            hs.ShapeError,
            "classifier.weight",
        ),
        (lambda: t.load_optimizer_state({"nobody": x}), hs.TrainingError, "nobody"),
        (lambda: setattr(t, "learning_rate", -1.0), hs.OptionError, "learning_rate"),
        (lambda: t.averaged_parameters(), hs.OptionError, "average"),
        (lambda: t.evaluate((x, y + 4)), hs.TrainingError, "out of range"),
        (lambda: t.fit(5), hs.OptionError, "data is int"),
        (lambda: trainer(batch=2.5), hs.OptionError, "batch is 2.5"),
        (lambda: trainer(accumulate=0), hs.OptionError, "accumulate"),
        (lambda: trainer(optimizer="sgd"), hs.OptionError, "hs.optim"),
        (lambda: trainer(memory_budget="1kB"), hs.BudgetError, "takes"),
        (lambda: trainer(trainable=["nothing.*"]), hs.OptionError, "nothing"),
        (lambda: trainer(precision="half"), hs.OptionError, "mixed"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
        assert same(parameters, t.parameters())
        assert same(state, t.state())
        assert same(optimizer, t.optimizer_state())
    assert "image" in t.diagnose(bad, y)
    assert t.step(x, y) == untroubled.step(x, y)
    assert same(t.parameters(), untroubled.parameters())
    assert same(t.state(), untroubled.state())


@pytest.mark.parametrize("ignored", [[0, 1, 2, 5, 6, 7, 11], list(range(8)), list(range(16))], ids=len)
def test_labels_that_are_ignored_count_nothing_in_a_virtual_batch_either(ignored: list[int]) -> None:
    """Micro-batches count what their labels do, as in one large batch; a part may have none at all."""
    x, y = rows(16)
    y[ignored] = -100
    given = {"loss": losses.CrossEntropy(ignore=-100)}
    whole, parts = trainer(perceptron(), batch=16, **given), trainer(perceptron(), batch=4, accumulate=4, **given)
    tight = trainer(perceptron(), batch=16, memory_budget="9.6kB", **given)
    assert "samples at a time" in tight.compromises
    for _ in range(3):
        loss = whole.step(x, y).loss
        assert parts.step(x, y).loss == pytest.approx(loss, abs=1e-6)
        assert tight.step(x, y).loss == pytest.approx(loss, abs=1e-6)
    for name, value in whole.parameters().items():
        np.testing.assert_allclose(parts.parameters()[name], value, atol=1e-6)
        np.testing.assert_allclose(tight.parameters()[name], value, atol=1e-6)
    kept = np.delete(np.arange(16), ignored)
    if len(kept):
        assert parts.evaluate((x, y))["loss"] == pytest.approx(parts.evaluate((x[kept], y[kept]))["loss"], abs=1e-6)


def test_an_auxiliary_loss_counts_as_the_one_it_wraps() -> None:
    y = [np.array([0, -100, 2, -100])]
    plain = losses.CrossEntropy(ignore=-100)
    assert losses.Auxiliary(plain).counted(y) == plain.counted(y) == 2
    assert losses.CrossEntropy().counted(y) == losses.MSE().counted(y) == 4


def test_accumulated_batches_with_a_bad_loss_change_nothing() -> None:
    t = trainer(accumulate=2)
    x, y = images(16)
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[12, 0, 0, 0], bad_y[12] = np.inf, 4
    before = {**t.parameters(), **t.state(), **t.optimizer_state()}
    for given, words in (((bad_x, y), "loss is"), ((x, bad_y), "out of range")):
        for call in (t.step, t.compute_gradients, t.loss_of):
            if (call, words) != (t.loss_of, "loss is"):
                with pytest.raises(hs.TrainingError, match=words):
                    call(*given)
            assert same(before, {**t.parameters(), **t.state(), **t.optimizer_state()})


def test_parameters_go_in_and_out_by_name() -> None:
    a, b = trainer(), trainer(convolutional(seed=3))
    b.load_parameters(a.parameters())
    x, y = images()
    assert a.step(x, y).loss == b.step(x, y).loss
    view = a.parameters(copy=False)["classifier.bias"]
    a.step(x, y)
    np.testing.assert_array_equal(view, a.parameters()["classifier.bias"])


def test_views_are_the_trainers_own_memory() -> None:
    t = trainer(average=0.5)
    x, y = images()
    t.step(x, y)
    for found in (t.parameters(copy=False, trainable_only=True), t.state(copy=False), t.optimizer_state(copy=False)):
        assert all(np.shares_memory(v, t._store.bytes) for v in found.values())
    copies = (t.parameters(), t.state(), t.optimizer_state(), t.compute_gradients(x, y))
    assert not any(np.shares_memory(v, t._store.bytes) for found in copies for v in found.values())
    first, second = (t.compute_gradients(x, y, copy=False) for _ in range(2))
    assert all(np.shares_memory(first[n], second[n]) for n in first)


def test_names_are_those_of_the_model_everywhere(tmp_path: Path) -> None:
    model = convolutional()
    hs.save(model, tmp_path / "m.hsp")
    names = list(model.parameters())
    a, b = trainer(model), trainer(hs.load(tmp_path / "m.hsp"))
    a.save_checkpoint(tmp_path / "c.hsp")
    c = Trainer.from_checkpoint(tmp_path / "c.hsp")
    for t in (a, b, c):
        assert list(t.parameters()) == list(t.compute_gradients(*images())) == names
    assert list(a.optimizer_state()) == list(b.optimizer_state()) == list(c.optimizer_state())
    assert set(a.optimizer_state()) == {f"optimizer/{n}/momentum" for n in names}


def test_optimizer_state_goes_in_and_out_by_name() -> None:
    a, b = trainer(), trainer()
    x, y = images()
    a.step(x, y)
    b.load_parameters(a.parameters())
    b.load_optimizer_state(a.optimizer_state())
    a.step(x, y)
    b.step(x, y)
    assert same(a.parameters(), b.parameters())


def test_loading_frozen_parameters_reaches_the_backbone() -> None:
    a, b = trainer(trainable="head"), trainer(convolutional(seed=3), trainable="head")
    x, _ = images()
    b.features(x)
    b.load_parameters(a.parameters())
    np.testing.assert_array_equal(a.features(x)[0], b.features(x)[0])


def test_an_operator_without_a_gradient_says_so_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from homespun.graph.operator import OPERATORS

    monkeypatch.setitem(OPERATORS, "tanh", replace(OPERATORS["tanh"], gradient=None))
    t = trainer(perceptron())
    with pytest.raises(hs.ModelError, match=r"tanh.*gradient"):
        t.step(*rows())


def test_average_of_weights_follows_them() -> None:
    t = trainer(average=0.5)
    x, y = images()
    expected = t.parameters()
    for _ in range(3):
        t.step(x, y)
        expected = {n: 0.5 * expected[n] + 0.5 * v for n, v in t.parameters().items()}
    for name, value in t.averaged_parameters().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


def test_gradients_are_clipped_together_and_singly() -> None:
    x, y = images()
    free = trainer(optimizer=optim.SGD(0.1, clip_norm=1e9))
    norm = free.step(x, y).gradient_norm
    gradients = trainer().compute_gradients(x, y)
    expected = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
    assert norm == pytest.approx(expected, rel=1e-5)
    t = trainer(optimizer=optim.SGD(1.0, clip_norm=0.1 * norm))
    before = t.parameters()
    t.step(x, y)
    moved = np.sqrt(sum(float(((before[n] - v) ** 2).sum()) for n, v in t.parameters().items()))
    assert moved == pytest.approx(0.1 * norm, rel=1e-3)
    t = trainer(optimizer=optim.SGD(1.0, clip_value=1e-3))
    t.step(x, y)
    assert max(np.abs(before[n] - v).max() for n, v in t.parameters().items()) <= 1e-3 + 1e-6


def test_groups_have_rates_and_decays_of_their_own() -> None:
    groups = [optim.Group(("classifier.*",), rate=0.0), optim.Group(("*.norm.*",), weight_decay=0.0)]
    t = trainer(optimizer=optim.SGD(0.1, weight_decay=0.1, groups=groups))
    before = t.parameters()
    t.step(*images())
    after = t.parameters()
    assert np.array_equal(before["classifier.weight"], after["classifier.weight"])
    assert not np.array_equal(before["stem.conv.weight"], after["stem.conv.weight"])


def test_fused_blocks_compute_what_single_operators_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import homespun.compile.training as training

    x, y = images()
    fused = trainer().compute_gradients(x, y)
    monkeypatch.setattr(training, "fuse_training_blocks", lambda graph: graph.prune())
    plain = trainer().compute_gradients(x, y)
    for name, value in plain.items():
        np.testing.assert_allclose(fused[name], value, atol=2e-5 * (np.abs(value).max() + 1e-2), err_msg=name)


def test_arena_is_close_to_the_lower_bound() -> None:
    report = trainer().memory
    assert report.arena <= 1.05 * report.lower_bound
    assert report.arena < report.without_reuse


def test_mixed_gradients_are_those_of_float32_to_rounding() -> None:
    x, y = images(16, size=16)
    exact = trainer(convolutional(size=16), batch=16).compute_gradients(x, y)
    mixed = trainer(convolutional(size=16), batch=16, precision="mixed").compute_gradients(x, y)
    for name, value in exact.items():
        if name.endswith("project.norm.bias"):
            continue  # the norm after it takes a constant away again: its gradient is nothing but rounding
        error = np.linalg.norm(mixed[name] - value) / (np.linalg.norm(value) + 1e-6)
        assert error < 0.2, f"{name}: {error:.3f}"


@pytest.mark.parametrize("isa", _native.isas())
def test_mixed_precision_halves_the_arena(isa: str) -> None:
    """Also where the CPU computes in float32 only."""
    whole, half = (trainer(convolutional(size=32), precision=p, isa=isa).memory for p in ("float32", "mixed"))
    assert half.arena < 0.65 * whole.arena
    assert half.parameters == whole.parameters
