"""GoogLeNet (Szegedy et al. 2015, "Going Deeper with Convolutions", table 1), with auxiliary heads if asked.

`norm="batch"` is torchvision's network, whose weights it takes: batch norm behind every convolution, and 3x3 windows in
the branch that the paper calls 5x5. `norm="response"` is the paper's, as Caffe's BVLC release has it: biases, local
response normalisation twice, 5x5 windows.
"""

from __future__ import annotations

import re

from homespun.errors import OptionError
from homespun.graph import Graph, GraphBuilder
from homespun.graph.graph import AUXILIARY_KEY
from homespun.graph.infer import infer
from homespun.zoo.layers import IMAGENET, ImageSize, Style, begin, check_head, classify, conv_norm, divisible
from homespun.zoo.pretrained import Renames, Weights, load_weights

_STYLE = Style(activation="relu", eps=1e-3)
#: (name, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection), table 1; a number alone is a pooling window.
_MODULES: tuple[tuple[str, tuple[int, int, int, int, int, int]] | int, ...] = (
    ("3a", (64, 96, 128, 16, 32, 32)),
    ("3b", (128, 128, 192, 32, 96, 64)),
    3,
    ("4a", (192, 96, 208, 16, 48, 64)),
    ("4b", (160, 112, 224, 24, 64, 64)),
    ("4c", (128, 128, 256, 24, 64, 64)),
    ("4d", (112, 144, 288, 32, 64, 64)),
    ("4e", (256, 160, 320, 32, 128, 128)),
    2,
    ("5a", (256, 160, 320, 32, 128, 128)),
    ("5b", (384, 192, 384, 48, 128, 128)),
)
#: Auxiliary heads by the module that they read.
_AUXILIARY = {"4a": "aux1", "4d": "aux2"}


