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

#: torchvision's names, and those of MindSpore's model zoo, which puts `features` and parts' own names between. Block
#: `features.1` has no expansion; `features.18` is the last convolution.
_TORCHVISION: Renames = (
    (r"(?:backbone\.)?features\.0\.(?:features\.)?0\.", r"stem.conv."),
    (r"(?:backbone\.)?features\.0\.(?:features\.)?1\.", r"stem.norm."),
    (r"(?:backbone\.)?features\.18\.(?:features\.)?0\.", r"head.conv."),
    (r"(?:backbone\.)?features\.18\.(?:features\.)?1\.", r"head.norm."),
    (r"(?:backbone\.)?features\.1\.conv\.0\.(?:features\.)?0\.", r"blocks.0.depthwise.conv."),
    (r"(?:backbone\.)?features\.1\.conv\.0\.(?:features\.)?1\.", r"blocks.0.depthwise.norm."),
    (r"(?:backbone\.)?features\.1\.conv\.1\.", r"blocks.0.project.conv."),
    (r"(?:backbone\.)?features\.1\.conv\.2\.", r"blocks.0.project.norm."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.0\.(?:features\.)?0\.", r"blocks.{0-1}.expand.conv."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.0\.(?:features\.)?1\.", r"blocks.{0-1}.expand.norm."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.1\.(?:features\.)?0\.", r"blocks.{0-1}.depthwise.conv."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.1\.(?:features\.)?1\.", r"blocks.{0-1}.depthwise.norm."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.2\.", r"blocks.{0-1}.project.conv."),
    (r"(?:backbone\.)?features\.(\d+)\.conv\.3\.", r"blocks.{0-1}.project.norm."),
    (r"classifier\.1\.|(?:head\.)?head\.[12]\.|head\.dense\.", r"classifier."),
)
#: MindCV's names: convolutions, norms and blocks in one row, `features.3` the first block, 20 and 21 the last layer.
_MINDCV: Renames = (
    (r"features\.0\.(?=weight)", r"stem.conv."),
    (r"features\.1\.(?=weight|bias|running)", r"stem.norm."),
    (r"features\.20\.", r"head.conv."),
    (r"features\.21\.", r"head.norm."),
    (r"features\.3\.layers\.0\.", r"blocks.0.depthwise.conv."),
    (r"features\.3\.layers\.1\.", r"blocks.0.depthwise.norm."),
    (r"features\.3\.layers\.3\.", r"blocks.0.project.conv."),
    (r"features\.3\.layers\.4\.", r"blocks.0.project.norm."),
    (r"features\.(\d+)\.layers\.0\.", r"blocks.{0-3}.expand.conv."),
    (r"features\.(\d+)\.layers\.1\.", r"blocks.{0-3}.expand.norm."),
    (r"features\.(\d+)\.layers\.3\.", r"blocks.{0-3}.depthwise.conv."),
    (r"features\.(\d+)\.layers\.4\.", r"blocks.{0-3}.depthwise.norm."),
    (r"features\.(\d+)\.layers\.6\.", r"blocks.{0-3}.project.conv."),
    (r"features\.(\d+)\.layers\.7\.", r"blocks.{0-3}.project.norm."),
)
RENAMES: Renames = (*_TORCHVISION, *_MINDCV)


def mobilenet_v2(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.2,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """MobileNetV2; `width` multiplies channels, rounded to multiples of 8; the last 1280 grow with it but never shrink.

    Pads symmetrically and normalises with eps 1e-5, as torchvision and MindSpore do, whose weights it takes.
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
