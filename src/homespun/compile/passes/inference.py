"""The order of passes in which a model becomes what a `Predictor` runs."""

from __future__ import annotations

from homespun.compile.passes.drop_inference_identities import drop_inference_identities
from homespun.compile.passes.fold_batch_norm import fold_batch_norm
from homespun.compile.passes.fuse_activation import fuse_activation
from homespun.compile.passes.fuse_inverted_residual import fuse_inverted_residual
from homespun.compile.passes.fuse_residual import fuse_residual
from homespun.compile.passes.quantize_layers import code_steps, quantize_layers
from homespun.compile.passes.round_weights import round_weights
from homespun.compile.passes.select_rows_early import select_rows_early
from homespun.compile.ranges import activation_limits
from homespun.graph import Array, Graph, infer


def for_inference(graph: Graph, int8: bool = False) -> Graph:
    """A copy of a graph, ready to be lowered for inference: no training nodes, norms folded, epilogues fused.

    With `int8`, weights are quantised too, and what multiplies them runs in 8 bits.
    """
    result, limits = _fused(graph, int8)
    if int8:
        quantize_layers(result, limits)
    else:
        fuse_inverted_residual(result)
    result.prune()
    return result


def steps_of_activations(graph: Graph) -> dict[str, Array]:
    """The activations that an 8-bit program of a graph stores as uint8 codes, by their names in it: the value of one
    code, float64, () or (channels,). Zero is the code 0."""
    return code_steps(*_fused(graph, int8=True))


def _fused(graph: Graph, int8: bool) -> tuple[Graph, dict[str, Array]]:
    """A copy with layers as they will run, and limits of its activations if they are to be in 8 bits."""
    result = graph.copy()
    result.prune()
    select_rows_early(result, infer(result))
    drop_inference_identities(result)
    limits: dict[str, Array] = {}
    if int8:
        limits = activation_limits(result)
        round_weights(result)
    fold_batch_norm(result)
    fuse_residual(result)
    fuse_activation(result)
    return result, limits
