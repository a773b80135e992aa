"""Graph transformations. One pass, one file: a function that takes a graph, changes it and says whether it did.

`for_inference` is the order in which a model becomes what a `Predictor` runs.
"""

from __future__ import annotations

from homespun.compile.passes.drop_inference_identities import drop_inference_identities
from homespun.compile.passes.fold_batch_norm import fold_batch_norm
from homespun.compile.passes.fuse_activation import fuse_activation
from homespun.compile.passes.fuse_residual import fuse_residual
from homespun.errors import OptionError
from homespun.graph import Graph

__all__ = [
    "drop_inference_identities",
    "fold_batch_norm",
    "for_inference",
    "fuse_activation",
    "fuse_residual",
]


def for_inference(graph: Graph, int8: bool = False) -> Graph:
    """A copy of a graph, ready to be lowered for inference: no training nodes, norms folded, epilogues fused.

    With `int8`, weights are quantised too, and what multiplies them runs in 8 bits.
    """
    if int8:
        raise OptionError("8-bit weights are not built in yet")
    result = graph.copy()
    result.prune()
    drop_inference_identities(result)
    fold_batch_norm(result)
    fuse_residual(result)
    fuse_activation(result)
    result.prune()
    return result
