"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2)."""

from __future__ import annotations

from homespun.graph import Graph
from homespun.zoo.layers import IMAGENET, ImageSize, Style, begin, classify, conv_norm, divisible, inverted_residual
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: (expansion, output channels, blocks, stride of the first), table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STYLE = Style()

#: torchvision's names. Its `features.1` has no expansion; `features.18` is the last convolution.
RENAMES: Renames = (
    (r"features\.0\.0\.", r"stem.conv."),
    (r"features\.0\.1\.", r"stem.norm."),
    (r"features\.18\.0\.", r"head.conv."),
    (r"features\.18\.1\.", r"head.norm."),
    (r"features\.1\.conv\.0\.0\.", r"blocks.0.depthwise.conv."),
    (r"features\.1\.conv\.0\.1\.", r"blocks.0.depthwise.norm."),
    (r"features\.1\.conv\.1\.", r"blocks.0.project.conv."),
    (r"features\.1\.conv\.2\.", r"blocks.0.project.norm."),
    (r"features\.(\d+)\.conv\.0\.0\.", r"blocks.{0-1}.expand.conv."),
    (r"features\.(\d+)\.conv\.0\.1\.", r"blocks.{0-1}.expand.norm."),
    (r"features\.(\d+)\.conv\.1\.0\.", r"blocks.{0-1}.depthwise.conv."),
    (r"features\.(\d+)\.conv\.1\.1\.", r"blocks.{0-1}.depthwise.norm."),
    (r"features\.(\d+)\.conv\.2\.", r"blocks.{0-1}.project.conv."),
    (r"features\.(\d+)\.conv\.3\.", r"blocks.{0-1}.project.norm."),
    (r"classifier\.1\.", r"classifier."),
)


def mobilenet_v2(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.2,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """MobileNetV2; `width` multiplies channels, rounded to multiples of 8; the last 1280 grow with it but never shrink.

    Pads symmetrically and normalises with eps 1e-5, as torchvision does, whose weights it takes.
    """
    build, x = begin("mobilenet_v2", image_size, seed, IMAGENET)
    channels = divisible(32 * width)
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    index = 0
    for expand, wide, blocks, stride in _STAGES:
        outputs = divisible(wide * width)
        for block in range(blocks):
            x = inverted_residual(
                build,
                x,
                f"blocks.{index}",
                channels,
                outputs,
                _STYLE,
                wide=channels * expand,
                stride=stride if block == 0 else 1,
            )
            channels, index = outputs, index + 1
    last = divisible(1280 * max(1.0, width))
    x = conv_norm(build, x, "head", channels, last, _STYLE)
    return load_weights(classify(build, x, last, classes, dropout), weights, RENAMES)
