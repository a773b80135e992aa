"""Cutting a model where training begins: a frozen part that runs as inference, and the part that is trained.

Nothing of the frozen part is differentiated, saved or normalised with batch statistics; it becomes a `Predictor`'s
graph, folded and fused. What crosses the cut are the inputs of the trained part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homespun.compile.autodiff import depends_on
from homespun.errors import ModelError
from homespun.graph import BATCH, Graph, Tensor, infer

#: A batch size that no other axis has by chance.
_SAMPLES = 10007


@dataclass(frozen=True)
class Split:
    """`frozen` maps the model's inputs to `features` and is None where all is trained; `trained` maps `features`,
    and those inputs of the model that it reads itself, to the model's outputs."""

    frozen: Graph | None
    trained: Graph
    features: tuple[str, ...]


def split(model: Graph, trainable: Sequence[str]) -> Split:
    """Cut a model before the first node that depends on a trainable parameter. Raises `ModelError` if none does."""
    reached = depends_on(model, trainable)
    if not reached.intersection(model.outputs):
        raise ModelError(f"{model.name}: no output depends on the trainable parameters {list(trainable)[:5]}")
    types = infer(model, _SAMPLES)
    while True:
        trained_nodes = [n for n in model.nodes if reached.intersection(n.outputs)]
        frozen_nodes = [n for n in model.nodes if not reached.intersection(n.outputs)]
        made = {o for n in frozen_nodes for o in n.outputs if o and model.tensors[o].role == "activation"}
        # outputs of the frozen part cross the cut too: the loss may read them
        crossing = [*(i for n in trained_nodes for i in n.inputs), *model.outputs]
        features = tuple(dict.fromkeys(i for i in crossing if i in made))
        # what has no row for each sample can't be fed in micro-batches: it is computed on the other side
        whole = {f for f in features if types[f].shape[:1] != (_SAMPLES,) and f not in model.outputs}
        if not whole:
            break
        reached |= {o for n in frozen_nodes if whole.intersection(n.outputs) for o in n.outputs}
    if not features:
        trained = model.copy()
        trained.nodes = [n for n in trained.nodes if reached.intersection(n.outputs)]
        trained.prune()
        return Split(None, trained, ())

    frozen = model.copy()
    frozen.nodes = [n for n in frozen.nodes if not reached.intersection(n.outputs)]
    frozen.outputs = list(features)
    frozen.prune()
    frozen.inputs = [i for i in frozen.inputs if any(i in n.inputs for n in frozen.nodes)]

    trained = model.copy()
    trained.nodes = [n for n in trained.nodes if reached.intersection(n.outputs)]
    for name in features:
        t = types[name]
        trained.tensors[name] = Tensor(name, "input", (BATCH, *t.shape[1:]), t.dtype)
    own = [i for i in model.inputs if any(i in n.inputs for n in trained_nodes)]
    trained.inputs = [*features, *own]
    trained.prune()
    return Split(frozen, trained, features)
