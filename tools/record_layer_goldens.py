"""Records which layers reference implementations have at full size: every convolution and linear layer with its shapes.

    python tools/record_layer_goldens.py    # needs what record_goldens.py needs, and transformers

Nothing is computed: the networks are on PyTorch's "meta" device, which has shapes only. Writes
tests/zoo/goldens/layers.npz: by network `NAME` a table of integers, a row for each kind of layer: how many of it there
are, height and width of its output, input channels of a group, output channels, height and width of its window; and
`NAME/parameters`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
import transformers
from efficientnet_lite_pytorch import EfficientNet
from pytorchcv.models.shufflenet import get_shufflenet
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from record_goldens import YOLO, ZOO, PaperGoogLeNet, yolo

TOKENS = 128
#: torchvision's, by their sizes.
TORCHVISION = {
    "mobilenet_v2": 224,
    "mobilenet_v3_small": 224,
    "mobilenet_v3_large": 224,
    "efficientnet_b0": 224,
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "densenet121": 224,
    "densenet169": 224,
}


def networks() -> dict[str, tuple[nn.Module, int]]:
    """Every network of the zoo as its reference implementation has it, and the size of its images."""
    found = {name: (getattr(torchvision.models, name)(), size) for name, size in TORCHVISION.items()}
    for lite, size in enumerate((224, 240, 260, 280, 300)):
        net = EfficientNet.from_name(f"efficientnet-lite{lite}", image_size=size)
        found[f"efficientnet_lite{lite}"] = net, size
    found["mobilenet_v1"] = timm.create_model("mobilenetv1_100", pad_type="same"), 224
    found["shufflenet_v1"] = get_shufflenet(groups=3, width_scale=1.0), 224
    found["shufflenet_v2"] = torchvision.models.shufflenet_v2_x1_0(), 224
    found["googlenet"] = torchvision.models.googlenet(aux_logits=False, init_weights=False), 224
    paper = PaperGoogLeNet()
    paper.aux_logits, paper.aux1, paper.aux2 = False, None, None
    found["googlenet, response"] = paper, 224
    found["yolov3"] = yolo(YOLO["full"], 1, 80), 416
    found["yolov3_tiny"] = yolo(YOLO["tiny"], 1, 80), 416
    for layers, width, hidden in ((4, 312, 1200), (6, 768, 3072)):
        config = transformers.BertConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=hidden
        )
        found[f"tinybert, {layers} layers"] = transformers.BertForSequenceClassification(config), TOKENS
    return found


def layers_of(net: nn.Module, size: int) -> Counter[tuple[int, ...]]:
    """How many layers of each kind compute an output of one image, or of one sentence."""
    found: Counter[tuple[int, ...]] = Counter()

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs, group, *window = module.weight.shape
            found[(*output.shape[2:], group, outputs, *window)] += 1
        elif isinstance(module, nn.Linear):
            rows = output.shape[1] if output.ndim == 3 else 1
            found[(rows, 1, module.in_features, module.out_features, 1, 1)] += 1

    for module in net.modules():
        module.register_forward_hook(see)
    if isinstance(net, transformers.PreTrainedModel):
        net(input_ids=torch.zeros(1, size, dtype=torch.long, device="meta"))
    else:
        net(torch.zeros(1, 3, size, size, device="meta"))
    return found


def main() -> None:
    record: dict[str, np.ndarray] = {}
    for name, (net, size) in networks().items():
        record[f"{name}/parameters"] = np.array(sum(p.numel() for p in net.parameters()))
        net = net.to("meta")
        found = layers_of(net.train() if name.startswith("yolo") else net.eval(), size)
        record[name] = np.array(sorted((count, *layer) for layer, count in found.items()), np.int32)
        print(name, int(record[f"{name}/parameters"]), len(record[name]))
    np.savez_compressed(ZOO / "layers.npz", **record)


if __name__ == "__main__":
    main()
