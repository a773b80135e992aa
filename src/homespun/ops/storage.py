"""How kernels that read and write several storage types are told which one it is."""

from __future__ import annotations

from homespun.errors import ShapeError
from homespun.graph.graph import TensorType

_STORAGE = {"float32": 0, "bfloat16": 1, "float16": 2}


def is_half(t: TensorType) -> int:
    """The kernels' number for a tensor's storage: 0 float32, 1 bfloat16, 2 float16."""
    if t.dtype not in _STORAGE:
        raise ShapeError(f"training kernels store {', '.join(_STORAGE)}, not {t.dtype}")
    return _STORAGE[t.dtype]
