"""The album's backbone as an ONNX file, so that other engines can be measured on the same network."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from homespun.graph import Graph

OPSET = 17


def to_onnx(graph: Graph) -> bytes:
    """An inference graph of convolutions, batch norms, ReLU6, additions and a pooled output, as ONNX (NCHW)."""
    nodes, weights = [], []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    constant("zero", np.float32(0))
    constant("six", np.float32(6))
    for node in graph.nodes:
        first, (out,) = node.inputs[0], node.outputs
        a = node.attributes
        if node.op == "conv2d":
            weight = graph.tensors[node.inputs[1]].data.astype(np.float32).transpose(3, 2, 0, 1)
            padding = a["padding"]
            placed = {"auto_pad": "SAME_UPPER"} if padding == "same_upper" else {"pads": list(padding)}
            if padding == "valid":
                placed = {"auto_pad": "VALID"}
            inputs = [first, constant(node.inputs[1], weight)]
            shape = {"strides": list(a["stride"]), "group": a["groups"], "kernel_shape": weight.shape[2:]}
            nodes.append(helper.make_node("Conv", inputs, [out], **shape, **placed))
        elif node.op == "batch_norm":
            inputs = [first, *(constant(name, graph.tensors[name].data) for name in node.inputs[1:])]
            nodes.append(helper.make_node("BatchNormalization", inputs, [out], epsilon=a["eps"]))
        elif node.op == "relu6":
            nodes.append(helper.make_node("Clip", [first, "zero", "six"], [out]))
        elif node.op == "add":
            nodes.append(helper.make_node("Add", list(node.inputs), [out]))
        elif node.op == "global_average_pool":
            nodes.append(helper.make_node("GlobalAveragePool", [first], [out]))
        elif node.op == "flatten":
            nodes.append(helper.make_node("Flatten", [first], [out]))
        else:
            raise ValueError(f"{node}: this benchmark does not know how to write it")
    (source,) = graph.inputs
    _, height, width, channels = graph.tensors[source].shape
    takes = helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", channels, height, width])
    gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "features"]) for name in graph.outputs]
    body = helper.make_graph(nodes, graph.name, [takes], gives, weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
