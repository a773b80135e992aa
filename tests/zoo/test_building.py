"""Options of the zoo's builders, names of parameters, and weights that do or do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import homespun as hs
from homespun.training.trainable import trainable_parameters
from homespun.zoo.pretrained import translate
from tests.zoo.made import made_weights

SMALL = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.25, "efficientnet_lite0": 0.25}
TORCHVISION_STEM = {"features.0.0.weight": (8, 3, 3, 3)}


@pytest.mark.parametrize(
    "name", [n for n in hs.zoo.__all__ if n != "tinybert" and "yolo" not in n]
)  # no logits of images
def test_every_network_runs_with_other_classes_width_and_image_size(name: str) -> None:
    graph = getattr(hs.zoo, name)(classes=5, width=0.25, image_size=(48, 32))
    logits = hs.Predictor(graph)(np.zeros((1, 48, 32, 3), np.float32))
    assert logits.shape == (1, 5)
    assert np.isfinite(logits).all()
    assert graph.metadata["architecture"] == name
    assert {"input_mean", "input_scale"} <= set(graph.metadata)


@pytest.mark.parametrize(("name", "width"), SMALL.items())
def test_the_seed_decides_the_initial_weights(name: str, width: float) -> None:
    first, again, other = (getattr(hs.zoo, name)(width=width, image_size=32, seed=s) for s in (1, 1, 2))
    for key, value in first.parameters().items():
        np.testing.assert_array_equal(value, again.parameters()[key])
    assert (first.data("stem.conv.weight") != other.data("stem.conv.weight")).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 16}, "at least 32"),
        ({"classes": 0}, "classes"),
        ({"classes": ["cat", "dog"]}, r"classes is \['cat', 'dog'\]; it must be a whole number"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_options_say_what_is_possible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(hs.OptionError, match=message):
        hs.zoo.mobilenet_v2(width=0.25, **options)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("features.0.1.running_mean", "stem.norm.running_mean"),
        ("features.1.conv.1.weight", "blocks.0.project.conv.weight"),
        ("features.14.conv.1.0.weight", "blocks.13.depthwise.conv.weight"),
        ("features.17.conv.3.bias", "blocks.16.project.norm.bias"),
        ("features.18.0.weight", "head.conv.weight"),
        ("classifier.1.bias", "classifier.bias"),
        # MindSpore's model zoo
        ("backbone.features.0.features.0.weight", "stem.conv.weight"),
        ("features.1.conv.0.features.1.running_var", "blocks.0.depthwise.norm.running_var"),
        ("features.17.conv.1.features.0.weight", "blocks.16.depthwise.conv.weight"),
        ("backbone.features.18.features.1.bias", "head.norm.bias"),
        ("head.head.1.weight", "classifier.weight"),
        # MindCV
        ("features.0.weight", "stem.conv.weight"),
        ("features.1.running_mean", "stem.norm.running_mean"),
        ("features.3.layers.3.weight", "blocks.0.project.conv.weight"),
        ("features.19.layers.7.bias", "blocks.16.project.norm.bias"),
        ("features.21.weight", "head.norm.weight"),
    ],
)
def test_torchvision_and_mindspore_names_are_translated(theirs: str, ours: str) -> None:
    from homespun.zoo.mobilenet_v2 import RENAMES

    assert translate(theirs, RENAMES) == ours


def fitting() -> dict[str, np.ndarray]:
    """MobileNetV1's own names, in PyTorch's layout."""
    graph = hs.zoo.mobilenet_v1(width=0.25, image_size=32)
    shapes = {}
    for t in graph.with_role("parameter", "state"):
        back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(t.shape)]
        shapes[t.name] = tuple(t.shape[i] for i in back)
    return made_weights(shapes)


def test_weights_from_a_mapping_arrive_channels_last() -> None:
    weights = fitting()
    plain = hs.zoo.mobilenet_v1(width=0.25, image_size=32, weights=weights)
    np.testing.assert_array_equal(plain.data("classifier.weight"), weights["classifier.weight"].T)
    want = weights["blocks.1.pointwise.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(plain.data("blocks.1.pointwise.conv.weight"), want)
    wrapped = {f"module.{k}": v for k, v in weights.items()} | {"module.stem.norm.num_batches_tracked": np.array(3)}
    parallel = hs.zoo.mobilenet_v1(width=0.25, image_size=32, weights=wrapped)
    np.testing.assert_array_equal(parallel.data("stem.conv.weight"), plain.data("stem.conv.weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stem.norm.bias"), "'stem.norm.bias' is missing"),
        (lambda w: w.update(extra=np.zeros(3, np.float32)), "'extra' has no place"),
        (lambda w: w.update({"classifier.bias": np.zeros(7, np.float32)}), r"is \[7\].*expected \[1000\].*splice"),
        (lambda w: w.update({"stem.norm.bias": np.full(8, np.nan, np.float32)}), "not finite"),
        (lambda w: w.update({"stem.norm.bias": np.zeros(8, np.int64)}), "int64, not floating point"),
    ],
)
def test_weights_that_do_not_fit_are_refused_whole(change: object, message: str) -> None:
    weights = fitting()
    change(weights)  # type: ignore[operator]
    with pytest.raises(hs.ModelError, match=message):
        hs.zoo.mobilenet_v1(width=0.25, image_size=32, weights=weights)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("densenet121", "blocks.3.layers.14.norm1.weight"),
        ("shufflenet_v1", "stages.2.2.compress.conv.weight"),
        ("shufflenet_v2", "blocks.14.branch2.first.conv.weight"),
        ("mobilenet_v2", "blocks.15.expand.conv.weight"),
    ],
)
def test_the_last_two_blocks_are_known_by_their_names(name: str, first: str) -> None:
    graph = getattr(hs.zoo, name)(width=0.25, image_size=32)
    names = list(graph.parameters())
    assert trainable_parameters(graph, "last:2") == names[names.index(first) :]
