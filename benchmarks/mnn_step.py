"""A MobileNetV2 training step in MNN, for training_step.py: `mnn_step.py BATCH THREADS`."""

from __future__ import annotations

import sys

import MNN
import MNN.expr as F  # noqa: N812
import numpy as np
from MNN import nn, optim

from turns import Step, serve


class Layer(nn.Module):
    """Convolution, batch norm and, where it `clips`, ReLU6."""

    def __init__(self, ins: int, outs: int, k: int, stride: int, groups: int, clips: bool = True) -> None:
        super().__init__()
        self.conv = nn.conv(ins, outs, [k, k], [stride] * 2, [k // 2] * 2, [1, 1], groups == ins > 1, False,
                            F.Padding_Mode.SAME)  # fmt: skip
        self.norm, self.clips = nn.batch_norm(outs), clips

    def forward(self, x: MNN.expr.Var) -> MNN.expr.Var:
        y = self.norm.forward(self.conv.forward(x))
        return F.relu6(y) if self.clips else y


class Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = ins * expansion
        self.expand = Layer(ins, hidden, 1, 1, 1) if expansion > 1 else None
        self.depthwise = Layer(hidden, hidden, 3, stride, hidden)
        self.project = Layer(hidden, outs, 1, 1, 1, clips=False)
        self.adds = stride == 1 and ins == outs

    def forward(self, x: MNN.expr.Var) -> MNN.expr.Var:
        y = self.project.forward(self.depthwise.forward(self.expand.forward(x) if self.expand is not None else x))
        return x + y if self.adds else y


class Network(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, table 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, ins, self.blocks = Layer(3, 32, 3, 2, 1), 32, []
        stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                  (6, 320, 1, 1)]  # fmt: skip
        for expansion, outs, repeats, first in stages:
            for i in range(repeats):
                name = f"block{len(self.blocks)}"
                setattr(self, name, Block(ins, outs, first if i == 0 else 1, expansion))  # registers its parameters
                self.blocks.append(name)
                ins = outs
        self.head, self.classifier = Layer(320, 1280, 1, 1, 1), nn.linear(1280, 1000)

    def forward(self, x: MNN.expr.Var) -> MNN.expr.Var:
        x = self.stem.forward(x)
        for name in self.blocks:
            x = getattr(self, name).forward(x)
        x = F.avg_pool(self.head.forward(x), [7, 7], [1, 1])
        return F.softmax(self.classifier.forward(F.reshape(F.convert(x, F.NCHW), [0, 1280])), -1)


def build(batch: int, threads: int) -> Step:
    F.set_thread_number(threads)
    network = Network()
    network.train(True)
    optimizer = optim.SGD(network, 0.01, 0.9)
    random = np.random.default_rng(0)
    images = F.convert(F.const(random.standard_normal((batch, 3, 224, 224), np.float32), [batch, 3, 224, 224], F.NCHW),
                       F.NC4HW4)  # fmt: skip
    labels = F.const(random.integers(0, 1000, batch).astype(np.int32), [batch], F.NCHW, F.int)

    def step() -> None:
        loss = nn.loss.cross_entropy(network.forward(images), F.one_hot(labels, 1000))
        optimizer.step(loss)
        loss.read()

    return step


if __name__ == "__main__":
    serve("MNN", lambda: build(int(sys.argv[1]), int(sys.argv[2])))
