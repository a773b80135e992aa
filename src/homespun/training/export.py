"""From a trainer to a model file for inference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from homespun.compile.passes.drop_inference_identities import drop_inference_identities
from homespun.compile.passes.fold_batch_norm import fold_batch_norm
from homespun.formats import save
from homespun.graph import Graph

if TYPE_CHECKING:
    from homespun.training.trainer import Trainer


def inference_model(model: Graph) -> Graph:
    """The model without what only training needs: dropout is gone, batch norms are in the weights before them."""
    graph = model.copy()
    graph.prune()
    drop_inference_identities(graph)
    fold_batch_norm(graph)
    graph.prune()
    return graph


def export(trainer: Trainer, path: str | Path, weights: str = "float32", *, averaged: bool = False) -> None:
    """Write the model as it is now, for inference. `weights` as `hs.save` has them: "int8" is four times smaller."""
    save(inference_model(trainer.model(averaged=averaged)), path, weights=weights)
