"""The part of a backbone that a family's refinement trains: its last block and the layer after it.

What comes before, the *trunk*, never changes: it makes of each photo a small map, which is kept in 8 bits. `refine`
trains a `Tail` on such maps; what the tail makes of a map is the photo's feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import homespun as hs
from homespun.errors import ModelError, ShapeError

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]
"""Trained weights by the names that they have in the backbone."""


class Tail:
    """Where a backbone is cut, and the graphs on both sides."""

    def __init__(self, backbone: hs.Graph) -> None:
        """Cut before the last block. Raises `ModelError` for a network that has no blocks."""
        self.backbone = backbone
        self.names = _convolutions_of_last_block(backbone)
        probe = hs.Trainer(backbone, hs.losses.MSE(), hs.optim.SGD(0.0), batch=1, trainable=self.names, threads=1)
        self.graph = probe.trained_part()
        """From maps to features, with the weights that the backbone has."""
        if len(self.graph.inputs) != 1 or len(self.graph.outputs) != 1:
            raise ModelError(f"{backbone.name} can't be cut before its last block: more than one tensor crosses")
        self.shape: tuple[int, ...] = tuple(self.graph.tensors[self.graph.inputs[0]].shape[1:])

    @property
    def weights(self) -> dict[str, Floats]:
        """The weights that the backbone has."""
        parameters = self.backbone.parameters()
        return {name: parameters[name] for name in self.names}

    def trunk(self) -> hs.Graph:
        """From pictures to maps."""
        graph = self.backbone.copy()
        graph.outputs = list(self.graph.inputs)
        graph.prune()
        return graph

    def with_weights(self, weights: Weights) -> hs.Graph:
        """From maps to features, with other weights."""
        return _replaced(self.graph, weights)

    def backbone_with(self, weights: Weights) -> hs.Graph:
        """The whole network with other weights in its tail."""
        return _replaced(self.backbone, weights)


def _convolutions_of_last_block(backbone: hs.Graph) -> list[str]:
    """Weights of convolutions from the last block on. Norms stay as they are: few photos make poor statistics."""
    names = list(backbone.parameters())
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in names]
    numbers = [int(found.group(1)) for found in blocks if found]
    if not numbers:
        raise ModelError(f"{backbone.name} has no blocks, of which the last could be refined")
    first = next(i for i, found in enumerate(blocks) if found and int(found.group(1)) == max(numbers))
    return [name for name in names[first:] if name.endswith("conv.weight")]


def _replaced(graph: hs.Graph, weights: Weights) -> hs.Graph:
    copy = graph.copy()
    for name, value in weights.items():
        if name not in copy.tensors or copy.tensors[name].shape != value.shape:
            raise ShapeError(f"{name!r} of {list(value.shape)} is no weight of {graph.name}")
        copy.tensors[name].data = np.ascontiguousarray(value, np.float32)
    return copy


class Maps:
    """Maps (N, H, W, C) in few bits, each channel with a scale of its own.

    `codes` are uint8; a value is `low + step * code`.
    """

    def __init__(self, codes: npt.NDArray[np.uint8], low: Floats, step: Floats) -> None:
        self.codes, self.low, self.step = codes, low, step

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, values: npt.NDArray[Any], bits: int = 8) -> Maps:
        """Maps of float values, rounded to `bits` bits between each channel's 0.1% and 99.9% points."""
        flat = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        low, high = (np.quantile(flat, q, axis=0).astype(np.float32) for q in (0.001, 0.999))
        step = np.maximum(high - low, np.float32(1e-6)) / np.float32(2**bits - 1)
        return cls(cls.encode(values, low, step, bits), low, step)

    @staticmethod
    def encode(values: npt.NDArray[Any], low: Floats, step: Floats, bits: int = 8) -> npt.NDArray[np.uint8]:
        """Codes of values by a scale that is known already."""
        codes: npt.NDArray[np.uint8] = np.clip(np.rint((values - low) / step), 0, 2**bits - 1).astype(np.uint8)
        return codes

    def take(self, rows: npt.NDArray[np.intp] | slice | int) -> Floats:
        """The values (n, H, W, C) of some rows, or (H, W, C) of one."""
        values: Floats = self.codes[rows].astype(np.float32) * self.step + self.low
        return values
