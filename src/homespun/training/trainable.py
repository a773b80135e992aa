"""Which parameters are trained: "all", "head", "last:2" (blocks), name patterns or a predicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from homespun.errors import OptionError
from homespun.graph import Graph
from homespun.graph.graph import AUXILIARY_KEY

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
        elif trainable.startswith("last:"):
            chosen = last_blocks(model, trainable.removeprefix("last:"))
        else:
            chosen = _matching(names, [trainable])
    elif isinstance(trainable, Iterable):
        chosen = _matching(names, list(trainable))
    else:
        raise OptionError(f"trainable is {trainable!r}; it can be 'all', 'head', 'last:2', name patterns or a function")
    if not chosen:
        raise OptionError(f"nothing to train: trainable={trainable!r} chooses none of the {len(names)} parameters")
    return chosen


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise OptionError(f"trainable: no parameter matches {pattern!r}; names are like {', '.join(names[-3:])}")
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def head_parameters(model: Graph) -> list[str]:
    """Parameters of the head: what `splice` put there, else those of the last layer with weights before each output
    (a detector has several), auxiliary ones aside."""
    names = list(model.parameters())
    prefix = model.metadata.get(HEAD_KEY)
    if prefix is not None:
        return [n for n in names if n.startswith(prefix)]
    auxiliary = model.metadata.get(AUXILIARY_KEY, "").split(",")
    own = {name for output in model.outputs if output not in auxiliary for name in _last_layer(model, output)}
    return [n for n in names if n in own]


def _last_layer(model: Graph, output: str) -> list[str]:
    """Parameters of the last linear layer or convolution that an output is computed from."""
    parameters, wanted = model.parameters(), {output}
    for node in reversed(model.nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        own = [n for n in node.inputs if n in parameters]
        if own and node.op in ("linear", "conv2d"):
            return own
        wanted.update(node.inputs)
    return []


def last_blocks(model: Graph, count: str) -> list[str]:
    """Parameters of the last `count` blocks ("blocks.3.", "layers.3.", "blocks.2.layers.3.", "stages.2.3." in their
    names) and of all that comes after."""
    names = list(model.parameters())
    found = [re.match(r"((?:.*\.)?(?:(?:blocks|layers?)\.\d+|stages\.\d+(?:\.\d+)?))\.", name) for name in names]
    blocks = list(dict.fromkeys(m.group(1) for m in found if m))
    if not blocks:
        raise OptionError(
            f"last:{count}: no parameter is named as part of a block; names are like {', '.join(names[-3:])}"
        )
    if not count.isdecimal() or not 1 <= int(count) <= len(blocks):
        raise OptionError(f"last:{count}: the model has {len(blocks)} blocks; write last:1 to last:{len(blocks)}")
    first = blocks[-int(count)]
    return names[next(i for i, m in enumerate(found) if m and m.group(1) == first) :]
