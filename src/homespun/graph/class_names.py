"""The names of a classifier's classes, kept in the model's metadata so that whoever predicts with it can say them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from homespun.errors import FormatError, OptionError
from homespun.graph.graph import Graph

#: Metadata key: a JSON list of names, in the order of the outputs.
CLASSES_KEY = "classes"


def class_names(model: Graph) -> tuple[str, ...] | None:
    """Names of the classes, or None for a model that has none. Raises `FormatError` if they make no sense."""
    text = model.metadata.get(CLASSES_KEY)
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{model.name}: the metadata {CLASSES_KEY!r} are no list of names")
    return tuple(names)


def set_class_names(model: Graph, names: Sequence[str]) -> None:
    """Note the names of the classes. Raises `OptionError` for names that are not all different."""
    if len(set(names)) != len(names):
        raise OptionError(f"names of classes must differ: {', '.join(names)}")
    model.metadata[CLASSES_KEY] = json.dumps(list(names), ensure_ascii=False)
