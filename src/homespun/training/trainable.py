"""Which parameters are trained: "all", "head", name patterns or a predicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from homespun.errors import OptionError
from homespun.graph import Graph

Trainable = str | Sequence[str] | Callable[[str], bool]
#: Metadata key under which `splice` notes the prefix of the head's names.
HEAD_KEY = "head"


def trainable_parameters(model: Graph, trainable: Trainable) -> list[str]:
    """Names of the parameters to train, in the model's order. Raises `OptionError` if a pattern matches nothing."""
    names = list(model.parameters())
    if callable(trainable):
        chosen = [n for n in names if trainable(n)]
    elif isinstance(trainable, str):
        if trainable == "all":
            chosen = names
        elif trainable == "head":
            chosen = head_parameters(model)
        else:
            chosen = _matching(names, [trainable])
    else:
        chosen = _matching(names, list(trainable))
    if not chosen:
        raise OptionError(f"nothing to train: trainable={trainable!r} chooses none of the {len(names)} parameters")
    return chosen


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise OptionError(f"trainable: no parameter matches {pattern!r}; names are like {', '.join(names[-3:])}")
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def head_parameters(model: Graph) -> list[str]:
    """Parameters of the head: what `splice` put there, else those of the last layer that has weights."""
    names = list(model.parameters())
    prefix = model.metadata.get(HEAD_KEY)
    if prefix is not None:
        return [n for n in names if n.startswith(prefix)]
    parameters = set(names)
    for node in reversed(model.nodes):
        own = [n for n in node.inputs if n in parameters]
        if own and node.op in ("linear", "conv2d"):
            return [n for n in names if n in own]
    return []
