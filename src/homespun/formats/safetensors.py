"""`.safetensors`: weights by name, in and out, in PyTorch's layout, as its users expect, without the network.

Convolution weights are (O, I, kh, kw) there and linear weights (O, I); everything else is as it is here. An `.hsp` file
is a safetensors file too, but one that holds the network, in our layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as to_bytes

from homespun.errors import FormatError, OptionError
from homespun.formats.atomic import replacing
from homespun.graph import Array, Graph, check

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_TURNED = {"conv2d": (3, 2, 0, 1), "linear": (1, 0)}


def read_state_dict(path: Path) -> dict[str, Array]:
    """Tensors by name, as the file has them; bfloat16 becomes float32. Raises `FormatError` for other files."""
    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as e:
        raise FormatError(f"{path}: not readable as safetensors ({e}); it is truncated or something else") from None
    found: dict[str, Array] = {}
    for name, entry in entries:
        stored, data = entry["dtype"], entry["data"]
        if stored == "BF16":
            array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif stored in _FLOATS:
            array = np.frombuffer(data, _FLOATS[stored])
        else:
            raise FormatError(f"{path}: tensor {name!r}: its dtype {stored} can't be read")
        found[name] = array.reshape(entry["shape"])
    return found


def save(model: Graph, path: str | Path, weights: str = "float32") -> None:
    """Write parameters and running statistics by our names. `weights`: "float32" or "float16".

    The file is written beside, flushed and renamed. Raises `OptionError` for 8-bit weights, which need scales.
    """
    if weights not in ("float32", "float16"):
        raise OptionError(f"weights is {weights!r}; in a .safetensors file it can be 'float32' or 'float16'")
    check(model)
    order = {n.inputs[1]: _TURNED[n.op] for n in model.nodes if n.op in _TURNED}
    arrays = {}
    for t in model.with_role("parameter", "state"):
        array = model.data(t.name)
        array = array.transpose(order[t.name]) if t.name in order else array
        small = weights == "float16" and array.dtype == np.float32 and t.role == "parameter"
        arrays[t.name] = np.ascontiguousarray(array, np.float16 if small else array.dtype)
    with replacing(Path(path)) as partial:
        partial.write_bytes(to_bytes(arrays, {"format": "pt"}))
