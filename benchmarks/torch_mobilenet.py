"""MobileNetV2 as a PyTorch module: the peer of training benchmarks."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def mobilenet_v2() -> nn.Sequential:
    """Sandler et al. 2018, table 2, in training mode: stem, 17 blocks, head, classifier of 1,000 classes."""

    def layer(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]

    layers: list[nn.Module] = [nn.Sequential(*layer(3, 32, 3, 2))]
    inputs = 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, outputs, repeats, first_stride in stages:
        for i in range(repeats):
            stride, hidden = first_stride if i == 0 else 1, inputs * expansion
            expand = layer(inputs, hidden) if expansion > 1 else []
            block = [*expand, *layer(hidden, hidden, 3, stride, hidden), *layer(hidden, outputs)[:2]]
            layers.append(Residual(*block) if stride == 1 and inputs == outputs else nn.Sequential(*block))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, nn.Sequential(*layer(320, 1280)), *head).train()
