"""A MobileNetV2 training step in onnxruntime-training, for training_step.py: `onnxruntime_step.py BATCH THREADS`.

Its training library takes an ONNX model, appends loss, gradients and optimizer ahead of time, and runs from files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from turns import Step, serve


class Network:
    """MobileNetV2 (Sandler et al. 2018, table 2), written down as ONNX nodes with batch norm in training mode."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def array(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, op: str, inputs: list[str], **given: object) -> str:
        output = f"{op}{len(self.nodes)}"
        extra = [f"{output}/{n}" for n in ("mean", "variance")] if op == "BatchNormalization" else []
        self.nodes.append(helper.make_node(op, inputs, [output, *extra], name=output, **given))
        return output

    def layer(self, x: str, ins: int, outs: int, k: int, stride: int, groups: int, clips: bool = True) -> str:
        name = f"layer{len(self.nodes)}"
        scale = np.sqrt(2 / (k * k * ins / groups))
        w = self.array(f"{name}.weight", scale * self.random.standard_normal((outs, ins // groups, k, k)))
        x = self.add("Conv", [x, w], kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=groups)
        norm = [self.array(f"{name}.{n}", v * np.ones(outs)) for n, v in
                (("gamma", 1), ("beta", 0), ("running_mean", 0), ("running_var", 1))]  # fmt: skip
        x = self.add("BatchNormalization", [x, *norm], training_mode=1)
        return self.add("Clip", [x, "zero", "six"]) if clips else x

    def block(self, x: str, ins: int, outs: int, stride: int, expansion: int) -> str:
        hidden = ins * expansion
        y = self.layer(x, ins, hidden, 1, 1, 1) if expansion > 1 else x
        y = self.layer(y, hidden, hidden, 3, stride, hidden)
        y = self.layer(y, hidden, outs, 1, 1, 1, clips=False)
        return self.add("Add", [x, y]) if stride == 1 and ins == outs else y

    def model(self, batch: int) -> onnx.ModelProto:
        self.array("zero", 0.0), self.array("six", 6.0)
        x, ins = self.layer("image", 3, 32, 3, 2, 1), 32
        stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                  (6, 320, 1, 1)]  # fmt: skip
        for expansion, outs, repeats, first in stages:
            for i in range(repeats):
                x = self.block(x, ins, outs, first if i == 0 else 1, expansion)
                ins = outs
        x = self.add("Flatten", [self.add("GlobalAveragePool", [self.layer(x, 320, 1280, 1, 1, 1)])])
        w = self.array("classifier.weight", 0.01 * self.random.standard_normal((1000, 1280)))
        x = self.add("Gemm", [x, w, self.array("classifier.bias", np.zeros(1000))], transB=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 224, 224])
        logits = helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, 1000])
        graph = helper.make_graph(self.nodes, "mobilenet_v2", [image], [logits], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def build(batch: int, threads: int) -> Step:
    import onnxruntime
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    model = Network().model(batch)
    names = [t.name for t in model.graph.initializer]
    fixed = [n for n in names if "running" in n or n in ("zero", "six")]
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model, requires_grad=[n for n in names if n not in fixed], frozen_params=fixed,
            loss=artifacts.LossType.CrossEntropyLoss, optimizer=artifacts.OptimType.SGD, artifact_directory=folder,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        state = CheckpointState.load_checkpoint(str(Path(folder) / "checkpoint"))
        module = Module(str(Path(folder) / "training_model.onnx"), state, session_options=options)
        optimizer = Optimizer(str(Path(folder) / "optimizer_model.onnx"), module)
    module.train()
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 3, 224, 224), np.float32)
    y = random.integers(0, 1000, batch)

    def step() -> None:
        module(x, y)
        optimizer.step()
        module.lazy_reset_grad()

    return step


if __name__ == "__main__":
    serve("onnxruntime", lambda: build(int(sys.argv[1]), int(sys.argv[2])))
