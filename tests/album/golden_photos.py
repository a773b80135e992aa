"""The photos that backbone recordings are made of: crops from the scikit-image package, without any resampling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "color.png")
SIDE = 224


def crops(read: Callable[[str], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pixels (N, 224, 224, 3): centre and top left corner of each photo. `read` gives a photo's pixels by name."""
    result = []
    for name in NAMES:
        photo = read(name)[:, :, :3]
        top, left = (photo.shape[0] - SIDE) // 2, (photo.shape[1] - SIDE) // 2
        result += [photo[top : top + SIDE, left : left + SIDE], photo[:SIDE, :SIDE]]
    return np.stack(result)
