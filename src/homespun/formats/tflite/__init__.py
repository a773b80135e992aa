"""TFLite files in, through the `tflite` package's flatbuffers schema: float, with weights in halves, sparse, quantised.

`reading` has the file's tensors, `importer` makes the graph, `rules_*` say what operators become, `folding` computes
what depends on constants only. Images are channels-last there too. Quantised numbers become float32 by their scales, so
that the network can be trained.
"""

from __future__ import annotations

import struct
from pathlib import Path

from homespun.errors import FormatError, MissingPackageError
from homespun.formats.checked import SENSELESS, check_foreign
from homespun.graph import Graph

_LARGEST_FILE = 2**31 - 1


def load(path: Path) -> Graph:
    """The network of a TFLite file, its batch free.

    Raises `FormatError` that names the place, or lists every operator that can't be imported.
    """
    try:
        import tflite
    except ImportError:
        raise MissingPackageError(
            'TFLite files need the package "tflite", which is not installed: pip install "homespun[tflite]"'
        ) from None
    from homespun.formats.patterns import recognise
    from homespun.formats.tflite import rules_elementwise, rules_layers, rules_shape
    from homespun.formats.tflite.importer import Interpreter

    def fail(place: str, what: str) -> FormatError:
        return FormatError(f"{path}: {place}: {what}")

    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise fail("file", f"{size} bytes are more than a TFLite file can have")
    raw = path.read_bytes()
    if raw[4:8] != b"TFL3":
        raise fail("file", "it does not begin as TFLite files do; it is something else, or empty")
    rules = {**rules_layers.RULES, **rules_elementwise.RULES, **rules_shape.RULES}
    try:
        graph = Interpreter(tflite, tflite.Model.GetRootAs(raw, 0), path.stem, size, fail).run(rules)
    except (*SENSELESS, struct.error) as e:
        raise fail("file", f"its structure makes no sense ({type(e).__name__}: {e}); truncated or damaged") from None
    graph.prune()
    recognise(graph)
    check_foreign(graph, fail)
    return graph
