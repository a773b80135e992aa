"""ShuffleNet (Zhang et al. 2018, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
table 1): grouped 1x1 convolutions with a shuffle of the channels between them.
"""

from __future__ import annotations

from homespun.errors import OptionError
from homespun.graph import Attribute, Graph, GraphBuilder
from homespun.zoo.layers import IMAGENET, ImageSize, Style, begin, classify, conv_norm, divisible
from homespun.zoo.pretrained import Renames, Weights, load_weights

_UNITS = (4, 8, 4)
#: Channels of the first stage by groups, table 1; each later stage has twice as many.
_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_STYLE = Style(activation="relu")

#: Names in the package pytorchcv; stages and units are counted through.
RENAMES: Renames = (
    (r"features\.init_block\.conv\.", "stem.conv."),
    (r"features\.init_block\.bn\.", "stem.norm."),
    (r"features\.stage(\d+)\.unit(\d+)\.compress_conv1\.", "stages.{0-1}.{1-1}.compress.conv."),
    (r"features\.stage(\d+)\.unit(\d+)\.compress_bn1\.", "stages.{0-1}.{1-1}.compress.norm."),
    (r"features\.stage(\d+)\.unit(\d+)\.dw_conv2\.", "stages.{0-1}.{1-1}.depthwise.conv."),
    (r"features\.stage(\d+)\.unit(\d+)\.dw_bn2\.", "stages.{0-1}.{1-1}.depthwise.norm."),
    (r"features\.stage(\d+)\.unit(\d+)\.expand_conv3\.", "stages.{0-1}.{1-1}.expand.conv."),
    (r"features\.stage(\d+)\.unit(\d+)\.expand_bn3\.", "stages.{0-1}.{1-1}.expand.norm."),
    (r"output\.", "classifier."),
)


def _unit(
    build: GraphBuilder, x: str, name: str, inputs: int, outputs: int, groups: int, stride: int, first_groups: int
) -> str:
    """Grouped 1x1, shuffle, depthwise, grouped 1x1; added to the input, or with a stride beside its mean (figure 2)."""
    middle, added = outputs // 4, outputs - inputs if stride == 2 else outputs
    y = conv_norm(build, x, f"{name}.compress", inputs, middle, _STYLE, groups=first_groups)
    y = str(build.op("channel_shuffle", y, name=f"{name}.shuffle", groups=groups))
    y = conv_norm(
        build, y, f"{name}.depthwise", middle, middle, _STYLE, kernel=3, stride=stride, groups=middle, activate=False
    )
    y = conv_norm(build, y, f"{name}.expand", middle, added, _STYLE, groups=groups, activate=False)
    if stride == 2:
        window: dict[str, Attribute] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
        shortcut = build.op("average_pool", x, name=f"{name}.pool", outputs=1, count_include_pad=True, **window)
        y = str(build.op("concat", y, shortcut, name=f"{name}.concat", axis=3))
    else:
        y = str(build.op("add", y, x, name=f"{name}.add"))
    return str(build.op("relu", y, name=f"{name}.relu"))


def shufflenet_v1(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.0,
    seed: int = 0,
    weights: Weights = None,
    *,
    groups: int = 3,
) -> Graph:
    """ShuffleNet with `groups` 1, 2, 3, 4 or 8 (1.9 million parameters with 3); `width` multiplies channels."""
    if groups not in _CHANNELS:
        raise OptionError(f"groups is {groups}; it can be one of {', '.join(map(str, _CHANNELS))}")
    build, x = begin("shufflenet_v1", image_size, seed, IMAGENET)
    channels = divisible(24 * width, groups)
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    x = str(build.op("max_pool", x, name="stem.pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)))
    for stage, units in enumerate(_UNITS):
        outputs = divisible(_CHANNELS[groups] * 2**stage * width, 4 * groups)
        for unit in range(units):
            # the very first layer has too few channels to be grouped (section 3.2)
            first = 1 if stage == unit == 0 else groups
            x = _unit(build, x, f"stages.{stage}.{unit}", channels, outputs, groups, 2 if unit == 0 else 1, first)
            channels = outputs
    return load_weights(classify(build, x, channels, classes, dropout), weights, RENAMES)
