"""YOLOv3 and YOLOv3-tiny (Redmon & Farhadi 2018, "YOLOv3: An Incremental Improvement", section 2 and table 1; the tiny
one after the authors' `yolov3-tiny.cfg`), trained with `losses.Yolo`, read with `training.detection`.

Outputs are maps, coarsest first, each (N, rows, columns, 3 (5 + classes)): x, y, log width and log height of a box,
objectness and classes, before their sigmoids.
"""

from __future__ import annotations

import re

from homespun.errors import OptionError
from homespun.graph import Graph, GraphBuilder
from homespun.options import at_least_one
from homespun.zoo.layers import ImageSize, Style, begin, conv_norm, divisible
from homespun.zoo.pretrained import Renames, Weights, load_weights

_STYLE = Style(activation="leaky_relu", slope=0.1)
_METADATA = {"input_mean": "0", "input_scale": "255"}
#: Widths and heights in pixels of a 416x416 image, smallest first; three for each scale (section 2.3).
_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
_TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
_ANCHORS_FOR = 416
#: Residual units of Darknet-53 behind each halving, table 1.
_UNITS = (1, 2, 8, 8, 4)
BOXES = 3


class _Darknet:
    """Layers with our names, and what they are called in PyTorch: there layers of every kind are counted through."""

    def __init__(self, build: GraphBuilder, width: float) -> None:
        self.build, self.width, self.counted = build, width, 0
        self.names: dict[str, str] = {}

    def conv(self, x: str, name: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        i = self.counted
        self.counted += 1
        self.names |= {
            f"module_list.{i}.conv_{i}.": f"{name}.conv.",
            f"module_list.{i}.batch_norm_{i}.": f"{name}.norm.",
        }
        return conv_norm(self.build, x, name, inputs, outputs, _STYLE, kernel=kernel, stride=stride)

    def output(self, x: str, name: str, inputs: int, classes: int) -> str:
        self.names[f"module_list.{self.counted}.conv_{self.counted}."] = f"{name}."
        self.counted += 2  # itself, and what reads it
        return self.build.conv(x, name, inputs=inputs, outputs=BOXES * (5 + classes), bias=True)

    def channels(self, plain: int) -> int:
        return divisible(plain * self.width)

    def finer(self, x: str, name: str, inputs: int, outputs: int, beside: str) -> str:
        """1x1 convolution, twice the size, and the features of that size from further up beside them."""
        self.counted += 1  # a route back
        y = self.conv(x, f"{name}.lateral", inputs, outputs)
        y = str(self.build.op("upsample", y, name=f"{name}.upsample", factor=(2, 2)))
        self.counted += 2  # it and the concatenation
        return str(self.build.op("concat", y, beside, name=f"{name}.concat", axis=3))

    def finish(self, outputs: list[str], anchors: tuple[tuple[int, int], ...], classes: int, weights: Weights) -> Graph:
        for output, stride in zip(outputs, (32, 16, 8), strict=False):
            self.build.graph.rename(output, f"boxes_{stride}")
        names = [f"boxes_{stride}" for stride, _ in zip((32, 16, 8), outputs, strict=False)]
        shares = (f"{side / _ANCHORS_FOR:.9g}" for anchor in anchors for side in anchor)
        self.build.graph.metadata.update({"anchors": ",".join(shares), "boxes": str(BOXES), "classes": str(classes)})
        renames: Renames = tuple((re.escape(theirs), ours) for theirs, ours in self.names.items())
        return load_weights(self.build.build(*names), weights, renames)


def _begin(name: str, classes: int, width: float, image_size: ImageSize, seed: int) -> tuple[_Darknet, str]:
    at_least_one("classes", classes)
    height, wide = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % 32 or wide % 32:
        raise OptionError(f"image_size is {height}x{wide}; both must be multiples of 32")
    build, x = begin(name, image_size, seed, _METADATA)
    return _Darknet(build, width), x


def yolov3(
    classes: int = 80, width: float = 1.0, image_size: ImageSize = 416, seed: int = 0, weights: Weights = None
) -> Graph:
    """YOLOv3 on Darknet-53, 62 million parameters; `width` multiplies channels. Outputs `boxes_32`, `boxes_16` and
    `boxes_8`, by the pixels that a cell has on a side."""
    net, x = _begin("yolov3", classes, width, image_size, seed)
    channels = net.channels(32)
    x = net.conv(x, "stem", 3, channels, 3)
    features: list[tuple[str, int]] = []
    for stage, units in enumerate(_UNITS):
        wide = net.channels(64 * 2**stage)
        x = net.conv(x, f"stages.{stage}.down", channels, wide, 3, 2)
        for unit in range(units):
            name = f"stages.{stage}.{unit}"
            y = net.conv(x, f"{name}.reduce", wide, wide // 2)
            y = net.conv(y, f"{name}.filter", wide // 2, wide, 3)
            x = str(net.build.op("add", y, x, name=f"{name}.add"))
            net.counted += 1
        channels = wide
        features.append((x, channels))
    outputs = []
    for scale in range(3):
        narrow, wide = net.channels(512 // 2**scale), net.channels(1024 // 2**scale)
        name = f"scales.{scale}"
        if scale > 0:
            beside, others = features[-1 - scale]
            x = net.finer(x, name, channels, narrow, beside)
            channels = narrow + others
        for i in range(2):
            y = net.conv(x, f"{name}.{2 * i}", channels, narrow)
            x, channels = net.conv(y, f"{name}.{2 * i + 1}", narrow, wide, 3), wide
        x = net.conv(x, f"{name}.4", channels, narrow)
        y = net.conv(x, f"{name}.5", narrow, wide, 3)
        outputs.append(net.output(y, f"{name}.output", wide, classes))
        channels = narrow
    return net.finish(outputs, _ANCHORS, classes, weights)


def yolov3_tiny(
    classes: int = 80, width: float = 1.0, image_size: ImageSize = 416, seed: int = 0, weights: Weights = None
) -> Graph:
    """YOLOv3-tiny, 8.9 million parameters; `width` multiplies channels. Outputs `boxes_32` and `boxes_16`."""
    net, x = _begin("yolov3_tiny", classes, width, image_size, seed)
    channels, beside, others = 3, "", 0
    for stage in range(7):
        wide = net.channels(16 * 2**stage)
        x = net.conv(x, f"stages.{stage}", channels, wide, 3)
        channels = wide
        if stage == 4:
            beside, others = x, channels
        if stage == 6:
            break
        # the last one keeps the size: its window hangs over at the bottom and right
        window = {"stride": (2, 2)} if stage < 5 else {"stride": (1, 1), "padding": (0, 0, 1, 1)}
        x = str(net.build.op("max_pool", x, name=f"stages.{stage}.pool", outputs=1, kernel=(2, 2), **window))
        net.counted += 1
    narrow = net.channels(256)
    x = net.conv(x, "scales.0.0", channels, narrow)
    y = net.conv(x, "scales.0.1", narrow, net.channels(512), 3)
    outputs = [net.output(y, "scales.0.output", net.channels(512), classes)]
    y = net.finer(x, "scales.1", narrow, net.channels(128), beside)
    y = net.conv(y, "scales.1.0", net.channels(128) + others, net.channels(256), 3)
    outputs.append(net.output(y, "scales.1.output", net.channels(256), classes))
    return net.finish(outputs, _TINY_ANCHORS, classes, weights)
