"""From pixels to what a network was trained on: size, channels, and normalisation by channel.

Models carry the numbers in their metadata (`input_mean`, `input_scale`), so training, validation and prediction agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from homespun.errors import OptionError, ShapeError
from homespun.graph import Array, Graph

MEAN_KEY, SCALE_KEY = "input_mean", "input_scale"
Number = float | Sequence[float]


@dataclass(frozen=True)
class Preprocessing:
    """`(pixel - mean) / scale` of pictures of `height` x `width`; one number, or one for each channel, in 0 to 255."""

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (255.0,)

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.channels not in (1, 3):
            raise OptionError(
                f"pictures of {self.height}x{self.width} with {self.channels} channels can't be made; channels: 1 or 3"
            )
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in (1, self.channels) or not np.isfinite(values).all():
                raise OptionError(f"{name} is {values}; it needs 1 or {self.channels} finite numbers")
        if not all(self.scale):
            raise OptionError(f"scale is {self.scale}; no number of it may be 0")

    @classmethod
    def of(
        cls, model: Graph, mean: Number | None = None, scale: Number | None = None, image_size: int | None = None
    ) -> Self:
        """What a model expects, by its input's shape and its metadata; arguments replace what it says.

        Raises `OptionError` for a model that does not say how pixels are normalised, `ShapeError` for one that does
        not take pictures.
        """
        shape = model.tensors[model.inputs[0]].shape
        if len(model.inputs) != 1 or len(shape) != 4 or shape[3] not in (1, 3):
            shapes = ", ".join(str(list(model.tensors[name].shape[1:])) for name in model.inputs)
            raise ShapeError(f"{model.name} takes {shapes}, not pictures of (height, width, 1 or 3 channels)")
        if image_size not in (None, shape[1]) or image_size not in (None, shape[2]):
            raise OptionError(f"{model.name} takes pictures of {shape[1]}x{shape[2]}, not of {image_size}x{image_size}")
        found = []
        for key, given, word in ((MEAN_KEY, mean, "mean"), (SCALE_KEY, scale, "scale")):
            if given is None and key not in model.metadata:
                raise OptionError(
                    f"{model.name} does not say how pixels are normalised (no {key!r} in its metadata): pass {word}=..."
                )
            found.append(numbers(model.metadata[key], key) if given is None else numbers(given, word))
        return cls(shape[1], shape[2], shape[3], *found)

    def apply(self, pixels: Array) -> Array:
        """Float32 (..., channels) for pixels of the same shape in 0 to 255."""
        result = np.subtract(pixels, np.asarray(self.mean, np.float32), dtype=np.float32)
        result /= np.asarray(self.scale, np.float32)
        return result

    def metadata(self) -> dict[str, str]:
        """What a model's metadata say of it."""
        return {MEAN_KEY: ",".join(f"{v:g}" for v in self.mean), SCALE_KEY: ",".join(f"{v:g}" for v in self.scale)}


def numbers(value: Number | str, name: str) -> tuple[float, ...]:
    """A number, several, or a text of them with commas, as a tuple. Raises `OptionError`."""
    try:
        if isinstance(value, str):
            return tuple(float(word) for word in value.split(","))
        return tuple(float(v) for v in np.atleast_1d(np.asarray(value, np.float64)))
    except ValueError:
        raise OptionError(f"{name} is {value!r}; it must be a number, or one for each channel") from None
