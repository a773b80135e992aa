"""Mixing the samples of a batch with one another, targets and all: mixup and cutmix.

Targets become probabilities (N, classes), which cross entropy takes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homespun.errors import OptionError
from homespun.graph import Array


def _check(alpha: float, probability: float) -> None:
    if not (alpha > 0 and math.isfinite(alpha)) or not 0.0 <= probability <= 1.0:
        raise OptionError(f"alpha must be positive and probability in 0 to 1, not {alpha} and {probability}")


@dataclass(frozen=True)
class MixUp:
    """Every sample becomes a weighted mean of itself and another one of its batch; so do targets.

    The weight is drawn from Beta(alpha, alpha). Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk
    Minimization".
    """

    alpha: float = 0.2
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check(self.alpha, self.probability)

    def __call__(self, x: Array, y: Array, random: np.random.Generator) -> tuple[Array, Array]:
        weight = np.float32(random.beta(self.alpha, self.alpha))
        other = random.permutation(len(x))
        return weight * x + (1 - weight) * x[other], weight * y + (1 - weight) * y[other]


@dataclass(frozen=True)
class CutMix:
    """A rectangle of every picture comes from another one of its batch; targets are mixed by area.

    The area kept is drawn from Beta(alpha, alpha). Source: Yun et al. 2019, "CutMix", section 3.
    """

    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check(self.alpha, self.probability)

    def __call__(self, x: Array, y: Array, random: np.random.Generator) -> tuple[Array, Array]:
        if x.ndim != 4:
            raise OptionError(f"cutmix cuts pictures (N, H, W, C), not {list(x.shape)}")
        height, width = x.shape[1:3]
        side = math.sqrt(1 - random.beta(self.alpha, self.alpha))
        middle_x, middle_y = int(random.integers(width)), int(random.integers(height))
        half_x, half_y = int(width * side / 2), int(height * side / 2)
        left, right = max(0, middle_x - half_x), min(width, middle_x + half_x)
        top, bottom = max(0, middle_y - half_y), min(height, middle_y + half_y)
        other = random.permutation(len(x))
        mixed = x.copy()
        mixed[:, top:bottom, left:right] = x[other, top:bottom, left:right]
        kept = np.float32(1 - (right - left) * (bottom - top) / (width * height))
        return mixed, kept * y + (1 - kept) * y[other]


Mixing = MixUp | CutMix


def mixed(
    x: Array, y: Array, mixings: Sequence[Mixing], classes: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """A batch after one of the mixings, drawn by their probabilities, and its targets (N, classes).

    Targets are probabilities even where nothing is mixed, so that one program serves every batch.
    """
    y = soft(y, classes)
    draw = random.random()
    for mixing in mixings:
        if draw < mixing.probability:
            return mixing(x, y, random)
        draw -= mixing.probability
    return x, y


def soft(y: Array, classes: int) -> Array:
    """Labels (N,) as probabilities (N, classes), float32; probabilities as they are."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        return y.astype(np.float32)
    return np.eye(classes, dtype=np.float32)[y]
