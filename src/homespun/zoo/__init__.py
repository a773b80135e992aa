"""Networks by name, each built as a `Graph` with initial weights, or with weights from a PyTorch file.

A builder takes `classes`, `width`, `image_size`, `dropout`, `seed` and `weights` (a `.pth` path, or tensors by PyTorch
name) and returns a graph whose input is `image`, (N, H, W, 3), normalised as its metadata say, and whose output is
`logits`, (N, classes). `tinybert` reads text, and `yolov3`
and `yolov3_tiny` give boxes, as their docstrings say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homespun.lazy import lazy

if TYPE_CHECKING:
    from homespun.zoo.densenet import densenet121 as densenet121
    from homespun.zoo.densenet import densenet169 as densenet169
    from homespun.zoo.efficientnet import efficientnet_b0 as efficientnet_b0
    from homespun.zoo.efficientnet import efficientnet_b1 as efficientnet_b1
    from homespun.zoo.efficientnet import efficientnet_b2 as efficientnet_b2
    from homespun.zoo.efficientnet import efficientnet_b3 as efficientnet_b3
    from homespun.zoo.efficientnet import efficientnet_b4 as efficientnet_b4
    from homespun.zoo.efficientnet_lite import efficientnet_lite0 as efficientnet_lite0
    from homespun.zoo.efficientnet_lite import efficientnet_lite1 as efficientnet_lite1
    from homespun.zoo.efficientnet_lite import efficientnet_lite2 as efficientnet_lite2
    from homespun.zoo.efficientnet_lite import efficientnet_lite3 as efficientnet_lite3
    from homespun.zoo.efficientnet_lite import efficientnet_lite4 as efficientnet_lite4
    from homespun.zoo.googlenet import googlenet as googlenet
    from homespun.zoo.mobilenet_v1 import mobilenet_v1 as mobilenet_v1
    from homespun.zoo.mobilenet_v2 import mobilenet_v2 as mobilenet_v2
    from homespun.zoo.mobilenet_v3 import mobilenet_v3_large as mobilenet_v3_large
    from homespun.zoo.mobilenet_v3 import mobilenet_v3_small as mobilenet_v3_small
    from homespun.zoo.shufflenet_v1 import shufflenet_v1 as shufflenet_v1
    from homespun.zoo.shufflenet_v2 import shufflenet_v2 as shufflenet_v2
    from homespun.zoo.tinybert import tinybert as tinybert
    from homespun.zoo.yolov3 import yolov3 as yolov3
    from homespun.zoo.yolov3 import yolov3_tiny as yolov3_tiny

_HOMES = {
    "densenet121": "densenet",
    "densenet169": "densenet",
    "efficientnet_b0": "efficientnet",
    "efficientnet_b1": "efficientnet",
    "efficientnet_b2": "efficientnet",
    "efficientnet_b3": "efficientnet",
    "efficientnet_b4": "efficientnet",
    "efficientnet_lite0": "efficientnet_lite",
    "efficientnet_lite1": "efficientnet_lite",
    "efficientnet_lite2": "efficientnet_lite",
    "efficientnet_lite3": "efficientnet_lite",
    "efficientnet_lite4": "efficientnet_lite",
    "googlenet": "googlenet",
    "mobilenet_v1": "mobilenet_v1",
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_large": "mobilenet_v3",
    "mobilenet_v3_small": "mobilenet_v3",
    "shufflenet_v1": "shufflenet_v1",
    "shufflenet_v2": "shufflenet_v2",
    "tinybert": "tinybert",
    "yolov3": "yolov3",
    "yolov3_tiny": "yolov3",
}

__all__ = [*_HOMES]

lazy(__name__, _HOMES)
