"""Arrays, sequences and streams: the same order for the same seed, taken up anywhere, with any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import homespun as hs
from homespun import losses, optim
from homespun.data import Arrays, MixUp, RandomFlip, RandomResizedCrop, Samples, Stream
from tests.training.small import perceptron, rows

X = np.random.default_rng(0).integers(0, 256, (23, 12, 12, 3), np.uint8)
Y = np.arange(23) % 4


def pairs() -> list[tuple[np.ndarray, int]]:
    return list(zip(X, Y, strict=True))


AUGMENT = [RandomResizedCrop(), RandomFlip()]
SOURCES = {
    "arrays": lambda **options: Arrays(X, Y, **options),
    "samples": lambda **options: Samples(pairs(), **options),
    "stream": lambda **options: Stream(pairs(), **options),
    "shuffled stream": lambda **options: Stream(lambda epoch: iter(pairs()), shuffle_buffer=6, **options),
}


def joined(batches) -> tuple[np.ndarray, np.ndarray]:
    found = list(batches)
    return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(SOURCES)), st.integers(0, 3), st.integers(1, 9), st.integers(0, 3), st.data())
def test_batches_are_the_same_however_they_are_made(name: str, epoch: int, size: int, workers: int, data) -> None:
    whole = list(SOURCES[name](augment=AUGMENT, seed=2, workers=0).batches(epoch=epoch, size=size))
    start = data.draw(st.integers(0, len(whole)))
    part = list(SOURCES[name](augment=AUGMENT, seed=2, workers=workers).batches(epoch=epoch, start=start, size=size))
    assert len(part) == len(whole) - start
    for (ax, ay), (bx, by) in zip(whole[start:], part, strict=True):
        np.testing.assert_array_equal(ax, bx)
        np.testing.assert_array_equal(ay, by)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_an_epoch_has_every_sample_once(name: str) -> None:
    x, y = joined(SOURCES[name]().batches(epoch=1, size=5))
    assert x.dtype == np.float32
    order = [next(i for i in range(23) if (X[i] == sample).all()) for sample in x]
    assert sorted(order) == list(range(23))
    np.testing.assert_array_equal(y, Y[order])
    assert (order != sorted(order)) == (name != "stream")
    if name != "stream":
        other = joined(SOURCES[name]().batches(epoch=2, size=5))[0]
        assert (other != x).any()
    plain, labels = joined(SOURCES[name](augment=AUGMENT).evaluation_batches(size=5))
    np.testing.assert_array_equal(plain, X)
    np.testing.assert_array_equal(labels, Y)


def test_pictures_are_normalised_for_a_model() -> None:
    model = hs.zoo.mobilenet_v1(classes=4, width=0.25, image_size=32)
    x = np.full((3, 32, 32, 3), 200, np.uint8)
    mean, scale = (np.array([float(v) for v in model.metadata[k].split(",")]) for k in ("input_mean", "input_scale"))
    for data in (Arrays(x, Y[:3], like=model), Samples([(x[0], 1)], like=model), Stream([(x[0], 1)], like=model)):
        found = next(iter(data.batches(size=2)))[0]
        np.testing.assert_allclose(found[0, 0, 0], np.broadcast_to((200 - mean) / scale, 3), rtol=1e-5)
    with pytest.raises(hs.ShapeError, match="expected"):
        next(iter(Arrays(X, Y, like=model).batches(size=2)))


def test_labels_are_split_by_class_and_other_targets_by_number() -> None:
    train, validation = Arrays(X, Y).split(0.25)
    assert np.bincount(Y[validation.numbers]).tolist() == [2, 2, 2, 1]
    assert len(train) + len(validation) == 23
    targets = np.random.default_rng(0).random((23, 2), np.float32)
    assert len(Arrays(X, targets).split(0.2)[1]) == 5


def test_mixing_knows_the_classes() -> None:
    assert next(iter(Arrays(X, Y, augment=MixUp()).batches(size=5)))[1].shape == (5, 4)
    assert next(iter(Arrays(X, Y, augment=MixUp(), classes=list("abcdef")).batches(size=5)))[1].shape == (5, 6)
    soft = np.eye(4, dtype=np.float32)[Y]
    assert next(iter(Arrays(X, soft, augment=MixUp()).batches(size=5)))[1].shape == (5, 4)
    with pytest.raises(hs.OptionError, match="classes"):
        next(iter(Samples(pairs(), augment=MixUp()).batches(size=5)))


def test_rows_are_data_too_and_soft_targets_train() -> None:
    x, y = rows(33)
    trainer = hs.Trainer(perceptron(), losses.CrossEntropy(), optim.Adam(0.02), batch=8)
    result = trainer.fit(Arrays(x, y, augment=MixUp(0.2)), 8, validation=Arrays(x, y))
    assert result.history[-1]["validation_loss"] < 0.7 * result.history[0]["validation_loss"]
    assert trainer.step_count == 8 * 5
    with pytest.raises(hs.OptionError, match="no pictures"):
        next(iter(Arrays(x, y, augment=AUGMENT).batches(size=4)))


def test_what_cannot_be_data() -> None:
    with pytest.raises(hs.ShapeError, match="differ"):
        Arrays(X, Y[:5])
    with pytest.raises(hs.OptionError, match="used up after one epoch"):
        Stream(iter(pairs()))
    with pytest.raises(hs.ShapeError, match="different shapes"):
        list(Samples([(X[0], 0), (X[0, :5], 0)]).batches(size=2))


def test_an_error_in_somebodys_data_comes_out_where_it_belongs() -> None:
    class Broken:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            if number == 6:
                raise RuntimeError("sample 6 is broken")
            return X[number], 0

    batches = Samples(Broken(), shuffle=False).batches(size=3)
    next(batches)
    next(batches)
    with pytest.raises(RuntimeError, match="sample 6"):
        next(batches)
