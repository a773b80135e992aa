"""What the zoo's networks have in common: convolution + norm + activation, inverted residuals, the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import homespun.ops  # noqa: F401  (fills the operators' table, which building checks against)
from homespun.errors import OptionError
from homespun.graph import Attribute, Graph, GraphBuilder
from homespun.options import at_least_one

ImageSize = int | Sequence[int]
#: ImageNet's mean and spread on a scale of 0 to 255, by channel, as torchvision's weights expect.
IMAGENET = {"input_mean": "123.675,116.28,103.53", "input_scale": "58.395,57.12,57.375"}


@dataclass(frozen=True)
class Style:
    """What a family of networks does alike in every layer."""

    activation: str = "relu6"
    slope: float = 0.0  # of a leaky ReLU
    padding: str = "same"
    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True)
class Squeeze:
    """A squeeze-excite gate: channels between its two layers, the activation there, and the gate's own."""

    channels: int
    activation: str = "relu"
    gate: str = "sigmoid"


def begin(name: str, image_size: ImageSize, seed: int, metadata: dict[str, str]) -> tuple[GraphBuilder, str]:
    """A builder with the input `image` (N, H, W, 3)."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 32 or width < 32:
        raise OptionError(f"image_size is {height}x{width}; these networks halve it five times and need at least 32")
    build = GraphBuilder(name, seed)
    build.graph.metadata.update({"architecture": name, **metadata})
    return build, build.input("image", (height, width, 3))


def conv_norm(
    build: GraphBuilder,
    x: str,
    name: str,
    inputs: int,
    outputs: int,
    style: Style,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
) -> str:
    """`name.conv`, `name.norm` and, if wanted, the activation."""
    x = build.conv(
        x,
        f"{name}.conv",
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        stride=stride,
        groups=groups,
        padding=style.padding,
    )
    x = build.batch_norm(x, f"{name}.norm", outputs, eps=style.eps, momentum=style.momentum)
    if not activate:
        return x
    slope: dict[str, Attribute] = {"alpha": style.slope} if style.slope else {}
    return str(build.op(style.activation, x, name=f"{name}.{style.activation}", outputs=1, **slope))


def squeeze_excite(build: GraphBuilder, x: str, name: str, channels: int, squeeze: Squeeze) -> str:
    """Multiply each channel by a gate that follows from the means of all channels.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks", section 3.
    """
    y = str(build.op("global_average_pool", x, name=f"{name}.pool"))
    y = build.conv(y, f"{name}.reduce", inputs=channels, outputs=squeeze.channels, bias=True)
    y = str(build.op(squeeze.activation, y, name=f"{name}.{squeeze.activation}"))
    y = build.conv(y, f"{name}.expand", inputs=squeeze.channels, outputs=channels, bias=True)
    y = str(build.op(squeeze.gate, y, name=f"{name}.gate"))
    return str(build.op("mul", x, y, name=f"{name}.mul"))


def inverted_residual(
    build: GraphBuilder,
    x: str,
    name: str,
    inputs: int,
    outputs: int,
    style: Style,
    *,
    wide: int,
    stride: int,
    kernel: int = 3,
    squeeze: Squeeze | None = None,
    left_out: float = 0.0,
) -> str:
    """Expand to `wide` channels, filter by depth, gate if asked, project, and add the input where shapes allow.

    Where it is added, training leaves out all before for a share `left_out` of the samples (stochastic depth).
    Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", section 3.4.
    """
    y = x
    if wide != inputs:
        y = conv_norm(build, y, f"{name}.expand", inputs, wide, style)
    y = conv_norm(build, y, f"{name}.depthwise", wide, wide, style, kernel=kernel, stride=stride, groups=wide)
    if squeeze is not None:
        y = squeeze_excite(build, y, f"{name}.squeeze", wide, squeeze)
    y = conv_norm(build, y, f"{name}.project", wide, outputs, style, activate=False)
    if stride == 1 and inputs == outputs:
        if left_out > 0:
            y = str(build.op("dropout", y, name=f"{name}.dropout", rate=left_out, samples=True))
        y = str(build.op("add", y, x, name=f"{name}.add"))
    return y


def torchvision_names(theirs: str, ours: str, parts: Sequence[str]) -> dict[str, str]:
    """Beginnings of torchvision's names of an inverted residual's layers, which counts them, and ours."""
    names: dict[str, str] = {}
    for i, part in enumerate(parts):
        layers = {"fc1.": "reduce.", "fc2.": "expand."} if part == "squeeze" else {"0.": "conv.", "1.": "norm."}
        names |= {f"{theirs}.{i}.{a}": f"{ours}.{part}.{b}" for a, b in layers.items()}
    return names


def classify(build: GraphBuilder, x: str, channels: int, classes: int, dropout: float) -> Graph:
    """Mean over the image (`features`), dropout, linear (`classifier`): the network is complete."""
    check_head(classes, dropout)
    x = str(build.op("global_average_pool", x, name="pool"))
    x = str(build.op("flatten", x, name="features"))
    if dropout > 0:
        x = str(build.op("dropout", x, name="dropout", rate=dropout))
    x = build.linear(x, "classifier", channels, classes)
    build.graph.rename(x, "logits")
    return build.build("logits")


def check_head(classes: int, dropout: float) -> None:
    """Raise `OptionError` for what no classifier can have."""
    at_least_one("classes", classes)
    if not 0.0 <= dropout < 1.0:
        raise OptionError(f"dropout is {dropout}; it can be 0 up to but not 1")


def divisible(channels: float, by: int = 8) -> int:
    """Nearest multiple of `by`, but never more than a tenth below `channels`: how these papers round channel counts."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded if rounded >= 0.9 * channels else rounded + by
