"""What goes into the networks that TensorFlow wrote for the tests, and what came out when they were recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "goldens" / "tflite"
SIDE = 24
_OTHERS = {"operators": (2, 8, 8, 6)}


def given(name: str) -> np.ndarray:
    """A batch for the network of that name."""
    random = np.random.default_rng(0)
    if name == "encoder":
        return random.integers(0, 30, (3, 12), np.int32)
    return random.standard_normal(_OTHERS.get(name, (3, SIDE, SIDE, 3))).astype(np.float32)


def wanted(name: str) -> list[np.ndarray]:
    """What LiteRT gave for it, output by output, quantised numbers as what they stand for."""
    with np.load(FOLDER / f"{name}.npz") as outputs:
        return [outputs[f"output{i}"] for i in range(len(outputs.files))]
