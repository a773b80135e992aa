"""From a trainer to a model file for inference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from homespun.compile.passes import drop_inference_identities, fold_batch_norm, round_weights
from homespun.compile.ranges import activation_limits, keep_limits
from homespun.formats import STORES_ACTIVATIONS, save
from homespun.graph import Graph
from homespun.graph.graph import AUXILIARY_KEY, MATCHED_KEY
from homespun.runtime import calibrate as calibrated

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


def inference_model(model: Graph, weights: str = "float32") -> Graph:
    """The model without what only training needs: dropout and auxiliary heads are gone, batch norms are in
    the weights before them.

    What 8 bits need batch norms for is done while they are there: weights are rounded if they are to be "int8", and
    the limits of activations noted.
    """
    graph = model.copy()
    auxiliary = graph.metadata.pop(AUXILIARY_KEY, "").split(",")
    graph.metadata.pop(MATCHED_KEY, None)
    graph.outputs = [o for o in graph.outputs if o not in auxiliary]
    graph.prune()
    drop_inference_identities(graph)
    keep_limits(graph, activation_limits(graph))
    if weights == "int8":
        round_weights(graph)
    fold_batch_norm(graph)
    graph.prune()
    return graph


def export(
    trainer: Trainer,
    path: str | Path,
    weights: str = "float32",
    *,
    averaged: bool = False,
    activations: str | None = None,
    calibrate: Any = None,
) -> None:
    """Write the model as it is now, for inference. `weights`, `activations` and `calibrate` as `hs.save` has them:
    "int8" is four times smaller, and data say what ranges of activations 8-bit predictors should use."""
    model = trainer.model(averaged=averaged)
    if calibrate is not None:
        model = calibrated(model, calibrate)
        if activations is None and weights == "int8" and Path(path).suffix.lower() in STORES_ACTIVATIONS:
            activations = "int8"
    save(inference_model(model, weights), path, weights=weights, activations=activations)
