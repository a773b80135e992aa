"""A caller's arrays held against what a model declares, for predictors and trainers alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homespun.errors import ShapeError
from homespun.graph.graph import BATCH, Array, Graph


def input_arrays(graph: Graph, given: Sequence[Array]) -> list[Array]:
    """The arrays, contiguous and of the declared dtypes; the batch size is free.

    Raises `ShapeError` for another number of arrays, or other shapes, than the graph's inputs have, for what is not
    real numbers, and for ids outside the table that they name rows of.
    """
    if len(given) != len(graph.inputs):
        raise ShapeError(f"the model takes {len(graph.inputs)} inputs ({', '.join(graph.inputs)}), {len(given)} given")
    arrays: list[Array] = []
    for name, array in zip(graph.inputs, given, strict=True):
        declared = graph.tensors[name]
        given_as = np.asarray(array)
        if given_as.dtype.kind not in "buif":
            raise ShapeError(f"input {name!r} is of {given_as.dtype} {given_as.shape}, expected numbers")
        array = np.ascontiguousarray(given_as, dtype=declared.dtype)
        fits = array.ndim == len(declared.shape) and all(
            want in (BATCH, got) for want, got in zip(declared.shape, array.shape, strict=True)
        )
        if not fits:
            raise wrong_shape(graph, name, array)
        arrays.append(array)
    _check_ids(graph, arrays)
    return arrays


def _check_ids(graph: Graph, arrays: Sequence[Array]) -> None:
    """Raise `ShapeError` for an id outside the table of the `embedding` that reads it."""
    given = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        if node.op != "embedding" or node.inputs[0] not in given:
            continue
        ids, vocabulary = given[node.inputs[0]], graph.tensors[node.inputs[1]].shape[0]
        if ids.size and not (ids.min() >= 0 and ids.max() < vocabulary):
            bad = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise ShapeError(f"input {node.inputs[0]!r}: id {bad} is out of range, ids are 0 to {vocabulary - 1}")


def wrong_shape(graph: Graph, name: str, array: Array) -> ShapeError:
    """The error that says what an input was given and what was expected."""
    shape = ", ".join("N" if d == BATCH else str(d) for d in graph.tensors[name].shape)
    return ShapeError(f"input {name!r} has shape {array.shape}, expected ({shape})")
