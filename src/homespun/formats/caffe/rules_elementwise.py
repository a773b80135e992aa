"""What Caffe's activations and its arithmetic become."""

from __future__ import annotations

import math

from homespun.formats.assembly import Unsupported
from homespun.formats.caffe.network import Layer
from homespun.formats.caffe.translation import Translation

_UNARY = {"Sigmoid": "Sigmoid", "TanH": "Tanh", "AbsVal": "Abs", "BNLL": "Softplus", "Mish": "Mish"}
_MOST_OPERANDS = 64


def unary(net: Translation, layer: Layer) -> None:
    """A function of each element without settings."""
    x, shape = net.read(layer)
    for name in ("sigmoid_param", "tanh_param", "mish_param"):
        layer.settings(name).ignore("engine")
    net.give(layer, net.emit(layer, _UNARY[layer.kind], [x], shape))


def relu(net: Translation, layer: Layer) -> None:
    """`ReLU`, with a slope below zero if it has one."""
    x, shape = net.read(layer)
    settings = layer.settings("relu_param")
    settings.ignore("engine")
    slope = settings.number("negative_slope", 0.0)
    if slope:
        net.give(layer, net.emit(layer, "LeakyRelu", [x], shape, alpha=slope))
    else:
        net.give(layer, net.emit(layer, "Relu", [x], shape))


def elu(net: Translation, layer: Layer) -> None:
    """`ELU`."""
    x, shape = net.read(layer)
    net.give(layer, net.emit(layer, "Elu", [x], shape, alpha=layer.settings("elu_param").number("alpha", 1.0)))


def clip(net: Translation, layer: Layer) -> None:
    """`Clip`, and the `ReLU6` of forks."""
    x, shape = net.read(layer)
    low, high = 0.0, 6.0
    if layer.kind == "Clip":
        settings = layer.settings("clip_param")
        if not (settings.has("min") and settings.has("max")):
            raise Unsupported("its bounds min and max are missing")
        low, high = settings.number("min", 0.0), settings.number("max", 0.0)
    bounds = [net.number(layer, low), net.number(layer, high)]
    net.give(layer, net.emit(layer, "Clip", [x, *bounds], shape))


def swish(net: Translation, layer: Layer) -> None:
    """`Swish`: x sigmoid(beta x)."""
    x, shape = net.read(layer)
    beta = layer.settings("swish_param").number("beta", 1.0)
    inner = x if beta == 1.0 else net.emit(layer, "Mul", [x, net.number(layer, beta)], shape)
    net.give(layer, net.emit(layer, "Mul", [x, net.emit(layer, "Sigmoid", [inner], shape)], shape))


def power(net: Translation, layer: Layer) -> None:
    """`Power`: (shift + scale x)^power."""
    settings = layer.settings("power_param")
    y, shape = _shifted(net, layer, settings.number("scale", 1.0), settings.number("shift", 0.0))
    exponent = settings.number("power", 1.0)
    if exponent != 1.0:
        y = net.emit(layer, "Pow", [y, net.number(layer, exponent)], shape)
    net.give(layer, y)


def exponential(net: Translation, layer: Layer) -> None:
    """`Exp` and `Log`: base^(shift + scale x), and the logarithm of that inside; the base is e, or a number."""
    settings = layer.settings("exp_param" if layer.kind == "Exp" else "log_param")
    base, scale, shift = settings.number("base", -1.0), settings.number("scale", 1.0), settings.number("shift", 0.0)
    if base != -1.0 and (base <= 0 or base == 1.0):
        raise Unsupported(f"its base is {base}")
    by = 1.0 if base == -1.0 else math.log(base)
    if layer.kind == "Exp":
        y, shape = _shifted(net, layer, scale * by, shift * by)
        net.give(layer, net.emit(layer, "Exp", [y], shape))
        return
    y, shape = _shifted(net, layer, scale, shift)
    y = net.emit(layer, "Log", [y], shape)
    net.give(layer, y if by == 1.0 else net.emit(layer, "Mul", [y, net.number(layer, 1.0 / by)], shape))


def _shifted(net: Translation, layer: Layer, scale: float, shift: float) -> tuple[str, tuple[int, ...]]:
    """shift + scale x, always a tensor of its own."""
    x, shape = net.read(layer)
    y = net.emit(layer, "Mul", [x, net.number(layer, scale)], shape) if scale != 1.0 else x
    y = net.emit(layer, "Add", [y, net.number(layer, shift)], shape) if shift != 0.0 else y
    return (net.emit(layer, "Identity", [x], shape) if y == x else y), shape


def eltwise(net: Translation, layer: Layer) -> None:
    """`Eltwise`: a sum with a factor for each operand, a product, the largest."""
    operands = [net.read(layer, i) for i in range(len(layer.bottoms))]
    settings = layer.settings("eltwise_param")
    settings.ignore("stable_prod_grad")
    operation, factors = settings.word("operation", "SUM", "PROD", "MAX"), settings.numbers("coeff")
    shape = operands[0][1]
    if len({s for _, s in operands}) != 1 or not 2 <= len(operands) <= _MOST_OPERANDS:
        raise Unsupported(f"its {len(operands)} operands are no few of one shape")
    if factors and (operation != "SUM" or len(factors) != len(operands)):
        raise Unsupported(f"{len(factors)} factors do not fit a {operation} of {len(operands)}")
    names = [name for name, _ in operands]
    if factors == [1.0, -1.0]:
        net.give(layer, net.emit(layer, "Sub", names, shape))
        return
    for i, factor in enumerate(factors):
        if factor != 1.0:
            names[i] = net.emit(layer, "Mul", [names[i], net.number(layer, factor)], shape)
    op = {"SUM": "Add", "PROD": "Mul", "MAX": "Max"}[operation]
    y = names[0]
    for other in names[1:]:
        y = net.emit(layer, op, [y, other], shape)
    net.give(layer, y)


def axpy(net: Translation, layer: Layer) -> None:
    """`Axpy` of squeeze-and-excitation networks: a number a channel, times x, plus y."""
    (a, factors), (x, shape), (y, other) = (net.read(layer, i) for i in range(3))
    if len(shape) != 4 or shape != other or factors != (*shape[:2], 1, 1):
        raise Unsupported(f"{list(factors)}, {list(shape)} and {list(other)} do not fit")
    net.give(layer, net.emit(layer, "Add", [net.emit(layer, "Mul", [x, a], shape), y], shape))


def dropout(net: Translation, layer: Layer) -> None:
    """`Dropout`, for training here."""
    x, shape = net.read(layer)
    settings = layer.settings("dropout_param")
    if not settings.flag("scale_train", True):
        raise Unsupported("it scales when it tests, not when it trains")
    net.give(layer, net.emit(layer, "Dropout", [x], shape, ratio=settings.number("dropout_ratio", 0.5)))


RULES = {
    **dict.fromkeys(_UNARY, unary),
    **{"ReLU": relu, "ELU": elu, "Clip": clip, "ReLU6": clip, "Swish": swish, "Power": power, "Exp": exponential},
    **{"Log": exponential, "Eltwise": eltwise, "Dropout": dropout, "Axpy": axpy},
}
