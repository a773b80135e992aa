"""MindSpore's MindIR files in. `reading` checks the file, `translation` and its rules put it into ONNX's terms.

What follows is the import of an ONNX file: channels-last, the batch free, constants computed. Nothing of MindSpore is
needed, nor the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from homespun.graph import Graph

_ADVICE = {
    "": (
        "what can be left out (labels, losses, decoding at the end): export the network without it; what can't: "
        "replace it in the model's source, or add the operator (docs/adding-a-format.md)"
    ),
    "Switch": "the network chooses by its data: export the branch that is meant",
    "Partial": "the network chooses by its data: export the branch that is meant",
    "call of a computed function": "the network chooses by its data: export the branch that is meant",
    "Argmax": "the first choice is for the caller to take: export the network without it",
    "LSTM": "recurrent layers can't be trained here",
}


def load(path: Path, shapes: Mapping[str, Sequence[int]] | None = None, weights: Path | None = None) -> Graph:
    """The network of a MindIR file, channels-last, its batch free.

    `shapes` fixes what the file leaves open, by input; `weights` is a `.ckpt` file with other values for the
    parameters, which must have them all. Raises `FormatError` that names the place, or lists every node that can't be
    imported and what to do about it.
    """
    from homespun.formats.mindir import elements, layers, moves
    from homespun.formats.mindir.checkpoint import read_checkpoint
    from homespun.formats.mindir.reading import MindirFile
    from homespun.formats.mindir.translation import Translation
    from homespun.formats.onnx import import_foreign

    rules = {**elements.RULES, **layers.RULES, **moves.RULES}
    values = None if weights is None else read_checkpoint(weights)
    return import_foreign(Translation(MindirFile(path), values, rules).model(_ADVICE), shapes)
