"""Twenty steps of a small transformer against the `transformers` package (tools/record_transformer_goldens.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun import _native
from homespun.zoo.pretrained import channels_last, translate
from homespun.zoo.tinybert import RENAMES
from tests.zoo.made import made_weights
from tests.zoo.test_tinybert import SMALL, words


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "transformer.npz") as file:
        return dict(file)


def trained(golden: dict[str, np.ndarray], **options: object) -> tuple[list[float], dict[str, np.ndarray]]:
    """(losses, parameters after the last step) of ours."""
    weights = made_weights({n: tuple(s) for n, s in json.loads(str(golden["shapes"])).items()})
    model = hs.zoo.tinybert(**SMALL, classes=3, dropout=0.0, weights=weights)
    optimizer = hs.optim.SGD(0.02, momentum=0.9)
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), optimizer, batch=6, **options)  # type: ignore[arg-type]
    losses = [trainer.step(words(6), np.arange(6) % 3).loss for _ in golden["losses"]]
    return losses, trainer.parameters()


@pytest.mark.parametrize("isa", _native.isas())
def test_losses_and_parameters_are_pytorch_s(isa: str, golden: dict[str, np.ndarray]) -> None:
    losses, parameters = trained(golden, isa=isa)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4, atol=1e-5)
    for theirs, value in golden.items():
        if theirs in ("losses", "shapes"):
            continue
        name = translate(theirs, RENAMES)
        want = value if "embeddings" in name else channels_last(value)
        np.testing.assert_allclose(parameters[name][: len(want)], want, rtol=1e-3, atol=1e-4, err_msg=name)


def test_mixed_precision_takes_the_same_way(golden: dict[str, np.ndarray]) -> None:
    losses, _ = trained(golden, precision="mixed")
    np.testing.assert_allclose(losses, golden["losses"], rtol=0.05, atol=0.02)


def test_a_virtual_batch_is_one_batch(golden: dict[str, np.ndarray]) -> None:
    weights = made_weights({n: tuple(s) for n, s in json.loads(str(golden["shapes"])).items()})
    model = hs.zoo.tinybert(**SMALL, classes=3, dropout=0.0, weights=weights)
    whole = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.02), batch=6)
    parts = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.SGD(0.02), batch=2, accumulate=3)
    for trainer in (whole, parts):
        for _ in range(3):
            trainer.step(words(6), np.arange(6) % 3)
    for name, value in whole.parameters().items():
        np.testing.assert_allclose(parts.parameters()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
