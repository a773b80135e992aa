"""EfficientNet-B0 to B4 (Tan & Le 2019, "EfficientNet: Rethinking Model Scaling", table 1): inverted residuals with
squeeze-excite and SiLU; width, depth and image size scaled together.

Pads symmetrically and normalises with eps 1e-5, as torchvision does, whose weights it takes. Stochastic depth is left
out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from homespun.graph import Graph
from homespun.zoo.layers import (
    IMAGENET,
    ImageSize,
    Squeeze,
    Style,
    begin,
    classify,
    conv_norm,
    divisible,
    inverted_residual,
)
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: (blocks, kernel, stride of the first, expansion, output channels) of B0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STYLE = Style(activation="silu")


@dataclass(frozen=True)
class Scale:
    """How much wider and deeper than B0 a network is, and what it is trained with."""

    width: float
    depth: float
    image_size: int
    dropout: float


#: Section 5.2 and the authors' release.
_SCALES = {
    "efficientnet_b0": Scale(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Scale(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Scale(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Scale(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Scale(1.4, 1.8, 380, 0.4),
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
    build, x = begin(name, scale.image_size if image_size is None else image_size, seed, IMAGENET)
    channels = divisible(32 * scale.width * width)
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    names = {"features.0.0.": "stem.conv.", "features.0.1.": "stem.norm."}
    index = 0
    for stage, (repeats, kernel, stride, expand, plain) in enumerate(STAGES):
        outputs = divisible(plain * scale.width * width)
        for block in range(math.ceil(repeats * scale.depth)):
            wide = divisible(channels * expand)
            x = inverted_residual(
                build,
                x,
                f"blocks.{index}",
                channels,
                outputs,
                _STYLE,
                wide=wide,
                stride=stride if block == 0 else 1,
                kernel=kernel,
                squeeze=Squeeze(max(1, channels // 4), "silu", "sigmoid"),
            )
            parts = [*(["expand"] if wide != channels else []), "depthwise", "squeeze", "project"]
            for j, part in enumerate(parts):
                theirs, ours = f"features.{stage + 1}.{block}.block.{j}.", f"blocks.{index}.{part}."
                layers = {"fc1.": "reduce.", "fc2.": "expand."} if part == "squeeze" else {"0.": "conv.", "1.": "norm."}
                names |= {theirs + a: ours + b for a, b in layers.items()}
            channels, index = outputs, index + 1
    x = conv_norm(build, x, "head", channels, 4 * channels, _STYLE)
    end = f"features.{len(STAGES) + 1}."
    names |= {f"{end}0.": "head.conv.", f"{end}1.": "head.norm.", "classifier.1.": "classifier."}
    renames: Renames = tuple((re.escape(theirs), ours) for theirs, ours in names.items())
    graph = classify(build, x, 4 * channels, classes, scale.dropout if dropout is None else dropout)
    return load_weights(graph, weights, renames)


def efficientnet_b0(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-B0, 224x224, 5.3 million parameters. `width` multiplies all channels further."""
    return _build("efficientnet_b0", classes, width, image_size, dropout, seed, weights)


def efficientnet_b1(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-B1, 240x240, 7.8 million parameters. `width` multiplies all channels further."""
    return _build("efficientnet_b1", classes, width, image_size, dropout, seed, weights)


def efficientnet_b2(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-B2, 260x260, 9.1 million parameters. `width` multiplies all channels further."""
    return _build("efficientnet_b2", classes, width, image_size, dropout, seed, weights)


def efficientnet_b3(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-B3, 300x300, 12.2 million parameters. `width` multiplies all channels further."""
    return _build("efficientnet_b3", classes, width, image_size, dropout, seed, weights)


def efficientnet_b4(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """EfficientNet-B4, 380x380, 19.3 million parameters. `width` multiplies all channels further."""
    return _build("efficientnet_b4", classes, width, image_size, dropout, seed, weights)
