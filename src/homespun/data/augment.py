"""Augmentation: small objects that change one picture at random, given the random numbers that belong to its sample.

A picture is (H, W, C), uint8 or float32. Write one of your own as any callable `(picture, random) -> picture`.
Mixing whole batches is in `mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from homespun.data.pictures import Box
from homespun.errors import OptionError
from homespun.graph import Array

Random = np.random.Generator
Transform = Callable[[Array, Random], Array]

#: Grey of red, green and blue (ITU-R BT.601), as JPEG has it.
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_TRIES = 10


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise OptionError(f"{name} is {value}; it must be between 0 and 1")


def _check_range(name: str, value: tuple[float, float], most: float = math.inf) -> None:
    if not 0.0 < value[0] <= value[1] <= most:
        raise OptionError(f"{name} is {value}; it must be two positive numbers, the smaller first")


def _sides(
    pixels: int, areas: tuple[float, float], aspects: tuple[float, float], random: Random
) -> tuple[float, float]:
    """Width and height of a rectangle: its share of the pixels even, its width over height even in the logarithm."""
    area = pixels * random.uniform(*areas)
    aspect = math.exp(random.uniform(math.log(aspects[0]), math.log(aspects[1])))
    return math.sqrt(area * aspect), math.sqrt(area / aspect)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the picture, scaled to the picture's size; of a file, cut before decoding.

    `area` is the part's share of the whole, `aspect` its width over height. Source: Szegedy et al. 2015, section 6.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_range("area", self.area, 1.0)
        _check_range("aspect", self.aspect)

    def box(self, width: int, height: int, random: Random) -> Box:
        """What is cut out of a picture of this size."""
        for _ in range(_TRIES):
            across, down = _sides(width * height, self.area, self.aspect, random)
            if across <= width and down <= height:
                left, top = random.uniform(0, width - across), random.uniform(0, height - down)
                return left, top, left + across, top + down
        # very long or high pictures: the middle, as near to the wanted proportions as may be
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        across, down = min(width, height * aspect), min(height, width / aspect)
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, left + across, top + down

    def __call__(self, picture: Array, random: Random) -> Array:
        height, width = picture.shape[:2]
        return _scaled(picture, self.box(width, height, random))


@dataclass(frozen=True)
class RandomFlip:
    """Left and right exchanged, with this probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, picture: Array, random: Random) -> Array:
        return picture[:, ::-1] if random.random() < self.probability else picture


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast and saturation times 1 - x to 1 + x each, hue turned by up to x of a full circle.

    For pixels in 0 to 255. All of it is one matrix on colours, so a picture is read and written once.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check_share(name, getattr(self, name))
        if not 0.0 <= self.hue <= 0.5:
            raise OptionError(f"hue is {self.hue}; it must be between 0 and 0.5")

    def __call__(self, picture: Array, random: Random) -> Array:
        brightness, contrast, saturation = (
            random.uniform(1 - x, 1 + x) for x in (self.brightness, self.contrast, self.saturation)
        )
        turn = random.uniform(-self.hue, self.hue)
        pixels = picture.astype(np.float32)
        mean = pixels.mean(axis=(0, 1))
        if pixels.shape[-1] != 3:
            result: Array = pixels * np.float32(brightness * contrast) + mean * np.float32(brightness * (1 - contrast))
            return np.clip(result, 0.0, 255.0)
        grey = np.outer(np.ones(3, np.float32), _GREY)
        colours = (saturation * np.eye(3) + (1 - saturation) * grey) @ _hue_turned(turn)
        matrix = (brightness * contrast * colours).astype(np.float32)
        offset = np.float32(brightness * (1 - contrast)) * (_GREY @ mean)
        result = pixels.reshape(-1, 3) @ matrix.T + offset
        return np.clip(result, 0.0, 255.0, out=result).reshape(pixels.shape)


@dataclass(frozen=True)
class RandomErasing:
    """A rectangle filled with noise, with this probability.

    `area` is its share of the picture, `aspect` its width over height. Source: Zhong et al. 2017, algorithm 1.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)
        _check_range("area", self.area, 1.0)
        _check_range("aspect", self.aspect)

    def __call__(self, picture: Array, random: Random) -> Array:
        if random.random() >= self.probability:
            return picture
        height, width = picture.shape[:2]
        for _ in range(_TRIES):
            across, down = map(round, _sides(width * height, self.area, self.aspect, random))
            if 0 < across <= width and 0 < down <= height:
                left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
                result = picture.copy()
                low, high = float(picture.min()), float(picture.max())
                noise = random.uniform(low, high, (down, across, picture.shape[2]))
                result[top : top + down, left : left + across] = noise.astype(picture.dtype)
                return result
        return picture


def light() -> list[Transform]:
    """Cutting and flipping: what fine-tuning for a few epochs needs."""
    return [RandomResizedCrop(), RandomFlip()]


def strong() -> list[Transform]:
    """Cutting, flipping, colours and erasing: for many epochs or few photos."""
    return [RandomResizedCrop((0.2, 1.0)), RandomFlip(), ColourJitter(0.3, 0.3, 0.3, 0.03), RandomErasing()]


def augmented(picture: Array, transforms: Sequence[Transform], random: Random) -> Array:
    """A picture after all transforms, in their order. Raises `OptionError` if one changes its shape."""
    shape = picture.shape
    for transform in transforms:
        picture = transform(picture, random)
        if picture.shape != shape:
            raise OptionError(f"{transform} made {list(picture.shape)} of {list(shape)}; shapes must stay")
    return picture


def _hue_turned(turn: float) -> Array:
    """The matrix that turns colours about grey: a rotation of the two colour axes of YIQ."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    return np.asarray(np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq)


def _scaled(picture: Array, box: Box) -> Array:
    """What a box holds, scaled to the picture's own size with linear interpolation. Never makes anything smaller."""
    height, width = picture.shape[:2]
    rows, down = _places(box[1], box[3], height)
    columns, across = _places(box[0], box[2], width)
    pixels = picture.astype(np.float32)
    pixels = pixels[rows] * (1 - down)[:, None, None] + pixels[rows + 1 - (rows + 1 == height)] * down[:, None, None]
    right = columns + 1 - (columns + 1 == width)
    pixels = pixels[:, columns] * (1 - across)[None, :, None] + pixels[:, right] * across[None, :, None]
    result: Array = pixels.round() if picture.dtype == np.uint8 else pixels
    return result.astype(picture.dtype)


def _places(start: float, end: float, size: int) -> tuple[Array, Array]:
    """Where each of `size` pixels between `start` and `end` lies: the pixel before it, and how far behind that."""
    at = np.clip(start + (np.arange(size) + 0.5) * (end - start) / size - 0.5, 0, size - 1)
    before = np.floor(at).astype(np.int64)
    return before, (at - before).astype(np.float32)
