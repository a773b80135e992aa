"""From a `Graph` to an ONNX file: every operator writes itself (`to_onnx`), inputs and outputs get their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homespun.errors import ModelError, OptionError
from homespun.formats.assembly import FREE
from homespun.formats.atomic import replacing
from homespun.formats.onnx.layout import KEPT_ORDER
from homespun.formats.onnx.reading import require_onnx
from homespun.formats.onnx.writer import FIRST, OPSET, OnnxWriter
from homespun.graph import Array, Graph, TensorType, infer
from homespun.graph.operator import operator

#: Of the file format itself: what came with operator set 17.
_IR_VERSION = 8
#: Weights beyond this can't be in the file itself, which protobuf limits to 2 GiB.
_LARGEST = 2**31 - 2**20
_ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}


def write_nodes(write: OnnxWriter, graph: Graph) -> None:
    """Write every node by its operator's rule. Raises `ModelError` that lists all nodes which have none."""
    missing = [n for n in graph.nodes if operator(n).to_onnx is None]
    if missing:
        names = ", ".join(str(n) for n in missing)
        raise ModelError(f"{graph.name}: {len(missing)} nodes can't be written as ONNX, no rule says how: {names}")
    for node in graph.nodes:
        rule = operator(node).to_onnx
        assert rule is not None
        write.begin(node)
        rule(write, node)


def as_model(
    graph: Graph,
    codes: Mapping[str, tuple[Array, Array]] | None = None,
    open_arrays: Collection[str] = (),
    steps: Mapping[str, Array] | None = None,
) -> Any:
    """The network as an ONNX `ModelProto`; images are channels-first unless they came channels-last from ONNX.

    `codes` and `steps`: see `OnnxWriter`. Arrays named in `open_arrays` are inputs too, with what they are now as their
    default.
    """
    write = OnnxWriter(graph, infer(graph, FREE), codes, steps)
    signature = Signature(graph.metadata)
    for name in graph.inputs:
        signature.input(write, name, write.type(name))
    for name in open_arrays:
        signature.default(write, name, graph.data(name))
    write_nodes(write, graph)
    for name in graph.outputs:
        first = signature.moves(name, write.type(name))
        signature.output(write, write.first(name) if first else write.ours(name), name, write.type(name), first)
    return signature.model(write, graph.name, {k: v for k, v in graph.metadata.items() if k != KEPT_ORDER})


class Signature:
    """Inputs and outputs of an ONNX graph, and the model around it."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._onnx = require_onnx()
        self._kept = metadata.get(KEPT_ORDER, "").split(",")
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def moves(self, name: str, t: TensorType) -> bool:
        """Whether one of our tensors is an image that is channels-first in the file."""
        return len(t.shape) == 4 and name not in self._kept

    def input(self, write: OnnxWriter, name: str, t: TensorType, target: str = "", as_is: bool = False) -> None:
        """Declare an input of ours, by another name where `target` is given."""
        first = self.moves(name, t) and not as_is
        write.types[name] = t
        write.give(name, write.fresh(target or name), first)
        self._inputs.append(self._info(target or name, t, first))

    def default(self, write: OnnxWriter, name: str, value: Array | float) -> None:
        """Declare an input that need not be given: an array of ours, or a number."""
        array = np.asarray(value, np.float32) if isinstance(value, float) else value
        write.give(name, write.add_initializer(write.fresh(name), array))
        self._inputs.append(self._info(name, TensorType(tuple(array.shape), str(array.dtype)), False))

    def output(self, write: OnnxWriter, found: str, name: str, t: TensorType, first: bool = False) -> None:
        """Declare an output under a name of its own."""
        if not write.rename(found, name):
            write.nodes.append(self._onnx.helper.make_node("Identity", [found], [name], name=write.fresh(name)))
        self._outputs.append(self._info(name, t, first))

    def model(self, write: OnnxWriter, name: str, metadata: Mapping[str, str] | None = None) -> Any:
        """The whole model, without what nobody reads, checked by ONNX's own checker."""
        helper = self._onnx.helper
        nodes, needed = write.finished({o.name for o in self._outputs})
        inputs = {i.name for i in self._inputs}
        arrays = [a for a in write.initializers if a.name in needed or a.name in inputs]
        model = helper.make_model(
            helper.make_graph(nodes, name, self._inputs, self._outputs, arrays),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="homespun",
        )
        helper.set_model_props(model, dict(metadata or {}))
        if model.ByteSize() < _LARGEST:
            self._onnx.checker.check_model(model)
        return model

    def _info(self, name: str, t: TensorType, first: bool) -> Any:
        shape = tuple(t.shape[i] for i in FIRST) if first else t.shape
        dims = ["batch" if d == FREE else None if d and d % FREE == 0 else d for d in shape]
        return self._onnx.helper.make_tensor_value_info(name, _ELEMENTS[t.dtype], dims)


def write_file(model: Any, path: Path) -> None:
    """Write a model. Raises `ModelError` where it is larger than an ONNX file can be."""
    if model.ByteSize() >= _LARGEST:
        raise ModelError(f"{path}: {model.ByteSize()} bytes do not fit an ONNX file; use weights='int8', or .hsp")
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString())


def check_storage(weights: str, activations: str) -> None:
    """Raise `OptionError` for a way of storing weights or activations that ONNX files don't have here."""
    for name, value in (("weights", weights), ("activations", activations)):
        if value not in ("float32", "int8"):
            raise OptionError(f"{name} is {value!r}; in an .onnx file it can be 'float32' or 'int8'")
    if activations == "int8" != weights:
        raise OptionError("activations='int8' needs weights='int8' too: layers multiply codes with codes")
