"""`.caffemodel` files written field by field, as each version of Caffe does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.formats.wire import field, varint

#: A layer's type as the number that version 1 has for it.
_TYPES = {"CONVOLUTION": 4, "INNER_PRODUCT": 14, "RELU": 18, "POOLING": 17, "LRN": 15, "TANH": 23, "CONCAT": 3}
_TYPES |= {"DROPOUT": 6, "SOFTMAX": 20}


def blob(array: np.ndarray, four: bool = False, kind: str = "float32") -> bytes:
    """A blob: its shape in one field or, as it once was, in four; numbers as float32, float64 or float16 (NVIDIA's)."""
    if four:
        dims = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(i, d) for i, d in enumerate(dims, start=1))
    else:
        shape = field(7, field(1, b"".join(varint(d) for d in array.shape)))
    data = array.astype(f"<{np.dtype(kind).str[1:]}").tobytes()
    if kind == "float16":
        return shape + field(10, 2) + field(12, data)
    return shape + field(8 if kind == "float64" else 5, data)


def layer(name: str, kind: str, blobs: Sequence[bytes], version: int = 2) -> bytes:
    """A layer of a network, with its field's key."""
    if version == 2:
        return field(100, field(1, name) + field(2, kind) + b"".join(field(7, b) for b in blobs))
    if version == 1:
        return field(2, field(4, name) + field(5, _TYPES[kind]) + b"".join(field(6, b) for b in blobs))
    return field(2, field(1, field(1, name) + field(2, kind) + b"".join(field(50, b) for b in blobs)))


def write_weights(
    path: Path,
    layers: Mapping[str, tuple[str, Sequence[np.ndarray]]],
    version: int = 2,
    kind: str = "float32",
) -> None:
    """Write a `.caffemodel`: (type, arrays) of each layer, by name."""
    whole = field(1, "made")
    for name, (type_, arrays) in layers.items():
        whole += layer(name, type_, [blob(a, four=version < 2, kind=kind) for a in arrays], version)
    path.write_bytes(whole)
