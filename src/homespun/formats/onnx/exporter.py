"""From a `Graph` to an ONNX file: every operator writes itself (`to_onnx`), inputs and outputs get their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homespun.errors import ModelError, OptionError
from homespun.formats.atomic import replacing
from homespun.formats.onnx.importer import FREE, KEPT_ORDER
from homespun.formats.onnx.reading import require_onnx
from homespun.formats.onnx.writer import FIRST, OPSET, OnnxWriter
from homespun.graph import Array, Graph, TensorType, infer
from homespun.graph.operator import OPERATORS, operator

#: Of the file format itself: what came with operator set 17.
_IR_VERSION = 8
#: Weights beyond this can't be in the file itself, which protobuf limits to 2 GiB.
_LARGEST = 2**31 - 2**20
_ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}


def check_exportable(graph: Graph) -> None:
    """Raise `ModelError` that lists all nodes whose operators have no form in ONNX."""
    missing = [n for n in graph.nodes if operator(n).to_onnx is None]
    if missing:
        names = ", ".join(str(n) for n in missing[:10]) + (", ..." if len(missing) > 10 else "")
        kinds = ", ".join(sorted({n.op for n in missing}))
        raise ModelError(f"{graph.name}: can't be written as ONNX: no rule for {kinds}: {names}")


def write_nodes(write: OnnxWriter, graph: Graph) -> None:
    """Write every node by its operator's rule."""
    check_exportable(graph)
    for node in graph.nodes:
        write.begin(node)
        rule = OPERATORS[node.op].to_onnx
        assert rule is not None
        rule(write, node)


def as_model(graph: Graph, codes: Mapping[str, tuple[Array, Array]] | None = None) -> Any:
    """The network as an ONNX `ModelProto`; images are channels-first unless they came channels-last from ONNX."""
    onnx = require_onnx()
    types = infer(graph, FREE)
    write = OnnxWriter(graph, types, codes)
    kept = graph.metadata.get(KEPT_ORDER, "").split(",")
    inputs = []
    for name in graph.inputs:
        first = len(types[name].shape) == 4 and name not in kept
        write.give(name, write.fresh(name), first)
        inputs.append(value_info(name, types[name], first))
    write_nodes(write, graph)
    outputs = [output(write, name, name not in kept) for name in graph.outputs]
    proto = onnx.helper.make_graph(write.nodes, graph.name, inputs, outputs, write.initializers)
    return finished(proto, {k: v for k, v in graph.metadata.items() if k != KEPT_ORDER})


def output(write: OnnxWriter, name: str, first: bool = True, target: str = "") -> Any:
    """Declare an output under our name, images channels-first where asked; returns its description."""
    target = target or name
    t = write.type(name)
    first = first and len(t.shape) == 4
    found = write.first(name) if first else write.ours(name)
    if found != target and not write.rename(found, target):
        write.nodes.append(require_onnx().helper.make_node("Identity", [found], [target], name=write.fresh(target)))
    return value_info(target, t, first)


def value_info(name: str, t: TensorType, first: bool) -> Any:
    """The description of an input or output: name, dtype and shape."""
    onnx = require_onnx()
    shape = tuple(t.shape[i] for i in FIRST) if first else t.shape
    dims = ["batch" if d == FREE else None if d % FREE == 0 and d else d for d in shape]
    return onnx.helper.make_tensor_value_info(name, _ELEMENTS[t.dtype], dims)


def finished(graph: Any, metadata: Mapping[str, str]) -> Any:
    """The model around a graph, checked by ONNX's own checker."""
    onnx = require_onnx()
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="homespun"
    )
    onnx.helper.set_model_props(model, dict(metadata))
    if model.ByteSize() < _LARGEST:
        onnx.checker.check_model(model)
    return model


def write_file(model: Any, path: Path) -> None:
    """Write a model. Raises `ModelError` where it is larger than an ONNX file can be."""
    if model.ByteSize() >= _LARGEST:
        raise ModelError(f"{path}: {model.ByteSize()} bytes do not fit an ONNX file; use weights='int8', or .hsp")
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString())


def check_weights(weights: str) -> None:
    """Raise `OptionError` for a way of storing weights that ONNX files don't have here."""
    if weights not in ("float32", "int8"):
        raise OptionError(f"weights is {weights!r}; in an .onnx file it can be 'float32' or 'int8'")
