"""Files that models come from and go to: one module for each format, chosen by the file's suffix.

A module named here has `load(path) -> Graph` and, where models can be written so, `save(model, path, weights=...)`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from homespun.errors import FormatError, OptionError
from homespun.graph import Graph

#: Suffix -> module that reads it. A `.pth` file holds weights but no network; the zoo has the networks.
READERS = {
    ".hsp": "homespun.formats.hsp",
    ".onnx": "homespun.formats.onnx",
    ".tflite": "homespun.formats.tflite",
    ".caffemodel": "homespun.formats.caffe",
    ".prototxt": "homespun.formats.caffe",
    ".mindir": "homespun.formats.mindir",
    ".safetensors": "homespun.zoo.pretrained",
    ".pth": "homespun.zoo.pretrained",
    ".pt": "homespun.zoo.pretrained",
    ".ckpt": "homespun.zoo.pretrained",
}
#: Suffix -> the options of `load` that it takes; weights take those of the zoo's builders too.
OPTIONS = {
    **dict.fromkeys((".onnx", ".mindir", ".prototxt"), ("shapes",)),
    ".caffemodel": ("architecture", "shapes"),
}
WEIGHTS_ONLY = (".safetensors", ".pth", ".pt", ".ckpt")
#: Suffix -> module that writes it.
WRITERS = {
    ".hsp": "homespun.formats.hsp",
    ".onnx": "homespun.formats.onnx",
    ".safetensors": "homespun.formats.safetensors",
}
#: Those that can say how activations are stored, beside weights.
STORES_ACTIVATIONS = (".onnx",)


def load(path: str | Path, **options: Any) -> Graph:
    """Read a model from a file, by its suffix.

    `.hsp`, `.tflite`: no options. `.onnx`, `.mindir`: `shapes`, the shape of each input by name, where the file leaves
    more than the batch open. `.prototxt` and `.caffemodel` are the two halves of a Caffe network: name either, the
    other is found beside it; `shapes`, too, and for a `.caffemodel` `architecture`, its `.prototxt`. `.safetensors`,
    `.pth`, `.pt`, `.ckpt`: `architecture`, the zoo builder's name (`"mobilenet_v2"`), and that builder's own options;
    for a `.ckpt` it may be a `.mindir` file, too.
    Raises `FormatError`, naming file and place, for a file that is wrong, truncated or of an unknown kind.
    """
    path = Path(path)
    module = _module_for(path, READERS, "read")
    if not path.is_file():
        raise FormatError(f"{path}: there is no such file")
    suffix = path.suffix.lower()
    unknown = [o for o in options if o not in OPTIONS.get(suffix, ())] if suffix not in WEIGHTS_ONLY else []
    if unknown:
        takes = ", ".join(OPTIONS.get(suffix, ())) or "no options"
        raise OptionError(f"{', '.join(unknown)}: a {path.suffix} file holds its network and takes {takes}")
    return cast(Graph, module.load(path, **options))


def save(
    model: Graph,
    path: str | Path,
    weights: str = "float32",
    *,
    activations: str | None = None,
    calibrate: Any = None,
) -> None:
    """Write a model to a file, by its suffix. `weights`: "float32", "float16" (not for `.onnx`) or "int8"
    (not for `.safetensors`).

    `calibrate` are data like those that the model will see: ranges of activations are measured on them and stored, for
    8-bit predictors to use (see `homespun.calibrate`). `activations`, "float32" or "int8", is for `.onnx` with 8-bit
    weights: whether other runtimes are to keep in 8 bits what our 8-bit predictors do; by default if `calibrate` is
    given. The file is written beside, flushed and renamed: `path` is the whole new model or what it was before.
    """
    path = Path(path)
    module = _module_for(path, WRITERS, "written")
    suffix = path.suffix.lower()
    if activations is not None and suffix not in STORES_ACTIVATIONS:
        raise OptionError(
            f"activations={activations!r} is for {', '.join(STORES_ACTIVATIONS)}; 8-bit programs of a {suffix} file "
            "find their own, on the ranges that `calibrate` measures"
        )
    if calibrate is not None:
        from homespun.runtime import calibrate as measured

        model = measured(model, calibrate)
    options = {}
    if suffix in STORES_ACTIVATIONS:
        in_8_bits = calibrate is not None and weights == "int8"
        options["activations"] = activations or ("int8" if in_8_bits else "float32")
    module.save(model, path, weights=weights, **options)


def _module_for(path: Path, table: dict[str, str], done: str) -> Any:
    suffix = path.suffix.lower()
    if suffix not in table:
        raise FormatError(f"{path}: files with the suffix {suffix!r} can't be {done}; these can: {', '.join(table)}")
    return import_module(table[suffix])
