"""A graph of the zoo as a PyTorch module: same layers, same weights, same frozen part. See also `onnx_twin.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import homespun as hs


@dataclass
class Call:
    """One node: its module, where it has weights or a mode, and the activations that it reads and writes."""

    op: str
    module: nn.Module | None
    inputs: tuple[str, ...]
    output: str

    def __call__(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        x = values[self.inputs[0]]
        if self.module is not None:
            return self.module(x)
        if self.op == "relu6":
            return functional.relu6(x)
        if self.op == "add":
            return x + values[self.inputs[1]]
        if self.op == "global_average_pool":
            return x.mean((2, 3), keepdim=True)
        if self.op == "flatten":
            return x.flatten(1)
        raise NotImplementedError(self.op)


class Twin(nn.Module):
    """Images are NCHW. Batch norms that are not trained use running statistics, the others the batch's in training."""

    def __init__(self, graph: hs.Graph, trainable: Sequence[str]) -> None:
        super().__init__()
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        self.named: dict[str, nn.Parameter] = {}
        self.frozen: list[Call] = []
        self.trained: list[Call] = []
        reached = set(trainable)
        for node in graph.nodes:
            module = _module(graph, node)
            if module is not None:
                self.add_module(node.name.replace(".", "_"), module)
                names = [n for n in node.inputs if n in graph.parameters()]
                self.named |= dict(zip(names, module.parameters(), strict=True))
            inputs = tuple(n for n in node.inputs if graph.tensors[n].data is None)
            moves = bool(reached.intersection(node.inputs))
            reached.update(node.outputs if moves else ())
            (self.trained if moves else self.frozen).append(Call(node.op, module, inputs, node.outputs[0]))
        for name, parameter in self.named.items():
            parameter.requires_grad_(name in trainable)
        read = {name for call in self.trained for name in call.inputs}
        self.cut = [n for n in (self.input, *(c.output for c in self.frozen)) if n in read]
        self.train()

    def train(self, mode: bool = True) -> Twin:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    @torch.no_grad()
    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the frozen part makes of images: what `forward` takes."""
        values = {self.input: x}
        for call in self.frozen:
            values[call.output] = call(values)
        return [values[name] for name in self.cut]

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        values = dict(zip(self.cut, features, strict=True))
        for call in self.trained:
            values[call.output] = call(values)
        return values[self.output]


@torch.no_grad()
def _module(graph: hs.Graph, node: Any) -> nn.Module | None:
    """A node's module with the graph's weights; None for what is a function."""
    data = [torch.from_numpy(np.array(graph.data(n))) for n in node.inputs if graph.tensors[n].data is not None]
    a = node.attributes
    if node.op == "dropout":
        return nn.Dropout(a["rate"])
    if node.op == "conv2d":
        module: nn.Module = _Convolution(data[0].permute(3, 2, 0, 1), a["stride"], a["groups"], a["padding"])
    elif node.op == "linear":
        module = nn.Linear(*data[0].shape, bias=len(data) > 1)
        data[0] = data[0].T
    elif node.op == "batch_norm":
        module = nn.BatchNorm2d(len(data[0]), a["eps"], a["momentum"])
        module.running_mean.copy_(data.pop(2))
        module.running_var.copy_(data.pop(2))
    else:
        return None
    for mine, value in zip(module.parameters(), data, strict=True):
        mine.copy_(value.permute(3, 2, 0, 1) if value.ndim == 4 else value)
    return module


class _Convolution(nn.Conv2d):
    """Pads as TensorFlow does where `padding` is "same_upper", else by (top, left, bottom, right)."""

    def __init__(self, weight: torch.Tensor, stride: tuple[int, int], groups: int, padding: Any) -> None:
        outputs, inputs, *kernel = weight.shape
        super().__init__(inputs * groups, outputs, tuple(kernel), stride, groups=groups, bias=False)
        self.uneven = padding == "same_upper" and max(stride) > 1
        if not self.uneven:
            self.padding = tuple(k // 2 for k in kernel) if padding == "same_upper" else tuple(padding[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.uneven:
            sides = []
            for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
                total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
                sides += [total // 2, total - total // 2]
            x = functional.pad(x, sides)
        return super().forward(x)
