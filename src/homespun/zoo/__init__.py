"""Networks by name, each built as a `Graph` with initial weights, or with weights from a PyTorch file.

A builder takes `classes`, `width`, `image_size`, `dropout`, `seed` and `weights` (a `.pth` path, or tensors by PyTorch
name) and returns a graph whose input is `image`, (N, H, W, 3), normalised as its metadata say, and whose output is
`logits`, (N, classes). `tinybert` reads text, and `yolov3`
and `yolov3_tiny` give boxes, as their docstrings say.
"""

from homespun.zoo.densenet import densenet121, densenet169
from homespun.zoo.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
)
from homespun.zoo.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from homespun.zoo.googlenet import googlenet
from homespun.zoo.mobilenet_v1 import mobilenet_v1
from homespun.zoo.mobilenet_v2 import mobilenet_v2
from homespun.zoo.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from homespun.zoo.shufflenet_v1 import shufflenet_v1
from homespun.zoo.shufflenet_v2 import shufflenet_v2
from homespun.zoo.tinybert import tinybert
from homespun.zoo.yolov3 import yolov3, yolov3_tiny

__all__ = [
    "densenet121",
    "densenet169",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "googlenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "shufflenet_v1",
    "shufflenet_v2",
    "tinybert",
    "yolov3",
    "yolov3_tiny",
]
