"""What Caffe's layers with weights, and its pooling and norms, become."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.caffe.network import Layer
from homespun.formats.caffe.text import Message
from homespun.formats.caffe.translation import Shape, Translation

_LARGEST = 2**15


def _pair(settings: Message, name: str, each: str, default: int | None, least: int = 1) -> tuple[int, int]:
    """A size down and across: `kernel_size` once or twice, or `kernel_h` and `kernel_w`."""
    values = settings.integers(name)
    if settings.has(f"{each}_h") or settings.has(f"{each}_w"):
        if values:
            raise Unsupported(f"{name} and {each}_h or {each}_w are both given")
        fallback = -1 if default is None else default
        values = [settings.integer(f"{each}_{side}", fallback) for side in "hw"]
    if not values and default is not None:
        values = [default]
    if len(values) not in (1, 2) or any(not least <= v < _LARGEST for v in values):
        raise Unsupported(f"{name} is {values[:8]}; one number for images, or two, from {least} can be read")
    return values[0], values[-1]


def _image(shape: Shape) -> Shape:
    if len(shape) != 4:
        raise Unsupported(f"its input has {len(shape)} axes; images (N, C, H, W) can be read")
    return shape


def _window(settings: Message) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(kernel, stride, padding) of a convolution or pooling."""
    return (
        _pair(settings, "kernel_size", "kernel", None),
        _pair(settings, "stride", "stride", 1),
        _pair(settings, "pad", "pad", 0, least=0),
    )