class _Layers:
    """Convolutions as one of the two variants has them."""

    def __init__(self, build: GraphBuilder, norm: str, width: float) -> None:
        self.build, self.norm, self.width = build, norm, width

    def channels(self, plain: int) -> int:
        return divisible(plain * self.width)

    def conv(self, x: str, name: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        if self.norm == "batch":
            return conv_norm(self.build, x, name, inputs, outputs, _STYLE, kernel=kernel, stride=stride)
        y = self.build.conv(x, f"{name}.conv", inputs=inputs, outputs=outputs, kernel=kernel, stride=stride, bias=True)
        return str(self.build.op("relu", y, name=f"{name}.relu"))

    def response_norm(self, x: str, name: str) -> str:
        if self.norm == "batch":
            return x
        return str(self.build.op("local_response_norm", x, name=name, size=5, alpha=1e-4, beta=0.75))

    def pool(self, x: str, name: str, window: int) -> str:
        return str(self.build.op("max_pool", x, name=name, kernel=(window, window), stride=(2, 2), ceil=True))


def _module(layers: _Layers, x: str, name: str, inputs: int, plain: tuple[int, ...]) -> tuple[str, int]:
    """Four branches side by side (figure 2b)."""
    build = layers.build
    one, reduce3, three, reduce5, five, project = (layers.channels(c) for c in plain)
    a = layers.conv(x, f"{name}.branch1", inputs, one)
    b = layers.conv(x, f"{name}.branch2.reduce", inputs, reduce3)
    b = layers.conv(b, f"{name}.branch2.filter", reduce3, three, 3)
    c = layers.conv(x, f"{name}.branch3.reduce", inputs, reduce5)
    c = layers.conv(c, f"{name}.branch3.filter", reduce5, five, 3 if layers.norm == "batch" else 5)
    d = str(build.op("max_pool", x, name=f"{name}.branch4.pool", kernel=(3, 3), padding=(1, 1, 1, 1)))
    d = layers.conv(d, f"{name}.branch4.project", inputs, project)
    return str(build.op("concat", a, b, c, d, name=f"{name}.concat", axis=3)), one + three + five + project


def _auxiliary(layers: _Layers, x: str, name: str, inputs: int, classes: int, size: tuple[int, int]) -> str:
    """Means over a 4x4 grid, 1x1 convolution, two linear layers (section 5). At 14x14, windows are 5x5 every third."""
    build = layers.build
    if min(size) < 4:
        raise OptionError(f"auxiliary heads need an image of at least 64x64; theirs would be {size[0]}x{size[1]}")
    stride = (size[0] // 4, size[1] // 4)
    kernel = (size[0] - 3 * stride[0], size[1] - 3 * stride[1])
    wide, hidden = layers.channels(128), layers.channels(1024)
    y = str(build.op("average_pool", x, name=f"{name}.pool", kernel=kernel, stride=stride))
    y = layers.conv(y, f"{name}.conv", inputs, wide)
    # the linear layer's rows are in PyTorch's order
    y = str(build.op("transpose", y, name=f"{name}.channels_first", axes=(0, 3, 1, 2)))
    y = str(build.op("flatten", y, name=f"{name}.flat"))
    y = str(build.op("relu", build.linear(y, f"{name}.hidden", 16 * wide, hidden), name=f"{name}.hidden.relu"))
    y = str(build.op("dropout", y, name=f"{name}.dropout", rate=0.7))
    return build.linear(y, f"{name}.classifier", hidden, classes)


def googlenet(
    classes: int = 1000,
    width: float = 1.0,
    image_size: ImageSize = 224,
    dropout: float | None = None,
    seed: int = 0,
    weights: Weights = None,
    *,
    norm: str = "batch",
    auxiliary: bool = False,
) -> Graph:
    """GoogLeNet, 6.6 million parameters (7.0 with `norm="response"`); `width` multiplies all channels.

    With `auxiliary`, it has the outputs `logits`, `aux1` and `aux2`, to be trained with `losses.Auxiliary`.
    """
    if norm not in ("batch", "response"):
        raise OptionError(f"norm is {norm!r}; it can be 'batch' or 'response'")
    dropout = (0.2 if norm == "batch" else 0.4) if dropout is None else dropout
    check_head(classes, dropout)
    build, x = begin("googlenet", image_size, seed, IMAGENET)
    layers = _Layers(build, norm, width)
    first, second = layers.channels(64), layers.channels(192)
    x = layers.conv(x, "stem.0", 3, first, 7, 2)
    x = layers.response_norm(layers.pool(x, "stem.pool0", 3), "stem.response0")
    x = layers.conv(x, "stem.1", first, first)
    x = layers.response_norm(layers.conv(x, "stem.2", first, second, 3), "stem.response1")
    x = layers.pool(x, "stem.pool1", 3)
    channels, index = second, 0
    names = {"conv1.": "stem.0.", "conv2.": "stem.1.", "conv3.": "stem.2."}
    outputs: dict[str, str] = {}
    for module in _MODULES:
        if isinstance(module, int):
            x = layers.pool(x, f"pools.{index}", module if norm == "batch" else 3)
            continue
        label, plain = module
        x, channels = _module(layers, x, f"blocks.{index}", channels, plain)
        theirs, ours = f"inception{label}.", f"blocks.{index}."
        names |= {f"{theirs}branch1.": f"{ours}branch1.", f"{theirs}branch4.1.": f"{ours}branch4.project."}
        for branch in ("branch2", "branch3"):
            names |= {
                f"{theirs}{branch}.{i}.": f"{ours}{branch}.{part}." for i, part in enumerate(("reduce", "filter"))
            }
        if auxiliary and label in _AUXILIARY:
            name = _AUXILIARY[label]
            _, high, wide, _ = infer(build.graph)[x].shape
            outputs[name] = _auxiliary(layers, x, name, channels, classes, (high, wide))
            names |= {f"{name}.conv.": f"{name}.conv.", f"{name}.fc1.": f"{name}.hidden."}
            names |= {f"{name}.fc2.": f"{name}.classifier."}
        index += 1
    graph = classify(build, x, channels, classes, dropout)
    for name, tensor in outputs.items():
        graph.rename(tensor, name)
    graph.outputs += outputs
    if outputs:
        graph.metadata[AUXILIARY_KEY] = ",".join(outputs)
    return load_weights(graph, weights, _renames(names))


def _renames(names: dict[str, str]) -> Renames:
    """torchvision's names: each of its layers has `conv` and `bn`."""
    linear = ("hidden.", "classifier.")
    parts = ("conv.", "norm.")
    found = [("fc.", "classifier.")]
    for theirs, ours in names.items():
        if ours.endswith(linear):
            found.append((theirs, ours))
        else:
            found += [(theirs + part, ours + own) for part, own in zip(("conv.", "bn."), parts, strict=True)]
    return tuple((re.escape(theirs), ours) for theirs, ours in found)
