"""ONNX models made for tests, and onnxruntime's word on what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import homespun as hs
from homespun.graph import Array, Graph

OPSET = 17


class Made:
    """Collects nodes and weights; every method gives the name of its result."""

    def __init__(self, shape: Sequence[Any], opset: int = OPSET, name: str = "x") -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))]
        self.opset = opset
        self.random = np.random.default_rng(0)

    def op(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        stem = f"{op}_{len(self.nodes)}"
        out = [f"{stem}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), out, name=name or stem, **attributes))
        return out[0] if outputs == 1 else out

    def weight(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.array(self.random.uniform(low, high, shape).astype(np.float32))

    def array(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def number(self, value: float) -> str:
        return self.array(np.float32(value))

    def ints(self, *values: int) -> str:
        return self.array(np.asarray(values, np.int64))

    def model(self, *outputs: str) -> Any:
        infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "made", self.inputs, infos, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def run_onnx(model: Any, feeds: Mapping[str, Array], optimised: bool = False) -> list[Array]:
    raw = model if isinstance(model, bytes | str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def load(model: Any, folder: Path, **options: Any) -> Graph:
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return hs.load(path, **options)


def first_last(x: Array) -> Array:
    """An image (N, C, H, W) as (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def predict(graph: Graph, *inputs: Array) -> list[Array]:
    result = hs.Predictor(graph, batch=inputs[0].shape[0])(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def close(got: Array, want: Array, tolerance: float = 2e-5) -> None:
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)


def agree(model: Any, folder: Path, x: Array, *, tolerance: float = 2e-5) -> Graph:
    """Load a model and hold it against onnxruntime, for the batch of `x` and, where it is free, another."""
    graph = load(model, folder)
    name = graph.inputs[0]
    free = graph.tensors[name].shape[0] == -1
    declared = model.graph.input[0].type.tensor_type.shape.dim[0]
    for batch in {x.shape[0], 3} if free and not declared.dim_value else {x.shape[0]}:
        given = np.resize(x, (batch, *x.shape[1:]))
        want = run_onnx(model, {name: given})
        as_in_file = graph.metadata.get("onnx.channels_last", "").split(",")
        got = predict(graph, given if name in as_in_file else first_last(given))
        for output, a, b in zip(graph.outputs, got, want, strict=True):
            close(a, b if output in as_in_file else first_last(b), tolerance)
    return graph
