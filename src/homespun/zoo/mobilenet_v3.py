"""MobileNetV3 large and small (Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2).

Pads symmetrically and rounds channels as torchvision does, whose weights it takes; eps 1e-3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from homespun.graph import Graph
from homespun.zoo.layers import (
    IMAGENET,
    ImageSize,
    Squeeze,
    Style,
    begin,
    check_head,
    conv_norm,
    divisible,
    inverted_residual,
    torchvision_names,
)
from homespun.zoo.pretrained import Renames, Weights, load_weights

_STYLE = Style(activation="hard_swish", eps=1e-3, momentum=0.01)


@dataclass(frozen=True)
class _Block:
    kernel: int
    wide: int
    outputs: int
    squeeze: bool
    activation: str
    stride: int


def _rows(*rows: tuple[int, int, int, bool, str, int]) -> tuple[_Block, ...]:
    return tuple(_Block(*row) for row in rows)


_RE, _HS = "relu", "hard_swish"
#: (window, expansion, outputs, squeeze-excite, activation, stride): table 1.
_LARGE = _rows(
    (3, 16, 16, False, _RE, 1),
    (3, 64, 24, False, _RE, 2),
    (3, 72, 24, False, _RE, 1),
    (5, 72, 40, True, _RE, 2),
    (5, 120, 40, True, _RE, 1),
    (5, 120, 40, True, _RE, 1),
    (3, 240, 80, False, _HS, 2),
    (3, 200, 80, False, _HS, 1),
    (3, 184, 80, False, _HS, 1),
    (3, 184, 80, False, _HS, 1),
    (3, 480, 112, True, _HS, 1),
    (3, 672, 112, True, _HS, 1),
    (5, 672, 160, True, _HS, 2),
    (5, 960, 160, True, _HS, 1),
    (5, 960, 160, True, _HS, 1),
)
#: Table 2.
_SMALL = _rows(
    (3, 16, 16, True, _RE, 2),
    (3, 72, 24, False, _RE, 2),
    (3, 88, 24, False, _RE, 1),
    (5, 96, 40, True, _HS, 2),
    (5, 240, 40, True, _HS, 1),
    (5, 240, 40, True, _HS, 1),
    (5, 120, 48, True, _HS, 1),
    (5, 144, 48, True, _HS, 1),
    (5, 288, 96, True, _HS, 2),
    (5, 576, 96, True, _HS, 1),
    (5, 576, 96, True, _HS, 1),
)


def _build(
    name: str,
    blocks: tuple[_Block, ...],
    last: int,
    classes: int,
    width: float,
    image_size: ImageSize,
    dropout: float,
    seed: int,
    weights: Weights,
) -> Graph:
    check_head(classes, dropout)
    build, x = begin(name, image_size, seed, IMAGENET)
    channels = divisible(16 * width)
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    names = {"features.0.0.": "stem.conv.", "features.0.1.": "stem.norm."}
    for i, block in enumerate(blocks):
        wide, outputs = divisible(block.wide * width), divisible(block.outputs * width)
        squeeze = Squeeze(divisible(wide // 4), "relu", "hard_sigmoid") if block.squeeze else None
        x = inverted_residual(
            build,
            x,
            f"blocks.{i}",
            channels,
            outputs,
            replace(_STYLE, activation=block.activation),
            wide=wide,
            stride=block.stride,
            kernel=block.kernel,
            squeeze=squeeze,
        )
        parts = [*(["expand"] if wide != channels else []), "depthwise", *(["squeeze"] if squeeze else []), "project"]
        names |= torchvision_names(f"features.{i + 1}.block", f"blocks.{i}", parts)
        channels = outputs
    wide, last = 6 * channels, divisible(last * width)
    x = conv_norm(build, x, "head", channels, wide, _STYLE)
    x = str(build.op("flatten", build.op("global_average_pool", x, name="pool"), name="pooled"))
    x = str(build.op("hard_swish", build.linear(x, "penultimate", wide, last), name="features"))
    if dropout > 0:
        x = str(build.op("dropout", x, name="dropout", rate=dropout))
    build.graph.rename(build.linear(x, "classifier", last, classes), "logits")
    end = f"features.{len(blocks) + 1}."
    names |= {f"{end}0.": "head.conv.", f"{end}1.": "head.norm."}
    names |= {"classifier.0.": "penultimate.", "classifier.3.": "classifier."}
    renames: Renames = tuple((re.escape(theirs), ours) for theirs, ours in names.items())
    return load_weights(build.build("logits"), weights, renames)


def mobilenet_v3_large(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.2,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """MobileNetV3-Large, 5.5 million parameters; `width` multiplies all channels, rounded to multiples of 8."""
    return _build("mobilenet_v3_large", _LARGE, 1280, classes, width, image_size, dropout, seed, weights)


def mobilenet_v3_small(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.2,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """MobileNetV3-Small, 2.5 million parameters; `width` multiplies all channels, rounded to multiples of 8."""
    return _build("mobilenet_v3_small", _SMALL, 1024, classes, width, image_size, dropout, seed, weights)
