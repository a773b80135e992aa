"""MobileNetV1: a 3x3 convolution, then thirteen pairs of depthwise 3x3 and 1x1 convolution.

Source: Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
table 1. Pads as TensorFlow does, where the reference implementation comes from.
"""

from __future__ import annotations

from homespun.graph import Graph
from homespun.zoo.layers import ImageSize, Style, begin, classify, conv_norm
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: (output channels, stride) of each pair.
_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_STYLE = Style(activation="relu", padding="same_upper", eps=1e-3, momentum=0.01)
_METADATA = {"input_mean": "127.5", "input_scale": "127.5"}

#: There is no common PyTorch file of this network; files saved under our own names load.
RENAMES: Renames = ()


def mobilenet_v1(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.001,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """MobileNetV1; `width` is the paper's width multiplier: channels are multiplied and cut to a whole number."""
    build, x = begin("mobilenet_v1", image_size, seed, _METADATA)
    channels = max(8, int(32 * width))
    x = conv_norm(build, x, "stem", 3, channels, _STYLE, kernel=3, stride=2)
    for i, (wide, stride) in enumerate(_PAIRS):
        name, outputs = f"blocks.{i}", max(8, int(wide * width))
        x = conv_norm(
            build, x, f"{name}.depthwise", channels, channels, _STYLE, kernel=3, stride=stride, groups=channels
        )
        x = conv_norm(build, x, f"{name}.pointwise", channels, outputs, _STYLE)
        channels = outputs
    return load_weights(classify(build, x, channels, classes, dropout), weights, RENAMES)
