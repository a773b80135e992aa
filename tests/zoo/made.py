"""Weights and images that can be made again anywhere, so that goldens hold outputs only. Shared with the recorder."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Values in [low, high) from a hash of name and position: whole-number arithmetic, the same on every machine."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    h ^= h >> np.uint32(16)
    return (low + (high - low) * (h.astype(np.float64) / 2**32)).astype(np.float32).reshape(shape)


def made_weights(shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, Array]:
    """A state dict as a trained network might have it, for PyTorch names and shapes. `gain` multiplies the weights of
    norms: below 1, deep networks keep to numbers that float32 can tell apart."""
    state = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = float(np.sqrt(6.0 / np.prod(shape[1:])))
            state[name] = uniform(name, shape, -bound, bound)
        elif name.endswith("running_var"):
            state[name] = uniform(name, shape, 0.5, 1.5)
        elif name.endswith("weight"):
            state[name] = uniform(name, shape, 0.5 * gain, 1.5 * gain)
        else:
            state[name] = uniform(name, shape, -0.3, 0.3)
    return state


def made_image(size: int, count: int = 2) -> Array:
    """Images (N, H, W, 3) around zero."""
    return uniform("image", (count, size, size, 3), -2.0, 2.0)


def samples(activation: Array) -> Array:
    """Ten numbers that stand for an activation (N, H, W, C): eight of its values, its mean and its deviation."""
    flat = np.ascontiguousarray(activation).reshape(-1)
    picked = flat[np.linspace(0, flat.size - 1, 8).astype(int)]
    return np.concatenate([picked, [flat.mean(dtype=np.float64), flat.std(dtype=np.float64)]]).astype(np.float32)
