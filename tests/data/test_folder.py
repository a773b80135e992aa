"""Folders of classes: what is found, in which order it comes, and what happens to files that can't be read."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from homespun.data import ColourJitter, CutMix, ImageFolder, MixUp, RandomErasing, RandomFlip, RandomResizedCrop
from tests.data import photos

EVERYTHING = [RandomResizedCrop(), RandomFlip(), ColourJitter(), RandomErasing(), MixUp(0.3, 0.5), CutMix(1.0, 0.5)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return photos.folder(tmp_path / "photos")


def make(root: Path, **options) -> ImageFolder:
    given = {"image_size": 24, "mean": 127.5, "scale": 127.5, "seed": 5, **options}
    return ImageFolder(root, **given)


def listed(batches) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(batches)


def assert_equal(a, b) -> None:
    assert len(a) == len(b)
    for (ax, ay), (bx, by) in zip(a, b, strict=True):
        np.testing.assert_array_equal(ax, bx)
        np.testing.assert_array_equal(ay, by)


def test_classes_are_folders_and_hidden_or_other_files_are_passed_over(root: Path) -> None:
    (root / "red" / "notes.txt").write_text("not a picture")
    (root / "red" / "._1.jpg").write_bytes(b"what macOS leaves behind")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "1.jpg").write_bytes(b"")
    (root / "index.csv").write_text("")
    (root / "empty").mkdir()
    data = make(root)
    assert data.classes == ("blue", "green", "red")
    assert data.counts() == {"blue": 7, "green": 7, "red": 7}
    assert data.empty_classes == ("empty",)
    assert not data.unreadable
    x, y = next(iter(data.batches(size=4)))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((4, 24, 24, 3), np.float32, (4,), np.int64)
    assert -1 <= x.min() < x.max() <= 1


def test_pixels_belong_to_their_label(root: Path) -> None:
    for x, y in make(root).evaluation_batches(size=5):
        strongest = x.mean(axis=(1, 2)).argmax(axis=1)
        np.testing.assert_array_equal(strongest, 2 - y)  # blue, green, red are the channels 2, 1, 0


def test_the_model_says_what_pictures_it_takes(root: Path) -> None:
    model = hs.zoo.mobilenet_v2(classes=3, width=0.25, image_size=32)
    data = ImageFolder(root, like=model)
    assert data.preprocessing.mean == (123.675, 116.28, 103.53)
    assert next(iter(data.batches(size=2)))[0].shape == (2, 32, 32, 3)
    assert set(data.preprocessing.metadata().items()) <= set(model.metadata.items())
    with pytest.raises(hs.OptionError, match="32x32"):
        ImageFolder(root, like=model, image_size=64)
    del model.metadata["input_mean"]
    with pytest.raises(hs.OptionError, match="mean="):
        ImageFolder(root, like=model)
    with pytest.raises(hs.OptionError, match="like=model"):
        ImageFolder(root, image_size=32)


@pytest.mark.parametrize("augment", [(), EVERYTHING], ids=["plain", "augmented"])
def test_order_and_pixels_do_not_depend_on_the_workers(root: Path, augment) -> None:
    alone = listed(make(root, augment=augment, workers=0).batches(epoch=3, size=4))
    for workers, prefetch in [(1, 1), (3, 2), (2, 50)]:
        assert_equal(
            alone,
            listed(make(root, augment=augment, workers=workers, prefetch=prefetch).batches(epoch=3, size=4)),
        )


def test_an_epoch_can_be_taken_up_anywhere(root: Path) -> None:
    data = make(root, augment=EVERYTHING)
    whole = listed(data.batches(epoch=1, size=4))
    assert [len(x) for x, _ in whole] == [4, 4, 4, 4, 4, 1]
    assert data.steps(4) == 6
    for start in range(8):
        assert_equal(whole[start:], listed(make(root, augment=EVERYTHING).batches(epoch=1, start=start, size=4)))


def test_epochs_differ_and_each_has_every_photo_once(root: Path) -> None:
    data = make(root)
    epochs = [np.concatenate([x for x, _ in data.batches(epoch=e, size=4)]) for e in range(3)]
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()
    means = [np.sort(x.mean(axis=(1, 2, 3))) for x in epochs]
    np.testing.assert_allclose(means[0], means[1], rtol=1e-5)
    in_order = make(root, shuffle=False)
    labels = np.concatenate([y for _, y in in_order.batches(epoch=7, size=4)])
    np.testing.assert_array_equal(labels, np.sort(labels))


def test_an_epoch_augments_each_photo_anew(root: Path) -> None:
    data = make(root, augment=[RandomResizedCrop()], shuffle=False)
    a, b = (next(iter(data.batches(epoch=e, size=21)))[0] for e in (0, 1))
    assert all((p != q).any() for p, q in zip(a, b, strict=True))


def test_mixing_gives_probabilities_and_evaluation_gives_labels(root: Path) -> None:
    data = make(root, augment=EVERYTHING)
    for _, y in data.batches(size=4):
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
    assert_equal(listed(data.evaluation_batches(size=4)), listed(make(root).evaluation_batches(size=4)))


def test_splitting(root: Path) -> None:
    photos.picture((0, 0, 0), 30, 30, 0).save(root / "red" / "late.jpg")
    (root / "single").mkdir()
    photos.picture((0, 0, 0), 30, 30, 0).save(root / "single" / "only.jpg")
    data = make(root, augment=EVERYTHING)
    train, validation = data.split(0.25)
    assert train.counts() == {"blue": 5, "green": 5, "red": 6, "single": 1}
    assert validation.counts() == {"blue": 2, "green": 2, "red": 2, "single": 0}
    assert validation.transforms == validation.mixings == ()
    assert train.transforms == data.transforms
    paths = [{d.paths[n] for n in d.numbers} for d in (train, validation)]
    assert not paths[0] & paths[1]
    again = make(root).split(0.25)
    assert [list(d.numbers) for d in again] == [list(train.numbers), list(validation.numbers)]
    assert list(data.split(0.25, seed=1)[1].numbers) != list(validation.numbers)
    assert train.fingerprint() != validation.fingerprint()


def test_classes_can_be_given(root: Path) -> None:
    data = make(root, classes=["yellow", "red", "green", "blue"])
    assert data.empty_classes == ("yellow",)
    assert data.counts() == {"yellow": 0, "red": 7, "green": 7, "blue": 7}
    with pytest.raises(hs.OptionError, match="red: not among the classes, green, blue"):
        make(root, classes=["green", "blue"])


def test_unreadable_files_are_left_out_and_listed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "red" / "zero.jpg").write_bytes(b"")
    (root / "red" / "page.png").write_bytes(b"<html>")
    data = make(root)
    assert len(data) == 21
    assert {u.path.name for u in data.unreadable} == {"zero.jpg", "page.png"}
    assert "2 of 23 files are left out" in caplog.text
    assert "zero.jpg: the file is empty" in caplog.text
    with pytest.raises(hs.FormatError, match=r"page\.png: not a picture"):
        make(root, on_unreadable="raise")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def test_a_photo_damaged_behind_its_header_is_replaced_in_training(root: Path, caplog) -> None:
    truncate(root / "red" / "1.jpg")
    data = make(root, augment=EVERYTHING[:4], workers=2)
    assert len(data) == 21
    batches = listed(data.batches(size=4))
    assert [len(x) for x, _ in batches] == [4, 4, 4, 4, 4, 1]
    labels = np.concatenate([y for _, y in batches])
    assert np.bincount(labels).tolist() == [7, 7, 7]
    assert [u.path.name for u in data.unreadable] == ["1.jpg"]
    assert caplog.text.count("1.jpg: the file is cut short") == 1
    assert_equal(batches, listed(make(root, augment=EVERYTHING[:4], workers=0).batches(size=4)))
    assert [len(x) for x, _ in data.evaluation_batches(size=4)] == [4, 4, 4, 4, 4]
    with pytest.raises(hs.FormatError, match=r"1\.jpg"):
        listed(make(root, on_unreadable="raise").batches(size=4))


def test_a_class_that_has_become_unreadable_ends_it(root: Path) -> None:
    data = make(root)
    for path in (root / "red").rglob("*.*"):
        path.unlink()
    with pytest.raises(hs.FormatError, match=r"7 photos of red.*no such file"):
        listed(data.batches(size=4))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda root: root / "gone", "there is no such folder"),
        (lambda root: root / "red", "one folder for each class"),
        (lambda root: (root / "bad").mkdir() or root / "bad", "one folder for each class"),
    ],
)
def test_folders_without_classes(root: Path, prepare, words: str) -> None:
    folder = prepare(root)
    if folder.name == "red":
        for inner in [p for p in folder.iterdir() if p.is_dir()]:
            for path in inner.iterdir():
                path.unlink()
            inner.rmdir()
    with pytest.raises(hs.OptionError, match=words):
        make(folder)


def test_a_folder_of_nothing_but_damage(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"")
    with pytest.raises(hs.OptionError, match=r"none of its 1 files.*x\.jpg: the file is empty"):
        make(tmp_path)


def test_options_out_of_range(root: Path) -> None:
    for options in ({"workers": -1}, {"prefetch": 0}, {"seed": -1}, {"on_unreadable": "guess"}, {"scale": 0}):
        with pytest.raises(hs.OptionError):
            make(root, **options)
    with pytest.raises(hs.OptionError, match="at least 1 sample"):
        next(iter(make(root).batches(size=0)))


def test_threads_end_with_the_batches_and_few_samples_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    read = []
    monkeypatch.setattr(
        "homespun.data.folder.read_pixels",
        lambda path, h, w, c, framing: read.append(path) or np.zeros((h, w, c), np.uint8),
    )
    batches = make(root, workers=3, prefetch=2).batches(size=2)
    next(batches)
    assert len(read) <= 2 + 2 * 2 + 3
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before
