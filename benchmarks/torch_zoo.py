"""The zoo's networks as PyTorch's users have them (torchvision, timm, pytorchcv, transformers; YOLOv3 is
written down here), and a
training step of each: the other side of `zoo.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

#: By torchvision's name, where it has one of its own.
_TORCHVISION = {"shufflenet_v2": "shufflenet_v2_x1_0"}


def network(name: str) -> nn.Module:
    kind = name.split(",")[0]
    if kind == "tinybert":
        return _Bert(int(name.split()[1]))
    if kind.startswith("yolo"):
        return _Yolo(kind)
    if kind == "shufflenet_v1":
        from pytorchcv.models.shufflenet import get_shufflenet

        return get_shufflenet(groups=3, width_scale=1.0)
    if kind == "mobilenet_v1" or "_lite" in kind:
        import timm

        return timm.create_model({"mobilenet_v1": "mobilenetv1_100"}.get(kind, kind), drop_rate=0.2)
    import torchvision

    if kind == "googlenet":
        return _paper_googlenet() if "response" in name else torchvision.models.googlenet(
            aux_logits=False, init_weights=False
        )  # fmt: skip
    return getattr(torchvision.models, _TORCHVISION.get(kind, kind))()  # EfficientNet with stochastic depth


class _Bert(nn.Module):
    """TinyBERT with its classifier."""

    def __init__(self, layers: int) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        width, hidden = {4: (312, 1200), 6: (768, 3072)}[layers]
        self.bert = BertForSequenceClassification(
            BertConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=hidden)
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).logits


def _paper_googlenet() -> nn.Module:
    """torchvision's with the paper's layers: biases and local response norms, 5x5 windows."""
    from torchvision.models.googlenet import GoogLeNet, Inception, InceptionAux

    class Activated(nn.Module):
        def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, **options)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.relu(self.conv(x), inplace=True)

    class Module(Inception):
        def __init__(self, inputs: int, *channels: int) -> None:
            super().__init__(inputs, *channels, conv_block=Activated)
            self.branch3[1] = Activated(channels[3], channels[4], kernel_size=5, padding=2)

    heads = functools.partial(InceptionAux, conv_block=Activated)
    net = GoogLeNet(aux_logits=False, init_weights=False, blocks=[Activated, Module, heads], dropout=0.4)
    response = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    net.maxpool1, net.maxpool2 = nn.Sequential(net.maxpool1, response), nn.Sequential(response, net.maxpool2)
    net.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return net


class _Filter(nn.Sequential):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True))


class _Unit(nn.Sequential):
    """Darknet-53's residual unit."""

    def __init__(self, channels: int) -> None:
        super().__init__(_Filter(channels, channels // 2), _Filter(channels // 2, channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class _Scale(nn.Module):
    """What makes one of the maps: from the features of the scale before, larger, beside finer ones."""

    def __init__(self, coarse: int, fine: int, filters: int, body: list[nn.Module], last: list[nn.Module]) -> None:
        super().__init__()
        self.lateral = _Filter(coarse, filters) if fine else nn.Identity()
        self.body, self.last = nn.Sequential(*body), nn.Sequential(*last)

    def forward(self, x: torch.Tensor, beside: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(features for the next scale, the map)."""
        if beside is not None:
            x = torch.cat([functional.interpolate(self.lateral(x), scale_factor=2.0), beside], 1)
        x = self.body(x)
        y = self.last(x)
        n, channels, rows, columns = y.shape
        return x, y.reshape(n, 3, channels // 3, rows, columns).permute(0, 1, 3, 4, 2)


class _Yolo(nn.Module):
    """The maps as they are before they are decoded, coarsest first, (N, boxes, rows, columns, 5 + classes)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stages, self.scales = nn.ModuleList(), nn.ModuleList()
        if kind == "yolov3_tiny":
            pools = [nn.MaxPool2d(2, 2) for _ in range(5)]
            pools += [nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)), nn.Identity()]
            steps = [nn.Sequential(_Filter(i, o, 3)) for i, o in zip((3, *_TINY), _TINY, strict=False)]
            self.stages.append(
                nn.Sequential(*(m for pair in zip(steps[:4], pools, strict=False) for m in pair), steps[4])
            )
            self.stages.append(nn.Sequential(pools[4], steps[5], pools[5], steps[6]))
            self.scales.append(_Scale(0, 0, 0, [_Filter(1024, 256)], [_Filter(256, 512, 3), nn.Conv2d(512, 255, 1)]))
            self.scales.append(_Scale(256, 256, 128, [], [_Filter(384, 256, 3), nn.Conv2d(256, 255, 1)]))
            return
        channels, layers = 32, [_Filter(3, 32, 3)]
        for units in (1, 2, 8, 8, 4):
            layers += [_Filter(channels, 2 * channels, 3, 2), *(_Unit(2 * channels) for _ in range(units))]
            channels *= 2
            self.stages.append(nn.Sequential(*layers))
            layers = []
        coarse, fine, inputs = 0, 0, 1024
        for filters in (512, 256, 128):
            body = [_Filter(inputs, filters), _Filter(filters, 2 * filters, 3)]
            body += [_Filter(2 * filters, filters), _Filter(filters, 2 * filters, 3), _Filter(2 * filters, filters)]
            last = [_Filter(filters, 2 * filters, 3), nn.Conv2d(2 * filters, 255, 1)]
            self.scales.append(_Scale(coarse, fine, filters, body, last))
            coarse, fine = filters, filters
            inputs = filters // 2 + filters

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen: list[torch.Tensor | None] = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        maps = []
        for scale, beside in zip(self.scales, [None, *reversed(seen[:-1])], strict=False):
            x, found = scale(x, beside)
            maps.append(found)
        return maps


_TINY = (16, 32, 64, 128, 256, 512, 1024)
_ANCHORS = {
    "yolov3": (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326),
    "yolov3_tiny": (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319),
}


def _yolo_loss(kind: str, objects: np.ndarray) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    """YOLOv3's loss: box, objectness where nothing is, classes, as `homespun.losses.Yolo` has it."""
    anchors = torch.tensor(_ANCHORS[kind], dtype=torch.float32).reshape(-1, 2) / 416
    truths = [torch.from_numpy(rows[rows[:, 0] >= 0]) for rows in objects]

    def share(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        low = torch.maximum(boxes[..., None, :2] - boxes[..., None, 2:] / 2, others[:, :2] - others[:, 2:] / 2)
        high = torch.minimum(boxes[..., None, :2] + boxes[..., None, 2:] / 2, others[:, :2] + others[:, 2:] / 2)
        both = (high - low).clamp(min=0).prod(-1)
        return both / (boxes[..., 2:].prod(-1)[..., None] + others[:, 2:].prod(-1) - both)

    def loss(maps: list[torch.Tensor]) -> torch.Tensor:
        cross, total = functional.binary_cross_entropy_with_logits, torch.zeros(())
        for scale, z in enumerate(maps):
            z = z.float()
            first = len(anchors) - 3 * (scale + 1)
            own = anchors[first : first + 3]
            _, _, high, wide, _ = z.shape
            size, grid = torch.tensor([wide, high]), torch.stack(
                torch.meshgrid(torch.arange(wide), torch.arange(high), indexing="xy"), -1
            )  # fmt: skip
            with torch.no_grad():
                boxes = torch.cat([(z[..., :2].sigmoid() + grid) / size, z[..., 2:4].exp() * own[:, None, None]], -1)
                empty = torch.stack([(share(b, t[:, 1:]) <= 0.7).all(-1) for b, t in zip(boxes, truths, strict=True)])
            for n, rows in enumerate(truths):
                for row in rows:
                    shapes = torch.cat([torch.zeros_like(anchors), anchors], 1)
                    best = int(share(torch.cat([torch.zeros(2), row[3:]]), shapes).argmax()) - first
                    if not 0 <= best < 3:
                        continue
                    at = (row[1:3] * size).long()
                    found, weight = z[n, best, at[1], at[0]], 2 - row[3] * row[4]
                    empty[n, best, at[1], at[0]] = False
                    total = total + weight * cross(found[:2], row[1:3] * size - at, reduction="sum")
                    total = total + weight * 0.5 * (found[2:4] - (row[3:] / own[best]).log()).square().sum()
                    labels = functional.one_hot(row[0].long(), z.shape[-1] - 5).float()
                    total = total + functional.softplus(-found[4]) + cross(found[5:], labels, reduction="sum")
            total = total + (functional.softplus(z[..., 4]) * empty).sum()
        return total / len(truths)

    return loss


def freeze(net: nn.Module, name: str, trained: int) -> None:
    """All but the last layers, which have so many parameters together; norms that are frozen use running statistics."""
    parameters = list(net.named_parameters())
    kept: list[str] = []
    if isinstance(net, _Yolo) and trained < 1_000_000:
        kept = [n for i, scale in enumerate(net.scales) for n in _last(scale, f"scales.{i}.last")]
    while sum(net.get_parameter(n).numel() for n in kept) < trained:
        kept.append(parameters[-1 - len(kept)][0])
    if sum(net.get_parameter(n).numel() for n in kept) != trained:
        raise ValueError(f"{name}: no number of last layers has {trained} parameters; the networks differ")
    for parameter, value in parameters:
        value.requires_grad_(parameter in kept)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def _last(scale: nn.Module, name: str) -> list[str]:
    """Names of the parameters of the convolution that gives a map."""
    return [f"{name}.{len(scale.last) - 1}.{part}" for part in ("weight", "bias")]


def step_of(
    name: str,
    precision: str,
    threads: int,
    channels_last: bool,
    trained: int,
    inputs: list[np.ndarray],
    targets: np.ndarray,
) -> Callable[[], None]:
    """A training step of the network, its last `trained` parameters with it."""
    torch.set_num_threads(threads)
    net = network(name).train()
    freeze(net, name, trained)
    x = [torch.from_numpy(a) for a in inputs]
    if x[0].ndim == 4:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        net, x = net.to(memory_format=layout), [a.permute(0, 3, 1, 2).contiguous(memory_format=layout) for a in x]
    if name.startswith("yolo"):
        loss_of: Callable[[Any], torch.Tensor] = _yolo_loss(name, targets)
    else:
        loss_of = functools.partial(functional.cross_entropy, target=torch.from_numpy(targets))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            output = net(*x)
            loss = loss_of(output)
        loss.backward()
        optimizer.step()

    return step
