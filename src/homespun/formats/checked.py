"""What every importer does with a graph at the end: hold it against the graph's own rules before anyone gets it."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath

from homespun.errors import FormatError, ModelError
from homespun.graph import Graph, TensorType, check, infer
from homespun.graph.graph import ITEM_SIZE

#: Largest size of one tensor with a batch of one, bytes: what a hostile graph may not exceed.
LARGEST_TENSOR = 2**33
#: What code that reads foreign values raises where those make no sense (a stride of zero, an input that is missing).
SENSELESS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def check_foreign(graph: Graph, fail: Callable[[str, str], FormatError]) -> Mapping[str, TensorType]:
    """Names, order and shapes; returns the shapes for a batch of one.

    Raises what `fail(place, what)` makes of the first thing that is wrong.
    """
    try:
        check(graph)
        types = infer(graph, batch=1)
    except ModelError as e:
        raise fail("graph", str(e)) from None
    except SENSELESS as e:
        # A shape rule met values that no builder gives (a stride of zero, an axis out of range).
        raise fail("graph", f"a node's attributes make no sense ({type(e).__name__}: {e})") from None
    for name, t in types.items():
        if t.dtype not in ITEM_SIZE:
            raise fail(f"tensor {shortened(name)}", f"is {t.dtype}; it can be {', '.join(ITEM_SIZE)}")
        if any(type(d) is not int or d < 0 for d in t.shape) or t.nbytes > LARGEST_TENSOR:
            raise fail(f"tensor {shortened(name)}", f"would have the shape {list(t.shape)}")
    return types


def file_inside(folder: Path, location: str, fail: Callable[[str], FormatError]) -> Path:
    """The file at `location`, which must be a plain file in the model's folder, symbolic links followed."""
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise fail(f"external data at {shortened(location)}, which is not in the model's folder")
    folder = folder.resolve()
    try:
        file = (folder / location).resolve()
        plain = file.is_file()
    except (OSError, RuntimeError):  # a name that is too long, links in a circle
        raise fail(f"external data at {shortened(location)}, which can't be opened") from None
    if not file.is_relative_to(folder):
        raise fail(f"external data at {shortened(location)}, which is not in the model's folder")
    if not plain:
        raise fail(f"external data at {shortened(location)}: there is no such file")
    return file


def largest_constants(size: int) -> int:
    """Bytes that all constants of a file of `size` bytes may take, where several can share data or are computed."""
    return 2**28 + 16 * size


def shortened(value: object) -> str:
    """`repr` of something out of a file, but short, however long or deep it is there."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
