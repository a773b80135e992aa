"""The twin of an inference graph as an ONNX file, so that peers run the very same network with the very same weights.

Only what the benchmarked networks consist of after norms are folded: convolutions, additions, pooling, linear layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from homespun.compile.passes import drop_inference_identities, fold_batch_norm, fuse_activation, fuse_residual
from homespun.graph import Graph, infer
from homespun.graph.operator import attributes
from homespun.ops.convolution import padding_of


def write_onnx(model: Graph, path: Path, batch: int) -> None:
    """Writes `model`, folded for inference, for a fixed batch size. Inputs stay NHWC; a transpose leads in."""
    graph = model.copy()
    for simplify in (drop_inference_identities, fold_batch_norm, fuse_residual, fuse_activation):
        simplify(graph)
    types = infer(graph, batch)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def emit(op: str, inputs: list[str], output: str, **given: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **given))
        return output

    def activated(node_output: str, kind: str) -> str:
        """Name for the value before the activation; the activation is emitted by `finish`."""
        return node_output if kind == "none" else node_output + "/linear"

    def finish(node_output: str, kind: str) -> None:
        source = node_output + "/linear"
        if kind == "relu6":
            bounds = [constant(f"{node_output}/{n}", np.float32(n)) for n in (0, 6)]
            emit("Clip", [source, *bounds], node_output)
        elif kind == "relu":
            emit("Relu", [source], node_output)
        elif kind != "none":
            raise ValueError(f"activation {kind} has no twin here")

    name_of = {graph.inputs[0]: emit("Transpose", [graph.inputs[0]], "image/nchw", perm=[0, 3, 1, 2])}

    def read(name: str) -> str:
        return name_of.get(name, name)

    for node in graph.nodes:
        a, out = attributes(node), node.outputs[0]
        kind = str(a.get("activation", "none"))
        target = activated(out, kind)
        x, *rest = node.inputs
        if node.op == "conv2d":
            w = graph.data(rest[0])
            top, left, bottom, right = padding_of(a, types[x].shape[1:3], w.shape[:2])
            inputs = [read(x), constant(out + "/w", w.transpose(3, 2, 0, 1))]
            if len(rest) > 1 and rest[1]:
                inputs.append(constant(out + "/b", graph.data(rest[1])))
            residual = rest[2] if len(rest) > 2 else ""
            emit("Conv", inputs, target + ("/conv" if residual else ""), strides=a["stride"], dilations=a["dilation"],
                 pads=[top, left, bottom, right], group=a["groups"])  # fmt: skip
            if residual:
                emit("Add", [target + "/conv", read(residual)], target)
        elif node.op == "add":
            emit("Add", [read(x), read(rest[0])], target)
        elif node.op == "global_average_pool":
            emit("GlobalAveragePool", [read(x)], target)
        elif node.op in ("flatten", "reshape"):
            emit("Flatten", [read(x)], target)
        elif node.op == "linear":
            flat = emit("Flatten", [read(x)], out + "/flat")
            inputs = [flat, constant(out + "/w", graph.data(rest[0]))]
            emit(
                "Gemm",
                inputs + ([constant(out + "/b", graph.data(rest[1]))] if len(rest) > 1 and rest[1] else []),
                target,
            )
        else:
            raise ValueError(f"operator {node.op} has no twin here")
        finish(out, kind)

    image, output = graph.inputs[0], graph.outputs[0]
    value = helper.make_tensor_value_info
    proto = helper.make_graph(
        nodes, graph.name, [value(image, TensorProto.FLOAT, types[image].shape)],
        [value(output, TensorProto.FLOAT, types[output].shape)], weights,
    )  # fmt: skip
    model_proto = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model_proto)
    onnx.save(model_proto, str(path))
