"""Augmentation: shapes and types stay, what is drawn is within bounds, and nothing happens where nothing should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import homespun as hs
from homespun.data import ColourJitter, CutMix, MixUp, RandomErasing, RandomFlip, RandomResizedCrop, light, strong
from homespun.data.augment import augmented
from homespun.data.mixing import mixed


def noise(height: int = 24, width: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


EVERY = [RandomResizedCrop(), RandomFlip(), ColourJitter(0.4, 0.4, 0.4, 0.1), RandomErasing(1.0)]


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_transform_keeps_the_shape_and_depends_on_its_chance_only(transform, channels, dtype) -> None:
    picture = noise(channels=channels).astype(dtype)
    before = picture.copy()
    results = [transform(picture, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)]
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != r).any() for r in results[2:])
    for result in results:
        assert result.shape == picture.shape
        assert result.min() >= 0
        assert result.max() <= 255


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 1000))
def test_a_cut_lies_within_the_picture(width: int, height: int, seed: int) -> None:
    crop = RandomResizedCrop((0.1, 0.9))
    left, top, right, bottom = crop.box(width, height, np.random.default_rng(seed))
    assert -1e-9 <= left < right <= width + 1e-9
    assert -1e-9 <= top < bottom <= height + 1e-9


def test_cuts_have_the_areas_asked_for() -> None:
    crop = RandomResizedCrop((0.2, 0.5), (0.8, 1.25))
    random = np.random.default_rng(0)
    boxes = np.array([crop.box(400, 300, random) for _ in range(500)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = across * down / (400 * 300)
    assert 0.2 <= area.min() < 0.22
    assert 0.48 < area.max() <= 0.5
    assert 0.8 <= (across / down).min() < (across / down).max() <= 1.25


def test_a_cut_of_everything_changes_nothing() -> None:
    picture = noise(20, 20)
    np.testing.assert_array_equal(RandomResizedCrop((1, 1), (1, 1))(picture, np.random.default_rng(0)), picture)


def test_a_cut_is_the_part_scaled_up() -> None:
    """A linear slope stays linear; the means of cuts spread as their places do."""
    slope = np.linspace(0, 200, 64, dtype=np.float32)[None, :, None].repeat(64, 0).repeat(3, 2)
    cut = RandomResizedCrop((0.25, 0.25), (1, 1))(slope, np.random.default_rng(3))
    steps = np.diff(cut[30, 2:-2, 0])
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.05)
    assert steps.mean() == pytest.approx(200 / 63 / 2, rel=0.02)


def test_a_flip_is_a_flip() -> None:
    picture = noise()
    np.testing.assert_array_equal(RandomFlip(1.0)(picture, np.random.default_rng(0)), picture[:, ::-1])
    assert RandomFlip(0.0)(picture, np.random.default_rng(0)) is picture
    random = np.random.default_rng(0)
    turned = sum((RandomFlip(0.3)(picture, random) != picture).any() for _ in range(400))
    assert 90 < turned < 150


def test_no_jitter_is_the_same_picture_and_grey_stays_grey() -> None:
    picture = noise()
    same = ColourJitter(0, 0, 0, 0)(picture, np.random.default_rng(0))
    np.testing.assert_allclose(same, picture, atol=0.01)
    grey = np.full((4, 4, 3), 100, np.uint8)
    for seed in range(20):
        changed = ColourJitter(0, 0, 0.9, 0.5)(grey, np.random.default_rng(seed))
        np.testing.assert_allclose(changed, 100, atol=0.2)


def test_jitter_does_what_it_says() -> None:
    picture = noise(64, 64).astype(np.float32) / 2 + 40
    grey = np.array([0.299, 0.587, 0.114])

    def spread(jitter: ColourJitter, what) -> float:
        values = [what(jitter(picture, np.random.default_rng(seed))) / what(picture) for seed in range(200)]
        return float(np.min(values)), float(np.max(values))

    brightness = spread(ColourJitter(0.3, 0, 0), lambda p: p.mean())
    contrast = spread(ColourJitter(0, 0.3, 0), lambda p: (p @ grey).std())
    saturation = spread(ColourJitter(0, 0, 0.3), lambda p: (p - (p @ grey)[..., None]).std())
    for low, high in (brightness, contrast, saturation):
        assert 0.69 < low < 0.74
        assert 1.26 < high < 1.31


def test_erasing_fills_a_rectangle_with_noise() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[0, 0] = 255
    result = RandomErasing(1.0, (0.1, 0.2))(picture, np.random.default_rng(0))
    changed = (result != picture).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    area = len(rows) * len(columns) / 1600
    assert 0.08 < area < 0.22
    assert changed.sum() > 0.95 * len(rows) * len(columns)


def test_ready_made_lists_and_transforms_of_ones_own() -> None:
    picture = noise()
    for transforms in (light(), strong()):
        assert augmented(picture, transforms, np.random.default_rng(0)).shape == picture.shape
    with pytest.raises(hs.OptionError, match="shapes must stay"):
        augmented(picture, [lambda p, random: p[:3]], np.random.default_rng(0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomResizedCrop((0, 1)),
        lambda: RandomResizedCrop((0.5, 1.5)),
        lambda: RandomFlip(2),
        lambda: ColourJitter(brightness=-1),
        lambda: ColourJitter(hue=0.6),
        lambda: RandomErasing(aspect=(2, 1)),
        lambda: MixUp(0),
        lambda: CutMix(probability=1.2),
    ],
)
def test_options_out_of_range(wrong) -> None:
    with pytest.raises(hs.OptionError):
        wrong()


@pytest.mark.parametrize("mixing", [MixUp(0.4), CutMix(1.0)], ids=["mixup", "cutmix"])
def test_mixing_mixes_targets_as_it_mixes_pictures(mixing) -> None:
    """Every class is a flat picture of its own value, so a picture's mean tells what went into it."""
    y = np.arange(6) % 3
    x = np.eye(3, dtype=np.float32)[y][:, None, None, :] * np.ones((6, 32, 32, 1), np.float32)
    seen = set()
    for seed in range(20):
        mixed_x, mixed_y = mixed(x, y, [mixing], 3, np.random.default_rng(seed))
        assert mixed_x.dtype == mixed_y.dtype == np.float32
        np.testing.assert_allclose(mixed_y.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(mixed_x.mean(axis=(1, 2)), mixed_y, atol=1e-4)
        seen.update(np.round(mixed_y.ravel(), 3))
    assert len(seen) > 8


def test_one_of_several_mixings_by_their_probabilities() -> None:
    x, y = np.random.default_rng(0).random((4, 8, 8, 3), np.float32), np.arange(4)
    kinds = {"none": 0, "some": 0}
    for seed in range(300):
        mixed_x, mixed_y = mixed(x, y, [MixUp(1.0, 0.3), CutMix(1.0, 0.3)], 4, np.random.default_rng(seed))
        assert mixed_y.shape == (4, 4)
        kinds["none" if (mixed_x == x).all() else "some"] += 1
    assert 80 < kinds["none"] < 165
    with pytest.raises(hs.OptionError, match="cutmix"):
        CutMix()(np.ones((2, 3), np.float32), np.ones((2, 2), np.float32), np.random.default_rng(0))
