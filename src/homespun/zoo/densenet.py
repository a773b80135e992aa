"""DenseNet-121 and 169 (Huang et al. 2017, "Densely Connected Convolutional Networks", table 1): each layer reads the
outputs of all layers of its block before it. Takes torchvision's weights.
"""

from __future__ import annotations

from homespun.graph import Graph, GraphBuilder
from homespun.zoo.layers import IMAGENET, ImageSize, begin, classify
from homespun.zoo.pretrained import Renames, Weights, load_weights

#: Channels that each layer adds, and those of its 1x1 convolution in multiples of them (section 4: DenseNet-BC).
_GROWTH, _BOTTLENECK = 32, 4

#: torchvision's names; its older files write `norm.1` for `norm1`.
RENAMES: Renames = (
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.norm\.?1\.", "blocks.{0-1}.layers.{1-1}.norm1."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.conv\.?1\.", "blocks.{0-1}.layers.{1-1}.conv1."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.norm\.?2\.", "blocks.{0-1}.layers.{1-1}.norm2."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.conv\.?2\.", "blocks.{0-1}.layers.{1-1}.conv2."),
    (r"features\.transition(\d+)\.", "transitions.{0-1}."),
    (r"features\.conv0\.", "stem.conv."),
    (r"features\.norm0\.", "stem.norm."),
    (r"features\.norm5\.", "head.norm."),
)


def _norm_relu(build: GraphBuilder, x: str, name: str, channels: int) -> str:
    return str(build.op("relu", build.batch_norm(x, name, channels), name=f"{name}.relu"))


def _layer(build: GraphBuilder, x: str, name: str, channels: int, growth: int) -> str:
    """Norm and ReLU before each convolution: 1x1 to a few channels, 3x3 to the new ones."""
    wide = _BOTTLENECK * growth
    y = _norm_relu(build, x, f"{name}.norm1", channels)
    y = build.conv(y, f"{name}.conv1", inputs=channels, outputs=wide)
    y = _norm_relu(build, y, f"{name}.norm2", wide)
    return build.conv(y, f"{name}.conv2", inputs=wide, outputs=growth, kernel=3)


def _build(
    name: str,
    blocks: tuple[int, ...],
    classes: int,
    width: float,
    image_size: ImageSize,
    dropout: float,
    seed: int,
    weights: Weights,
) -> Graph:
    build, x = begin(name, image_size, seed, IMAGENET)
    growth = max(4, round(_GROWTH * width))
    channels = 2 * growth
    x = build.conv(x, "stem.conv", inputs=3, outputs=channels, kernel=7, stride=2)
    x = _norm_relu(build, x, "stem.norm", channels)
    x = str(build.op("max_pool", x, name="stem.pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)))
    for block, layers in enumerate(blocks):
        for i in range(layers):
            layer = f"blocks.{block}.layers.{i}"
            y = _layer(build, x, layer, channels, growth)
            x = str(build.op("concat", x, y, name=f"{layer}.concat", axis=3))
            channels += growth
        if block < len(blocks) - 1:
            end = f"transitions.{block}"
            x = _norm_relu(build, x, f"{end}.norm", channels)
            x = build.conv(x, f"{end}.conv", inputs=channels, outputs=channels // 2)
            x = str(build.op("average_pool", x, name=f"{end}.pool", kernel=(2, 2), stride=(2, 2)))
            channels //= 2
    x = _norm_relu(build, x, "head.norm", channels)
    return load_weights(classify(build, x, channels, classes, dropout), weights, RENAMES)


def densenet121(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.0,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """DenseNet-121, 8.0 million parameters; `width` multiplies the 32 channels that each layer adds."""
    return _build("densenet121", (6, 12, 24, 16), classes, width, image_size, dropout, seed, weights)


def densenet169(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float = 0.0,
    seed: int = 0,
    weights: Weights = None,
) -> Graph:
    """DenseNet-169, 14.1 million parameters; `width` multiplies the 32 channels that each layer adds."""
    return _build("densenet169", (6, 12, 32, 32), classes, width, image_size, dropout, seed, weights)
