"""EfficientNet-B0 to B4 (Tan & Le 2019, "EfficientNet: Rethinking Model Scaling", table 1): inverted residuals with
squeeze-excite and SiLU; width, depth and image size scaled together.

Pads symmetrically and normalises with eps 1e-5, as torchvision does, whose weights it takes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

from homespun.errors import OptionError
from homespun.graph import Graph, GraphBuilder
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
    torchvision_names,
)
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: (blocks, kernel, stride of the first, expansion, output channels) of B0.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STYLE = Style(activation="silu")
#: Share of samples for which the last block would be left out in training; earlier ones, less often (section 5.2).
STOCHASTIC_DEPTH = 0.2


@dataclass(frozen=True)
class Scale:
    """How much wider and deeper than B0 a network is, and what it is trained with. `fixed` are stages (0 to 6) that
    keep their number of blocks."""

    width: float
    depth: float
    image_size: int
    dropout: float
    fixed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Block:
    """An inverted residual: the `place`-th of its `stage`."""

    stage: int
    place: int
    kernel: int
    stride: int
    inputs: int
    wide: int
    outputs: int


class Builder(Protocol):
    """A network of this family, as a function."""

    def __call__(
        self,
        classes: int = 1000,
        width: float = 1.0,
        image_size: ImageSize | None = None,
        dropout: float | None = None,
        seed: int = 0,
        weights: Weights = None,
        *,
        stochastic_depth: float = ...,
    ) -> Graph: ...


#: Section 5.2 and the authors' release.
_SCALES = {
    "efficientnet_b0": Scale(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Scale(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Scale(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Scale(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Scale(1.4, 1.8, 380, 0.4),
}


def plan(scale: Scale, width: float, channels: int) -> list[Block]:
    """The blocks of a network whose stem gives `channels`."""
    blocks = []
    for stage, (repeats, kernel, stride, expand, plain) in enumerate(_STAGES):
        outputs = divisible(plain * scale.width * width)
        for place in range(repeats if stage in scale.fixed else math.ceil(repeats * scale.depth)):
            wide = divisible(channels * expand)
            blocks.append(Block(stage, place, kernel, 1 if place else stride, channels, wide, outputs))
            channels = outputs
    return blocks


def body(
    build: GraphBuilder, x: str, blocks: list[Block], style: Style, head: int, stochastic_depth: float, squeeze: bool
) -> str:
    """Stem, blocks, and the convolution to `head` channels. Block i of n is left out with `stochastic_depth` i / n."""
    if not 0.0 <= stochastic_depth < 1.0:
        raise OptionError(f"stochastic_depth must be in [0, 1), not {stochastic_depth}")
    x = conv_norm(build, x, "stem", 3, blocks[0].inputs, style, kernel=3, stride=2)
    for i, block in enumerate(blocks):
        x = inverted_residual(
            build,
            x,
            f"blocks.{i}",
            block.inputs,
            block.outputs,
            style,
            wide=block.wide,
            stride=block.stride,
            kernel=block.kernel,
            squeeze=Squeeze(max(1, block.inputs // 4), "silu", "sigmoid") if squeeze else None,
            left_out=stochastic_depth * i / len(blocks),
        )
    return conv_norm(build, x, "head", blocks[-1].outputs, head, style)


def _renames(blocks: list[Block]) -> Renames:
    """torchvision's names: stages and their blocks are counted, and the layers in them."""
    names = {"features.0.0.": "stem.conv.", "features.0.1.": "stem.norm.", "classifier.1.": "classifier."}
    for i, block in enumerate(blocks):
        parts = [*(["expand"] if block.wide != block.inputs else []), "depthwise", "squeeze", "project"]
        names |= torchvision_names(f"features.{block.stage + 1}.{block.place}.block", f"blocks.{i}", parts)
    end = f"features.{len(_STAGES) + 1}."
    names |= {f"{end}0.": "head.conv.", f"{end}1.": "head.norm."}
    return tuple((re.escape(theirs), ours) for theirs, ours in names.items())


def _builder(name: str, millions: float) -> Builder:
    scale = _SCALES[name]

    def build(
        classes: int = 1000,
        width: float = 1.0,
        image_size: ImageSize | None = None,
        dropout: float | None = None,
        seed: int = 0,
        weights: Weights = None,
        *,
        stochastic_depth: float = STOCHASTIC_DEPTH,
    ) -> Graph:
        build, x = begin(name, image_size or scale.image_size, seed, IMAGENET)
        blocks = plan(scale, width, divisible(32 * scale.width * width))
        head = 4 * blocks[-1].outputs
        x = body(build, x, blocks, _STYLE, head, stochastic_depth, squeeze=True)
        graph = classify(build, x, head, classes, scale.dropout if dropout is None else dropout)
        return load_weights(graph, weights, _renames(blocks))

    return named(build, name, __name__, f"EfficientNet-{name[-2:].upper()}", scale, millions)


def named(
    build: Builder, name: str, module: str, title: str, scale: Scale, millions: float, depth: str = "0.2"
) -> Builder:
    """The function with a name and a docstring of its own; `depth` says what its stochastic depth is by default."""
    size = scale.image_size
    documented: dict[str, object] = {
        "__name__": name,
        "__qualname__": name,
        "__module__": module,
        "__doc__": f"{title}, {size}x{size}, {millions} million parameters. `width` multiplies channels further; "
        f"`stochastic_depth` ({depth} by default) is how often in training the last residual block is left out for a "
        "sample, earlier ones less often.",
    }
    for attribute, value in documented.items():
        setattr(build, attribute, value)
    return build


efficientnet_b0 = _builder("efficientnet_b0", 5.3)
efficientnet_b1 = _builder("efficientnet_b1", 7.8)
efficientnet_b2 = _builder("efficientnet_b2", 9.1)
efficientnet_b3 = _builder("efficientnet_b3", 12.2)
efficientnet_b4 = _builder("efficientnet_b4", 19.3)
