"""ONNX files, in and out. `reading` checks the file, `importer` makes the graph, `writer` and `exporter` the way back.

The `onnx` package is needed only here, and loaded when a file is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homespun.graph import Graph

if TYPE_CHECKING:
    from homespun.formats.onnx.nodes import ForeignModel


def load(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The network of an ONNX file, channels-last, its batch free. `shapes` fixes what the file leaves open, by input.

    Raises `FormatError` that names the place, or lists every node that can't be imported and what to do about it.
    """
    from homespun.formats.onnx.reading import OnnxFile

    return import_foreign(OnnxFile(path).foreign(), shapes)


def import_foreign(model: ForeignModel, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The graph of what any file says in ONNX's terms. Raises `FormatError` as `load` does."""
    from homespun.formats.onnx import (
        rules_attention,
        rules_elementwise,
        rules_layers,
        rules_masks,
        rules_norms,
        rules_shape,
    )
    from homespun.formats.onnx.importer import import_model
    from homespun.formats.patterns import recognise

    rules = {**rules_layers.RULES, **rules_norms.RULES, **rules_attention.RULES, **rules_elementwise.RULES}
    rules |= {**rules_shape.RULES, **rules_masks.RULES}
    graph = import_model(model, rules, shapes)
    recognise(graph)
    return graph


def save(model: Graph, path: Path, weights: str = "float32", activations: str = "float32") -> None:
    """Write a network as ONNX. `weights` "int8": codes with a scale for each output channel, dequantised in the file.
    `activations` "int8", too: those that our 8-bit programs store as codes go through `QuantizeLinear` and
    `DequantizeLinear` with the same ranges.

    Images are (N, C, H, W) there. Raises `ModelError` that lists every node whose operator has no form in ONNX.
    """
    from homespun.compile.passes import steps_of_activations
    from homespun.compression import quantize_weights
    from homespun.formats.onnx.exporter import as_model, check_storage, write_file
    from homespun.graph import check

    check_storage(weights, activations)
    check(model)
    codes = quantize_weights(model) if weights == "int8" else None
    steps = steps_of_activations(model) if activations == "int8" else None
    write_file(as_model(model, codes, steps=steps), Path(path))