def convolution(net: Translation, layer: Layer) -> None:
    """`Convolution` and `Deconvolution`, grouped and dilated; `DepthwiseConvolution` of forks has a group a channel."""
    x, shape = net.read(layer)
    n, channels, height, width = _image(shape)
    settings = layer.settings("convolution_param")
    kernel, stride, pad = _window(settings)
    dilation = _pair(settings, "dilation", "dilation", 1)
    depthwise, turned = "Depthwise" in layer.kind, layer.kind == "Deconvolution"
    groups = settings.integer("group", channels if depthwise else 1)
    outputs = settings.integer("num_output", channels if depthwise else 0)
    if groups < 1 or outputs < 1 or channels % groups or outputs % groups or settings.integer("axis", 1) != 1:
        raise Unsupported(f"{channels} to {outputs} channels in {groups} groups can't be")
    sides = (channels, outputs // groups) if turned else (outputs, channels // groups)
    inputs = [x, net.weight(layer, 0, (*sides, *kernel), "weight")]
    if settings.flag("bias_term", True):
        inputs.append(net.weight(layer, 1, (outputs,), "bias"))
    settings.ignore("weight_filler", "bias_filler", "engine", "force_nd_im2col")
    size = []
    for length, k, s, p, d in zip((height, width), kernel, stride, pad, dilation, strict=True):
        span = (k - 1) * d + 1
        size.append(s * (length - 1) + span - 2 * p if turned else (length + 2 * p - span) // s + 1)
    y = net.emit(
        layer,
        "ConvTranspose" if turned else "Conv",
        inputs,
        (n, outputs, *size),
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilation),
        pads=[*pad, *pad],
        group=groups,
    )
    net.give(layer, y)


def inner_product(net: Translation, layer: Layer) -> None:
    """`InnerProduct`: of all axes from `axis` on, taken together."""
    x, shape = net.read(layer)
    settings = layer.settings("inner_product_param")
    axis = axis_of(settings.integer("axis", 1), len(shape))
    outputs, inner = settings.integer("num_output", 0), math.prod(shape[axis:])
    if axis < 1 or outputs < 1:
        raise Unsupported(f"axis {axis} and {outputs} outputs can't be")
    transposed = settings.flag("transpose", False)
    weight = net.weight(layer, 0, (inner, outputs) if transposed else (outputs, inner), "weight")
    bias = [net.weight(layer, 1, (outputs,), "bias")] if settings.flag("bias_term", True) else []
    settings.ignore("weight_filler", "bias_filler", "engine")
    if axis == 1:
        flat = x if len(shape) == 2 else net.emit(layer, "Flatten", [x], (shape[0], inner), axis=1)
        y = net.emit(layer, "Gemm", [flat, weight, *bias], (shape[0], outputs), transB=0 if transposed else 1)
        net.give(layer, y)
        return
    rows = net.emit(layer, "Reshape", [x, net.whole_numbers(layer, *([0] * axis), inner)], (*shape[:axis], inner))
    if not transposed:
        weight = net.constant(f"{layer.name}.weight", net.constants[weight].T)
    y = net.emit(layer, "MatMul", [rows, weight], (*shape[:axis], outputs))
    net.give(layer, net.emit(layer, "Add", [y, *bias], net.shapes[y] or ()) if bias else y)


def pooling(net: Translation, layer: Layer) -> None:
    """`Pooling`: sizes are rounded up, and an average counts padding, as Caffe has it."""
    x, shape = net.read(layer)
    n, channels, height, width = _image(shape)
    settings = layer.settings("pooling_param")
    op = {"MAX": "Max", "AVE": "Average"}[settings.word("pool", "MAX", "AVE")]
    settings.ignore("engine")
    if settings.flag("global_pooling", False):
        settings.ignore("kernel_size", "kernel_h", "kernel_w")  # that of the image, whatever is said
        if any(_window_free(settings)):
            raise Unsupported("it pools the whole image, with padding or strides")
        net.give(layer, net.emit(layer, f"Global{op}Pool", [x], (n, channels, 1, 1)))
        return
    kernel, stride, pad = _window(settings)
    up = settings.word("round_mode", "CEIL", "FLOOR") == "CEIL" and settings.flag("ceil_mode", True)
    size = []
    for length, k, s, p in zip((height, width), kernel, stride, pad, strict=True):
        span = length + 2 * p - k
        if span < 0 or p >= k:
            raise Unsupported(f"a window of {k} with padding {p} does not fit an image of {length}")
        count = (-(-span // s) if up else span // s) + 1
        if up and (count - 1) * s >= length + p:
            if p == 0:
                raise Unsupported("its last window lies outside the image: strides are longer than windows")
            count -= 1
        size.append(count)
    more: dict[str, Any] = {"count_include_pad": 1} if op == "Average" and any(pad) else {}
    y = net.emit(
        layer,
        f"{op}Pool",
        [x],
        (n, channels, *size),
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*pad, *pad],
        ceil_mode=int(up),
        **more,
    )
    net.give(layer, y)


def _window_free(settings: Message) -> list[bool]:
    """Whether strides, or padding, are other than none."""
    settings.ignore("round_mode", "ceil_mode")
    strides, pads = _pair(settings, "stride", "stride", 1), _pair(settings, "pad", "pad", 0, least=0)
    return [strides != (1, 1), pads != (0, 0)]


def lrn(net: Translation, layer: Layer) -> None:
    """`LRN` across channels, or within each over a square of pixels."""
    x, shape = net.read(layer)
    _image(shape)
    settings = layer.settings("lrn_param")
    size, settings_alpha = settings.integer("local_size", 5), settings.number("alpha", 1.0)
    beta, k = settings.number("beta", 0.75), settings.number("k", 1.0)
    settings.ignore("engine")
    if not 0 < size < _LARGEST or size % 2 == 0:
        raise Unsupported(f"local_size is {size}; odd numbers can be read")
    if settings.word("norm_region", "ACROSS_CHANNELS", "WITHIN_CHANNEL") == "ACROSS_CHANNELS":
        net.give(layer, net.emit(layer, "LRN", [x], shape, size=size, alpha=settings_alpha, beta=beta, bias=k))
        return
    # x (1 + alpha mean(x^2))^-beta, the mean one that counts padding; Caffe doesn't use k here
    square = net.emit(layer, "Mul", [x, x], shape)
    window = {"kernel_shape": [size, size], "strides": [1, 1], "pads": [size // 2] * 4, "count_include_pad": 1}
    mean = net.emit(layer, "AveragePool", [square], shape, **window)
    scaled = net.emit(layer, "Mul", [mean, net.number(layer, settings_alpha)], shape)
    base = net.emit(layer, "Add", [scaled, net.number(layer, 1.0)], shape)
    logarithm = net.emit(layer, "Log", [base], shape)
    factor = net.emit(layer, "Exp", [net.emit(layer, "Mul", [logarithm, net.number(layer, -beta)], shape)], shape)
    net.give(layer, net.emit(layer, "Mul", [x, factor], shape))


def batch_norm(net: Translation, layer: Layer) -> None:
    """`BatchNorm`: a sum of means, a sum of variances, and what to divide both by. A `Scale` behind it joins it."""
    x, shape = net.read(layer)
    settings = layer.settings("batch_norm_param")
    if len(shape) not in (2, 4):
        raise Unsupported(f"its input has {len(shape)} axes; 2 or 4 can be read")
    channels = shape[1]
    total = net.blob(layer, 2, (1,), "count of batches").item()
    mean, variance = (
        net.blob(layer, i, (channels,), what) * np.float32(1.0 / total if total else 0.0)
        for i, what in enumerate(("mean", "variance"))
    )
    inputs = [
        x,
        net.constant(f"{layer.name}.weight", np.ones(channels, np.float32)),
        net.constant(f"{layer.name}.bias", np.zeros(channels, np.float32)),
        net.constant(f"{layer.name}.running_mean", mean),
        net.constant(f"{layer.name}.running_var", variance),
    ]
    fraction = settings.number("moving_average_fraction", 0.999)
    settings.ignore("use_global_stats")
    eps = settings.number("eps", 1e-5)
    net.give(layer, net.emit(layer, "BatchNormalization", inputs, shape, epsilon=eps, momentum=fraction))


def scale(net: Translation, layer: Layer) -> None:
    """`Scale` and `Bias`: by weights along some axes, or by another blob."""
    x, shape = net.read(layer)
    is_scale = layer.kind == "Scale"
    settings = layer.settings("scale_param" if is_scale else "bias_param")
    settings.ignore("filler", "bias_filler")
    with_bias = is_scale and settings.flag("bias_term", False)
    op = "Mul" if is_scale else "Add"
    first = axis_of(settings.integer("axis", 1), len(shape))
    if len(layer.bottoms) == 2:
        other, inner = net.read(layer, 1)
        settings.ignore("num_axes")
        first = first if inner else 0
        if shape[first : first + len(inner)] != inner:
            raise Unsupported(f"{list(inner)} does not fit axes {first} and on of {list(shape)}")
        last = first + len(inner)
        if last < len(shape):
            ones = [1] * (len(shape) - last)
            target = net.whole_numbers(layer, *([0] * len(inner)), *ones)
            other = net.emit(layer, "Reshape", [other, target], (*inner, *ones))
        y = net.emit(layer, op, [x, other], shape)
    else:
        count = settings.integer("num_axes", 1)
        last = len(shape) if count == -1 else first + count
        if first == 0 or not first <= last <= len(shape):
            raise Unsupported(f"axes {first} to {last} of {len(shape)} can't be")
        inner = shape[first:last]
        if is_scale and (joined := _joined(net, layer, inner, with_bias)):
            net.give(layer, joined)
            return
        spread = (*inner, *([1] * (len(shape) - last)))
        y = net.emit(layer, op, [x, net.weight(layer, 0, spread, "weight" if is_scale else "bias")], shape)
    if with_bias:
        spread = (*shape[first:last], *([1] * (len(shape) - last)))
        y = net.emit(layer, "Add", [y, net.weight(layer, 2 - len(layer.bottoms), spread, "bias")], shape)
    net.give(layer, y)


def _joined(net: Translation, layer: Layer, inner: Shape, with_bias: bool) -> str:
    """The result of the batch norm that a scale of its channels directly follows, which becomes that of both."""
    x, shape = net.read(layer)
    norm = net.nodes[-1] if net.nodes else None
    if norm is None or norm.op != "BatchNormalization" or norm.outputs != [x] or not net.is_read_once(layer):
        return ""
    if inner != shape[1:2] or any(layer.shared):
        return ""
    for i, name in enumerate(norm.inputs[1:3]):
        if i == 0 or with_bias:
            net.constants.pop(name)
            norm.inputs[1 + i] = net.weight(layer, i, inner, ("weight", "bias")[i])
    return x


def prelu(net: Translation, layer: Layer) -> None:
    """`PReLU`: a slope for each channel, or one for all."""
    x, shape = net.read(layer)
    settings = layer.settings("prelu_param")
    settings.ignore("filler")
    if settings.flag("channel_shared", False):
        slope = net.weight(layer, 0, (1,), "slope")
    else:
        slope = net.weight(layer, 0, (shape[1], *([1] * (len(shape) - 2))), "slope")
    net.give(layer, net.emit(layer, "PRelu", [x, slope], shape))


def normalize(net: Translation, layer: Layer) -> None:
    """`Normalize` of single-shot detectors: each pixel's channels to length one, times weights."""
    x, shape = net.read(layer)
    settings = layer.settings("norm_param")
    settings.ignore("scale_filler")
    if settings.flag("across_spatial", True):
        raise Unsupported("it normalises over the whole image; over each pixel's channels can be read")
    n, _, height, width = _image(shape)
    one = (n, 1, height, width)
    square = net.emit(layer, "Mul", [x, x], shape)
    total = net.emit(layer, "ReduceSum", [square, net.whole_numbers(layer, 1)], one, keepdims=1)
    total = net.emit(layer, "Add", [total, net.number(layer, settings.number("eps", 1e-10))], one)
    y = net.emit(layer, "Div", [x, net.emit(layer, "Sqrt", [total], one)], shape)
    count = 1 if settings.flag("channel_shared", True) else shape[1]
    net.give(layer, net.emit(layer, "Mul", [y, net.weight(layer, 0, (count, 1, 1), "weight")], shape))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front. Raises `Unsupported` outside the rank."""
    if not -rank <= axis < rank:
        raise Unsupported(f"axis {axis} is outside its {rank} axes")
    return axis % rank


RULES = {
    **dict.fromkeys(("Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution"), convolution),
    **{"InnerProduct": inner_product, "Pooling": pooling, "LRN": lrn, "BatchNorm": batch_norm, "PReLU": prelu},
    **{"Scale": scale, "Bias": scale, "Normalize": normalize},
}
