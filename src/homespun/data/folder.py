"""`ImageFolder`: a folder with a folder of pictures for each class.

Files that can't be read are left out and listed, so that one damaged photo does not end a night's training.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from homespun.data.augment import Random, RandomResizedCrop, augmented
from homespun.data.dataset import Augmentation, DataSet, Sample, check_options
from homespun.data.parallel import ordered_map
from homespun.data.pictures import Framing, check_header, picture_files, read_pixels, whole_picture
from homespun.data.preprocessing import Number, Preprocessing, numbers
from homespun.errors import FormatError, OptionError
from homespun.graph import Array, Graph

_log = logging.getLogger(__name__)

_NAMED = 3
_LOOKED_AT_ONCE = 64
#: A disk that went away must not look like so many damaged photos.
_MOST_DAMAGED_IN_A_ROW = 10


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out, and why."""

    path: Path
    reason: str


class ImageFolder(DataSet):
    """Pictures in `folder`/CLASS/, or deeper; classes in order of their names.

    `like`: the model, or backbone, that the pictures are for; it says their size and normalisation. Or say so yourself:
    `image_size`, `mean`, `scale` (of pixels in 0 to 255). `classes` fixes names and order, as for photos to test with
    where the training set had more classes.

    A file that can't be read is left out, logged, and listed in `unreadable`, with `on_unreadable="raise"` an error.
    Beginnings of files are checked at once. A file that turns out to be damaged later is replaced by the next one of
    its class while training, so that batches keep their size, and left out of evaluation.

    Raises `OptionError` for a folder without pictures in class folders, or with a class that `classes` does not name.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        like: Graph | None = None,
        image_size: int | None = None,
        mean: Number | None = None,
        scale: Number | None = None,
        augment: Augmentation = (),
        classes: Sequence[str] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 2,
        prefetch: int = 2,
        on_unreadable: str = "skip",
    ) -> None:
        if on_unreadable not in ("skip", "raise"):
            raise OptionError(f"on_unreadable is {on_unreadable!r}; it can be 'skip' or 'raise'")
        check_options(workers, prefetch, seed)
        self.folder, self.on_unreadable = Path(folder), on_unreadable
        self.preprocessing = _preprocessing(like, image_size, mean, scale)
        self.unreadable: list[Unreadable] = []
        self._lock = Lock()
        found = _pictures(self.folder)
        names = tuple(found) if classes is None else tuple(classes)
        unknown = [name for name in found if name not in names]
        if unknown:
            raise OptionError(f"{self.folder}: {', '.join(unknown)}: not among the classes, {', '.join(names)}")
        kept = self._readable([(name, path) for name in names for path in found.get(name, [])], workers)
        full = {name for name, _ in kept}
        self.empty_classes = tuple(name for name in names if name not in full)
        if classes is None:
            names = tuple(name for name in names if name in full)
        self.paths = [path for _, path in kept]
        self.labels: Array = np.array([names.index(name) for name, _ in kept], np.int64)
        super().__init__(
            len(kept),
            augment=augment,
            shuffle=shuffle,
            seed=seed,
            workers=workers,
            prefetch=prefetch,
            classes=names,
        )

    def read(self, number: int, random: Random | None) -> Sample | None:
        """Pixels (H, W, C) float32, normalised, and the class."""
        label = int(self.labels[number])
        if random is None:
            pixels = self._pixels(number, None)
            return None if pixels is None else (self.preprocessing.apply(pixels), label)
        framing, transforms = whole_picture, self.transforms
        if transforms and isinstance(transforms[0], RandomResizedCrop):
            framing, transforms = partial(transforms[0].box, random=random), transforms[1:]
        pixels = self._pixels(number, framing)
        if pixels is None:
            pixels = self._instead_of(number, framing)
        return self.preprocessing.apply(augmented(pixels, transforms, random)), label

    def key(self, number: int) -> str:
        """The path below the folder."""
        return self.paths[number].relative_to(self.folder).as_posix()

    def label(self, number: int) -> int | None:
        """The number of the class."""
        return int(self.labels[number])

    def counts(self) -> dict[str, int]:
        """Photos of each class."""
        assert self.classes is not None
        found = np.bincount(self.labels[self.numbers], minlength=len(self.classes))
        return dict(zip(self.classes, map(int, found), strict=True))

    def fingerprint(self) -> str:
        """A hash of which photos there are, by path and size: whether a resumed run sees the same ones."""
        digest = hashlib.sha256()
        for number in self.numbers:
            path = self.paths[number]
            digest.update(f"{self.key(int(number))}\0{path.stat().st_size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    # -- inside -------------------------------------------------------------------------------------------------

    def _readable(self, files: list[tuple[str, Path]], workers: int) -> list[tuple[str, Path]]:
        """Those whose beginnings make sense; the others are noted."""
        wrong = ordered_map(_problem, [path for _, path in files], workers, _LOOKED_AT_ONCE)
        kept = []
        for (name, path), problem in zip(files, wrong, strict=True):
            if problem is None:
                kept.append((name, path))
            else:
                self._note(path, problem)
        if self.unreadable:
            shown = "; ".join(u.reason for u in self.unreadable[:_NAMED])
            _log.warning("%d of %d files are left out: %s", len(self.unreadable), len(files), shown)
        if not kept:
            raise OptionError(f"{self.folder}: none of its {len(files)} files can be read: {self.unreadable[0].reason}")
        return kept

    def _pixels(self, number: int, framing: Framing | None) -> Array | None:
        """Pixels of a file; None, and a note, if it is damaged."""
        path, p = self.paths[number], self.preprocessing
        try:
            return read_pixels(path, p.height, p.width, p.channels, framing)
        except FormatError as problem:
            if self._note(path, problem):
                _log.warning("left out: %s", problem)
            return None

    def _note(self, path: Path, problem: FormatError) -> bool:
        """List a file that can't be read; whether it is new there."""
        if self.on_unreadable == "raise":
            raise problem
        with self._lock:
            if any(u.path == path for u in self.unreadable):
                return False
            self.unreadable.append(Unreadable(path, str(problem)))
            return True

    def _instead_of(self, number: int, framing: Framing) -> Array:
        """Pixels of the next photo of the same class, around its end. Raises `FormatError` after too many attempts."""
        same = self.numbers[self.labels[self.numbers] == self.labels[number]]
        others = [*same[same > number], *same[same < number]][: _MOST_DAMAGED_IN_A_ROW - 1]
        for other in others:
            pixels = self._pixels(int(other), framing)
            if pixels is not None:
                return pixels
        assert self.classes is not None
        raise FormatError(
            f"{self.folder}: {len(others) + 1} photos of {self.classes[self.labels[number]]} in a row can't be read; "
            f"the last is {self.unreadable[-1].reason}"
        )


def _problem(path: Path) -> FormatError | None:
    try:
        check_header(path)
    except FormatError as problem:
        return problem
    return None


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """Picture files by class, all in order of their names. Raises `OptionError` if there are none."""
    if not folder.is_dir():
        raise OptionError(f"{folder}: there is no such folder")
    found = {}
    for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        found[inner.name] = picture_files(inner)
    if not any(found.values()):
        raise OptionError(f"{folder}: no pictures; expected one folder for each class, with pictures in it")
    return found


def _preprocessing(
    like: Graph | None, image_size: int | None, mean: Number | None, scale: Number | None
) -> Preprocessing:
    if like is not None:
        return Preprocessing.of(like, mean, scale, image_size)
    if image_size is None or mean is None or scale is None:
        raise OptionError("say what the pictures are for: like=model, or image_size=, mean= and scale=")
    return Preprocessing(image_size, image_size, 3, numbers(mean, "mean"), numbers(scale, "scale"))
