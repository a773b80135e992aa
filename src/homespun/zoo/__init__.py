"""Networks by name, each built as a `Graph` with initial weights, or with weights from a PyTorch file.

A builder takes `classes`, `width`, `image_size`, `dropout`, `seed` and `weights` (a `.pth` path, or tensors by PyTorch
name) and returns a graph whose input is `image`, (N, H, W, 3), normalised as its metadata say, and whose output is
`logits`, (N, classes). `tinybert` reads text instead, as its docstring says.
"""

from homespun.zoo.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from homespun.zoo.mobilenet_v1 import mobilenet_v1
from homespun.zoo.mobilenet_v2 import mobilenet_v2
from homespun.zoo.tinybert import tinybert

__all__ = [
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "mobilenet_v1",
    "mobilenet_v2",
    "tinybert",
]
