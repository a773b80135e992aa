"""ShuffleNetV2 (Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", table 5).

Takes torchvision's weights (`shufflenet_v2_x0_5` to `x2_0`).
"""

from __future__ import annotations

import re

from homespun.graph import Graph, GraphBuilder
from homespun.zoo.layers import IMAGENET, ImageSize, Style, begin, classify, conv_norm
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: Units of the three stages.
_UNITS = (4, 8, 4)
#: Channels of the stages and of the last convolution by width, table 5; other widths are multiples of 1.
_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
_STYLE = Style(activation="relu")


def _channels(width: float) -> tuple[int, ...]:
    if width in _CHANNELS:
        return _CHANNELS[width]
    stages = [max(8, round(c * width / 2) * 2) for c in _CHANNELS[1.0][:3]]
    return (*stages, max(8, int(1024 * min(1.0, width))))


def _unit(build: GraphBuilder, x: str, name: str, inputs: int, outputs: int, stride: int) -> str:
    """Two branches, concatenated and shuffled: the second computes on a half of the channels, or, with a stride, both
    compute on all (figure 3, c and d)."""
    half = outputs // 2

    def branch(y: str, name: str, channels: int, first: bool) -> str:
        if first:
            y = conv_norm(build, y, f"{name}.first", channels, half, _STYLE)
            channels = half
        y = conv_norm(
            build,
            y,
            f"{name}.depthwise",
            channels,
            channels,
            _STYLE,
            kernel=3,
            stride=stride,
            groups=channels,
            activate=False,
        )
        return conv_norm(build, y, f"{name}.last", channels, half, _STYLE)

    if stride == 1:
        kept, y = build.op("split", x, name=f"{name}.split", outputs=2, axis=3, sizes=(half, half))
        parts = (kept, branch(y, f"{name}.branch2", half, True))
    else:
        parts = (branch(x, f"{name}.branch1", inputs, False), branch(x, f"{name}.branch2", inputs, True))
    y = str(build.op("concat", *parts, name=f"{name}.concat", axis=3))
    return str(build.op("channel_shuffle", y, name=f"{name}.shuffle", groups=2))


def shufflenet_v2(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.0,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """ShuffleNetV2, 2.3 million parameters; `width` 0.5, 1, 1.5 or 2 as in the paper, or any other factor."""
    build, x = begin("shufflenet_v2", image_size, seed, IMAGENET)
    *stages, last = _channels(width)
    channels = 24
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    x = str(build.op("max_pool", x, name="stem.pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)))
    names = {"conv1.0.": "stem.conv.", "conv1.1.": "stem.norm.", "conv5.0.": "head.conv.", "conv5.1.": "head.norm."}
    layers = {
        "branch1": {0: "depthwise.conv", 1: "depthwise.norm", 2: "last.conv", 3: "last.norm"},
        "branch2": {
            **{0: "first.conv", 1: "first.norm", 3: "depthwise.conv", 4: "depthwise.norm"},
            **{5: "last.conv", 6: "last.norm"},
        },
    }
    index = 0
    for stage, (units, outputs) in enumerate(zip(_UNITS, stages, strict=True)):
        for unit in range(units):
            x = _unit(build, x, f"blocks.{index}", channels, outputs, 2 if unit == 0 else 1)
            theirs = f"stage{stage + 2}.{unit}."
            names |= {
                f"{theirs}{branch}.{j}.": f"blocks.{index}.{branch}.{ours}."
                for branch, parts in layers.items()
                for j, ours in parts.items()
            }
            channels, index = outputs, index + 1
    x = conv_norm(build, x, "head", channels, last, _STYLE)
    renames: Renames = (*((re.escape(theirs), ours) for theirs, ours in names.items()), (r"fc\.", "classifier."))
    return load_weights(classify(build, x, last, classes, dropout), weights, renames)
