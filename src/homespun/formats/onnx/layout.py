"""Where the axes of a foreign tensor are in ours: what lets transposes fall away on import.

ONNX keeps images as (N, C, H, W), Homespun as (N, H, W, C). Rather than transposing at every layer, each foreign tensor
is remembered as one of ours plus an order of axes; a foreign `Transpose` then changes that order and computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHANNELS_LAST = (0, 2, 3, 1)
#: Metadata: names of inputs and outputs of four axes that are channels-last in the ONNX file too.
KEPT_ORDER = "onnx.channels_last"


@dataclass(frozen=True)
class Value:
    """A foreign tensor: `name` is ours, and its axis i is axis `axes[i]` of the foreign one.

    `image` is set where the foreign tensor is an image (C, H, W) flattened to one axis, while ours was flattened from
    (H, W, C): a linear layer behind it can take its weights in the other order.
    """

    name: str
    axes: tuple[int, ...]
    image: tuple[int, int, int] | None = None

    @property
    def plain(self) -> bool:
        """Whether ours is laid out as the foreign tensor is."""
        return self.image is None and self.axes == identity(len(self.axes))


def identity(rank: int) -> tuple[int, ...]:
    """The order of axes that changes nothing."""
    return tuple(range(rank))


def channel_last(rank: int) -> tuple[int, ...]:
    """The order that puts axis 1 at the end."""
    return (0, *range(2, rank), 1)


def moves_only_ones(shape: Sequence[int], permutation: Sequence[int]) -> bool:
    """Whether a transpose moves nothing but axes of length one, so that a reshape does the same."""
    order = [i for i in permutation if shape[i] != 1]
    return order == sorted(order)


def regrouped(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """How a reshape regroups axes: the shortest runs of axes of `before` and of `after` with the same product.

    Both shapes have the same number of elements. Axes of length one join the run before them.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first: list[int] = []
        second: list[int] = []
        if i < len(before):
            first.append(i)
            i += 1
        if j < len(after):
            second.append(j)
            j += 1
        while (m := math.prod(before[k] for k in first)) != (n := math.prod(after[k] for k in second)):
            if (m < n and i < len(before)) or j >= len(after):
                first.append(i)
                i += 1
            else:
                second.append(j)
                j += 1
        while i < len(before) and before[i] == 1 and not (j < len(after) and after[j] == 1):
            first.append(i)
            i += 1
        while j < len(after) and after[j] == 1 and not (i < len(before) and before[i] == 1):
            second.append(j)
            j += 1
        groups.append((first, second))
    return groups
