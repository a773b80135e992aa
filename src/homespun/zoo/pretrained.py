"""Weights of a zoo network from a file of PyTorch or MindSpore: names and layouts are translated, all must fit.

This is also what `homespun.load` uses for `.pth` and `.ckpt` files, which hold weights but not the network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from homespun.errors import FormatError, ModelError, OptionError
from homespun.graph import Array, Graph

if TYPE_CHECKING:
    from pathlib import Path

Weights: TypeAlias = "str | Path | Mapping[str, Array] | None"
#: (pattern at the beginning of a PyTorch name, our name): {0}, {1} are numbers that it captured, {0-1} one less.
Renames: TypeAlias = tuple[tuple[str, str], ...]
#: Counters that batch norm keeps in PyTorch only; anchors, which are in the metadata here.
_NOT_NEEDED = ("num_batches_tracked", ".anchors", ".anchor_grid")
_MOST_LISTED = 5


def load(path: Path, architecture: str | None = None, **options: object) -> Graph:
    """The zoo network `architecture` with the weights of a file; `options` go to its builder.

    Weights of MindSpore may go into a network of MindSpore, too: `architecture` is its `.mindir` file then.
    """
    if path.suffix.lower() == ".ckpt" and str(architecture).lower().endswith(".mindir"):
        return _into_mindir(path, str(architecture), options)
    zoo = import_module("homespun.zoo")
    names = ", ".join(zoo.__all__)
    if architecture is None:
        raise OptionError(f"{path}: holds weights but no network; say which, architecture=..., one of {names}")
    if architecture not in zoo.__all__:
        raise OptionError(f"architecture is {architecture!r}; it can be one of {names}")
    return cast(Graph, getattr(zoo, architecture)(**options, weights=path))


def _into_mindir(path: Path, architecture: str, options: Mapping[str, object]) -> Graph:
    from pathlib import Path

    from homespun.formats import mindir

    network = Path(architecture)
    if not network.is_file():
        raise OptionError(f"architecture is {str(network)!r}; there is no such file")
    if options.keys() - {"shapes"}:
        raise OptionError(f"{', '.join(options)}: a .mindir file holds its network and takes shapes")
    return mindir.load(network, cast(Any, options.get("shapes")), weights=path)


def load_weights(
    graph: Graph,
    weights: Weights,
    renames: Renames,
    *,
    as_they_are: Collection[str] = (),
    unused: str = "",
) -> Graph:
    """Put PyTorch weights into a graph's parameters and states, and return the graph; None leaves it as it is.

    `as_they_are`: parameters of ours that are laid out as PyTorch has them (tables of embeddings). `unused`: a pattern
    for the beginning of PyTorch names that the network has no use for.

    Raises `FormatError` (for a file; `ModelError` for a mapping) if a tensor is missing, left over, of another shape,
    or not finite: nothing is loaded in part.
    """
    if weights is None:
        return graph
    from_file = isinstance(weights, str | PathLike)
    kind = FormatError if from_file else ModelError
    where = str(weights) if from_file else "weights"
    state = _read(weights) if isinstance(weights, str | PathLike) else weights
    given: dict[str, tuple[str, Array]] = {}
    for name, array in state.items():
        plain = name.removeprefix("module.")  # what torch.nn.DataParallel puts before every name
        if not plain.endswith(_NOT_NEEDED) and not (unused and re.match(unused, plain)):
            given[translate(plain, renames)] = (name, array)
    wanted = {t.name: t for t in graph.with_role("parameter", "state")}
    problems = [f"{n!r} is missing" for n in wanted.keys() - given.keys()]
    problems += [f"{given[n][0]!r} has no place in {graph.name}" for n in given.keys() - wanted.keys()]
    loaded: dict[str, Array] = {}
    for ours in wanted.keys() & given.keys():
        theirs, array = given[ours]
        if array.dtype.kind != "f":
            problems.append(f"{theirs!r} is {array.dtype}, not floating point")
            continue
        array = array if ours in as_they_are else channels_last(array)
        if array.shape != wanted[ours].shape:
            problems.append(f"{theirs!r} is {list(array.shape)} (channels last), expected {list(wanted[ours].shape)}")
            continue
        loaded[ours] = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(loaded[ours]).all():
            problems.append(f"{theirs!r} has values that are not finite")
    if problems:
        shown = "; ".join(sorted(problems)[:_MOST_LISTED])
        more = f"; and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
        hint = " (for other classes, load the file's own and splice a new head)" if "classifier" in shown else ""
        raise kind(f"{where}: does not fit {graph.name}: {shown}{more}{hint}")
    for name, array in loaded.items():
        graph.tensors[name].data = array
    return graph


def _read(file: str | PathLike[str]) -> Mapping[str, Array]:
    """Tensors by name, by PyTorch's names, from any kind of file that holds weights."""
    from pathlib import Path

    path = Path(file)
    if path.suffix.lower() == ".safetensors":
        from homespun.formats import safetensors

        return safetensors.read_state_dict(path)
    if path.suffix.lower() == ".ckpt":
        from homespun.formats.mindir import checkpoint

        return checkpoint.read_state_dict(path)
    from homespun.formats.torch_weights import read_state_dict

    return read_state_dict(path)


def translate(name: str, renames: Renames) -> str:
    """Our name for a PyTorch name; the name itself where no rule fits."""
    for pattern, ours in renames:
        match = re.match(pattern, name)
        if match:
            return re.sub(r"\{(\d)(?:-(\d+))?\}", partial(_captured, match), ours) + name[match.end() :]
    return name


def _captured(match: re.Match[str], place: re.Match[str]) -> str:
    number, less = match.group(int(place[1]) + 1), int(place[2] or 0)
    return str(int(number) - less) if less else str(number)


def channels_last(array: Array) -> Array:
    """PyTorch's layouts to ours: (O, I, H, W) to (H, W, I, O), (O, I) to (I, O), vectors as they are."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
