"""What every importer builds a graph with: nodes appended one by one, their shapes worked out as they come.

A format's own importer puts on top of it how its operands are found; its rules then write with what is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from homespun.graph import Array, Attribute, Graph, Node, TensorType
from homespun.graph.infer import infer_node

#: The batch size that shapes are worked out for: a prime that is no network's own size, so that an axis that is a
#: multiple of it holds the batch.
FREE = 2**31 - 1
_MOST_LISTED = 40
#: Of slices that one operator becomes.
_MOST_PIECES = 256

_OVER_ROWS = ("softmax", "log_softmax", "layer_norm", "linear")
_OVER_PIXELS = (
    *("conv2d", "conv2d_transpose", "max_pool", "average_pool", "global_average_pool", "resize", "upsample"),
    "local_response_norm",
)
#: Top, left, bottom, right.
Pads = tuple[int, int, int, int]


class Unsupported(Exception):  # noqa: N818  (not an error yet: importers collect all of them)
    """An operator that can't be imported; the text says what about it, and what to do."""


class Assembly:
    """A graph that grows. `types` are the shapes of our tensors, for a batch of `FREE`."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.types: dict[str, TensorType] = {}
        self._stem = ""  # what the next tensors are named after
        self._producers: dict[str, Node] = {}
        self._tried: dict[str, int] = {}

    def producer(self, name: str) -> Node | None:
        """The node that writes one of our tensors, if one does."""
        return self._producers.get(name)

    def fresh(self, stem: str) -> str:
        """`Graph.fresh_name`, without going through all numbers again where a file has many of one name."""
        i = self._tried.get(stem, 0)
        while (name := f"{stem}_{i}" if i else stem) in self.graph.tensors:
            i += 1
        self._tried[stem] = i
        return name

    def add_array(self, name: str, array: Array, role: Any = "constant") -> str:
        """Put an array into the graph."""
        name = self.graph.add_array(self.fresh(name), array, role)
        self.types[name] = TensorType(tuple(array.shape), str(array.dtype))
        return name

    def emit(self, op: str, inputs: Sequence[str], stem: str = "", **attributes: Attribute) -> str:
        """Append a node with one output and return that output's name."""
        name = self.fresh(stem or self._stem)
        (found, *_) = infer_node(Node(op, tuple(inputs), (name,), attributes, name), self.types)
        if any(type(d) is not int or d < 1 for d in found.shape):
            raise Unsupported(f"its result would have the shape {list(found.shape)}")
        self._check_samples_apart(op, inputs, attributes)
        self._producers[name] = self.graph.add_node(op, inputs, (name,), attributes, name)
        self.types[name] = found
        return name

    def _check_samples_apart(self, op: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> None:
        """Raise `Unsupported` for what would mix the samples of a batch, wherever reshapes have put it."""
        shape = self.types[inputs[0]].shape if inputs and inputs[0] else ()
        mixed: Sequence[int] = ()
        if op in _OVER_ROWS:
            mixed = shape[-1:]
        elif op in _OVER_PIXELS:
            mixed = shape[1:]
        elif op == "matmul":
            mixed = shape[-2:-1] if attributes.get("transpose_a") else shape[-1:]
        if any(d % FREE == 0 for d in mixed):
            raise Unsupported("it mixes the samples of a batch")

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Ours in another shape, of which one axis may hold the batch."""
        shape = tuple(int(d) for d in shape)
        before = self.types[name].shape
        if before == shape:
            return name
        batched = [i for i, d in enumerate(shape) if d % FREE == 0 and d]
        if len(batched) > 1 or math.prod(shape) != math.prod(before):
            raise Unsupported(f"can't reshape {shape_text(before)} to {shape_text(shape)}")
        if len(shape) == 2 and shape[0] == FREE == before[0]:
            return self.emit("flatten", [name])
        return self.emit("reshape", [name], shape=tuple(-1 if i in batched else d for i, d in enumerate(shape)))

    def reduce(self, op: str, name: str, axes: Sequence[int], keep_axes: bool) -> str:
        """Reduced over our axes: neighbours together, the last ones first."""
        left = sorted(axes)
        while left:
            run = [left.pop()]
            while left and left[-1] == run[0] - 1:
                run.insert(0, left.pop())
            name = self.emit(op, [name], axes=tuple(run), keep_axes=keep_axes)
        return name

    def prelu(self, name: str, slope: str) -> str:
        """max(x, 0) + slope * min(x, 0)."""
        positive = self.emit("relu", [name])
        negative = self.emit("sub", [name, positive])
        return self.emit("add", [positive, self.emit("mul", [negative, slope])])

    def cut(self, name: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """Every `step`th element of an axis from `start` on and before `stop`; `step` may be negative.

        Raises `Unsupported` for the batch, and where nothing or too many pieces are left.
        """
        size = self.types[name].shape[axis]
        if (start, step) == (0, 1) and stop >= size:
            return name
        if size % FREE == 0:
            raise Unsupported("it cuts the batch")
        taken = range(start, stop, step)
        if not taken or not (0 <= taken[0] < size and 0 <= taken[-1] < size):
            raise Unsupported(f"it takes {start}:{stop}:{step} of an axis of {size}")
        if step == 1:
            return self.emit("slice", [name], axis=axis, start=start, stop=stop)
        if step < 0 or len(taken) < 3:
            return self.picked(name, axis, list(taken))
        # As many rows of `step` elements as are taken, of which the first ones are.
        shape, rows = self.types[name].shape, len(taken)
        missing = start + rows * step - size
        if missing > 0:
            after = tuple(missing if i == axis else 0 for i in range(len(shape)))
            name = self.emit("pad", [name], before=(0,) * len(shape), after=after)
        name = self.cut(name, axis, start, start + rows * step)
        name = self.reshape(name, (*shape[:axis], rows, step, *shape[axis + 1 :]))
        return self.reshape(self.cut(name, axis + 1, 0, 1), (*shape[:axis], rows, *shape[axis + 1 :]))

    def picked(self, name: str, axis: int, indices: Sequence[int]) -> str:
        """These elements of an axis, in this order: runs of neighbours, joined. Raises `Unsupported` as `cut` does."""
        size = self.types[name].shape[axis]
        runs: list[list[int]] = []
        for i in indices:
            if runs and i == runs[-1][-1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        if not runs or len(runs) > _MOST_PIECES or any(not 0 <= i < size for i in indices):
            raise Unsupported(f"it picks {list(indices)[:8]} of an axis of {size}, in {len(runs)} pieces")
        parts = [self.cut(name, axis, run[0], run[-1] + 1) for run in runs]
        return parts[0] if len(parts) == 1 else self.emit("concat", parts, axis=axis)

    def repeated(self, name: str, axis: int, times: int) -> str:
        """The whole of an axis, so many times in a row. Raises `Unsupported` for the batch, and for too many."""
        if times == 1:
            return name
        if not 0 < times <= _MOST_PIECES or self.types[name].shape[axis] % FREE == 0:
            raise Unsupported(f"it repeats axis {axis} {times} times")
        return self.emit("concat", [name] * times, axis=axis)

    def mirrored(self, name: str, before: Sequence[int], after: Sequence[int], mode: str) -> str:
        """Padded with what stands at the rim: "reflect" without the outermost, "symmetric" with it, "edge" with it
        alone."""
        for axis, (first, last) in enumerate(zip(before, after, strict=True)):
            size = self.types[name].shape[axis]
            if not first and not last:
                continue
            if size % FREE == 0 or max(first, last) > size - (mode == "reflect"):
                raise Unsupported(f"it pads {first} and {last} around an axis of {size}")
            if mode == "edge":
                ends = [0] * first, [size - 1] * last
            else:
                skip = int(mode == "reflect")
                ends = [*range(first + skip - 1, skip - 1, -1)], [*range(size - 1 - skip, size - 1 - skip - last, -1)]
            parts = [self.picked(name, axis, end) if end else "" for end in ends]
            name = self.emit("concat", [p for p in (parts[0], name, parts[1]) if p], axis=axis)
        return name

    def padded_before(self, name: str, padding: Pads) -> tuple[str, Pads]:
        """What a convolution of an image reads, and its padding: a `pad` with zeros before it becomes part of it."""
        pad = self.producer(name)
        if pad is None or pad.op != "pad" or pad.attributes.get("value", 0.0) != 0.0:
            return name, padding
        before: Any = pad.attributes["before"]
        after: Any = pad.attributes["after"]
        if len(before) != 4 or any(before[i] or after[i] for i in (0, 3)):
            return name, padding
        top, left, bottom, right = padding
        return pad.inputs[0], (top + before[1], left + before[2], bottom + after[1], right + after[2])


def shape_text(shape: Sequence[int]) -> str:
    """A shape with N for the batch."""
    return "(" + ", ".join("N" if d == FREE else f"{d // FREE}N" if d % FREE == 0 else str(d) for d in shape) + ")"


def without_leading_ones(array: Array) -> Array:
    """The array without its first axes as long as those have one entry, which broadcasting puts back."""
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def shortlist(lines: Sequence[str]) -> list[str]:
    """Lines of an error, as many as somebody reads."""
    more = len(lines) - _MOST_LISTED
    return [*lines[:_MOST_LISTED], *([f"... and {more} more"] if more > 0 else [])]
