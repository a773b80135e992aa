"""Graph transformations. One pass, one file: a function that takes a graph, changes it and says whether it did.

`inference` is the order in which a model becomes what a `Predictor` runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.compile.passes.drop_inference_identities import drop_inference_identities as drop_inference_identities
    from homespun.compile.passes.fold_batch_norm import fold_batch_norm as fold_batch_norm
    from homespun.compile.passes.fuse_activation import fuse_activation as fuse_activation
    from homespun.compile.passes.fuse_inverted_residual import fuse_inverted_residual as fuse_inverted_residual
    from homespun.compile.passes.fuse_residual import fuse_residual as fuse_residual
    from homespun.compile.passes.inference import for_inference as for_inference
    from homespun.compile.passes.inference import steps_of_activations as steps_of_activations
    from homespun.compile.passes.quantize_layers import quantize_layers as quantize_layers
    from homespun.compile.passes.round_weights import round_weights as round_weights
    from homespun.compile.passes.select_rows_early import select_rows_early as select_rows_early

_HOMES = {
    "drop_inference_identities": "drop_inference_identities",
    "fold_batch_norm": "fold_batch_norm",
    "for_inference": "inference",
    "fuse_activation": "fuse_activation",
    "fuse_inverted_residual": "fuse_inverted_residual",
    "fuse_residual": "fuse_residual",
    "quantize_layers": "quantize_layers",
    "round_weights": "round_weights",
    "select_rows_early": "select_rows_early",
    "steps_of_activations": "inference",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
