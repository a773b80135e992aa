"""What MindSpore's layers are in ONNX's terms: convolution, products, norms, pooling, look-ups."""

from __future__ import annotations

from typing import Any

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.mindir.operation import Operation, Ref, Value
from homespun.formats.mindir.translation import Translation

_PAD_MODES = {0: "pad", 1: "same", 2: "valid"}


def _last_two(op: Operation, i: int, name: str, neutral: int = 1) -> list[int]:
    """A setting for height and width: one number for both, or the last two of (N, C, H, W) or (D, H, W).

    `neutral` is what does nothing, which it must be for other axes, and is where nothing is said.
    """
    found = op.numbers(i, name, (neutral,))
    if not found or any(n != neutral for n in found[:-2]):
        raise Unsupported(f"its {name} is {list(found)}; images, with two axes, can be read")
    return [found[0], found[0]] if len(found) == 1 else list(found[-2:])


def _padding(op: Operation, i: int = -1, pads: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Padding by its mode; MindSpore's order is top, bottom, left, right."""
    mode = op.setting(i, "pad_mode", None)
    mode = _PAD_MODES.get(mode, mode) if isinstance(mode, int) else mode or "valid"
    if str(mode).lower() == "same":
        return {"auto_pad": "SAME_UPPER"}
    if str(mode).lower() == "valid":
        return {}
    if str(mode).lower() != "pad":
        raise Unsupported(f"its pad_mode is {mode!r}")
    found = pads if pads is not None else op.numbers(-1, "pad_list", op.numbers(-1, "pad", (0,)))
    top, bottom, left, right = found * 4 if len(found) == 1 else found[-4:]
    return {"pads": [top, left, bottom, right]}


def _channels_first(op: Operation, i: int = -1) -> None:
    layout = op.setting(i, "format", None) if i < len(op.inputs) else None
    if layout not in (None, 0, "NCHW", "NCDHW", "DefaultFormat"):
        raise Unsupported(f"its format is {layout!r}; export it with NCHW")


def conv(t: Translation, op: Operation) -> Value:
    """`Conv2D`."""
    _channels_first(op)
    return t.emit(
        "Conv",
        [op.ref(0).name, op.ref(1).name],
        strides=_last_two(op, -1, "stride"),
        dilations=_last_two(op, -1, "dilation"),
        group=op.setting(-1, "group", op.setting(-1, "groups", 1)),
        **_padding(op),
    )


def conv_ext(t: Translation, op: Operation) -> Value:
    """`Conv2DExt` and `Conv2DPadding` of `mindspore.mint`: (x, weight, bias, stride, padding, dilation, groups)."""
    given = op.setting(4, "padding")
    if isinstance(given, str):
        if given != "valid" and _last_two(op, 3, "stride") != [1, 1]:
            raise Unsupported(f"its padding is {given!r} with a stride")
        padding: dict[str, Any] = {} if given == "valid" else {"auto_pad": "SAME_UPPER"}
    else:
        high, wide = _last_two(op, 4, "padding", neutral=0)
        padding = {"pads": [high, wide, high, wide]}
    return t.emit(
        "Conv",
        [op.ref(0).name, op.ref(1).name, *([op.ref(2).name] if op.has(2) else [])],
        strides=_last_two(op, 3, "stride"),
        dilations=_last_two(op, 5, "dilation"),
        group=op.setting(6, "groups", 1),
        **padding,
    )


def conv_transpose(t: Translation, op: Operation) -> Value:
    """`Conv2DTranspose`, padded as the convolution that it is the gradient of, to the size that the file says."""
    _channels_first(op)
    x, weight = op.ref(0), op.ref(1)
    strides, dilations = _last_two(op, -1, "stride"), _last_two(op, -1, "dilation")
    top, bottom, left, right = op.numbers(-1, "pad_list")
    sizes = t.shape(x)[-2:], t.shape(weight)[-2:], op.results[0].shape[-2:]
    pads = (top + bottom, left + right)
    more = [
        wanted - ((n - 1) * stride + (k - 1) * dilation + 1 - pad)
        for n, k, wanted, stride, dilation, pad in zip(*sizes, strides, dilations, pads, strict=True)
    ]
    return t.emit(
        "ConvTranspose",
        [x.name, weight.name],
        strides=strides,
        dilations=dilations,
        group=op.setting(-1, "group", op.setting(-1, "groups", 1)),
        pads=[top, left, bottom, right],
        output_padding=more,
    )


def resize(t: Translation, op: Operation) -> Value:
    """`ResizeNearestNeighborV2`, `ResizeBilinearV2` and their older forms: (x, size, align corners, half pixels)."""
    aligned, half = op.setting(2, "align_corners", False), op.setting(3, "half_pixel_centers", False)
    nearest = "Nearest" in op.kind
    if aligned and nearest:
        raise Unsupported("it aligns corners")
    how = {
        "mode": "nearest" if nearest else "linear",
        "coordinate_transformation_mode": "align_corners" if aligned else "half_pixel" if half else "asymmetric",
        "nearest_mode": "round_prefer_ceil" if half else "floor",
    }
    return t.emit("Resize", [op.ref().name, "", "", t.constant(op.numbers(1, "size"))], axes=[2, 3], **how)


def response_norm(t: Translation, op: Operation) -> Value:
    """`LRN` over channels."""
    size = 2 * op.setting(-1, "depth_radius", 5) + 1
    alpha = op.setting(-1, "alpha", 1.0) * size  # of the sum there, of the mean in ONNX
    how = {"alpha": alpha, "beta": op.setting(-1, "beta", 0.5), "bias": op.setting(-1, "bias", 1.0)}
    return t.emit("LRN", [op.ref().name], size=size, **how)


def bias_add(t: Translation, op: Operation) -> Value:
    """`BiasAdd` along axis 1: part of the layer before it, unless somebody else reads that."""
    _channels_first(op, 2)
    x, bias = op.ref(0), op.ref(1)
    layer = t.makers.get(x.name)
    if (
        layer is not None
        and layer.op in ("Conv", "ConvTranspose", "Gemm")
        and len(layer.inputs) == 2
        and x.name in t.once
    ):
        layer.inputs.append(bias.name)
        return x
    rank = len(t.shape(x))
    if rank > 2:
        bias = t.emit("Unsqueeze", [bias.name], axes=list(range(1, rank - 1)))
    return t.emit("Add", [x.name, bias.name])


def _transposed(t: Translation, x: Ref) -> Ref:
    rank = len(t.shape(x))
    return t.emit("Transpose", [x.name], perm=[*range(rank - 2), rank - 1, rank - 2])


def matmul(t: Translation, op: Operation) -> Value:
    """`MatMul`, `BatchMatMul`, `MatMulExt`: (a, b, transpose a, transpose b)."""
    a, b = op.ref(0), op.ref(1)
    first, second = op.setting(2, "transpose_a", False), op.setting(3, "transpose_b", False)
    if first:
        a = _transposed(t, a)
    if second and t.is_constant(b.name) and len(t.shape(b)) == 2:
        return t.emit("Gemm", [a.name, b.name], transB=1)
    if second:
        b = _transposed(t, b)
    return t.emit("MatMul", [a.name, b.name])


def dense(t: Translation, op: Operation) -> Value:
    """`Dense`: (x, weight, bias), weights (outputs, inputs)."""
    inputs = [op.ref(0).name, op.ref(1).name, *([op.ref(2).name] if op.has(2) else [])]
    return t.emit("Gemm", inputs, transB=1)


def batch_norm(t: Translation, op: Operation) -> Value:
    """`BatchNorm` for inference, and for training: the network trains here with the same statistics."""
    _channels_first(op, 8)
    eps, momentum = op.setting(6, "epsilon", 1e-5), op.setting(7, "momentum", 0.1)
    return _batch_norm(t, op, eps, momentum)


def batch_norm_ext(t: Translation, op: Operation) -> Value:
    """`BatchNormExt` of `mindspore.mint`: (x, weight, bias, mean, variance, training, momentum, eps)."""
    return _batch_norm(t, op, op.setting(7, "eps", 1e-5), op.setting(6, "momentum", 0.1))


def _batch_norm(t: Translation, op: Operation, eps: float, momentum: float) -> Value:
    inputs = [op.ref(0).name]
    for i, absent in ((1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0)):
        if op.has(i):
            inputs.append(op.ref(i).name)
        else:
            channels = t.shape(op.ref(0))[1]
            inputs.append(t.constant([absent] * min(channels, 2**16), np.float32))
    # MindSpore weighs the new batch with its momentum, ONNX the old statistics.
    return (t.emit("BatchNormalization", inputs, epsilon=eps, momentum=1.0 - momentum),)


def layer_norm(t: Translation, op: Operation) -> Value:
    """`LayerNorm`: (x, gamma, beta, first axis, first axis of the parameters, eps)."""
    inputs = [op.ref(i).name for i in range(3)]
    axis = op.setting(3, "begin_norm_axis", 1)
    return (t.emit("LayerNormalization", inputs, axis=axis, epsilon=op.setting(5, "epsilon", 1e-7)),)


def layer_norm_ext(t: Translation, op: Operation) -> Value:
    """`LayerNormExt`: (x, normalised shape, weight, bias, eps)."""
    axes = op.numbers(1, "normalized_shape")
    inputs = [op.ref(0).name, op.ref(2).name, *([op.ref(3).name] if op.has(3) else [])]
    return (t.emit("LayerNormalization", inputs, axis=-len(axes), epsilon=op.setting(4, "eps", 1e-5)),)


def pool(t: Translation, op: Operation) -> Value:
    """`MaxPool` and `AvgPool`: (x, kernel, strides, pad mode); averages do not count padding."""
    _channels_first(op, 4)
    return t.emit(
        "MaxPool" if op.kind == "MaxPool" else "AveragePool",
        [op.ref().name],
        kernel_shape=_last_two(op, 1, "kernel_size"),
        strides=_last_two(op, 2, "strides"),
        **_padding(op, 3),
    )


def pool_as_3d(t: Translation, op: Operation) -> Value:
    """`MaxPool3DWithArgmax` and `AvgPool3D` of one image a sample, which is how MindSpore pools with padding."""
    _channels_first(op)
    largest = op.kind == "MaxPool3DWithArgmax"
    x = t.emit("Squeeze", [op.ref().name], axes=[2])
    more: dict[str, Any] = {}
    if largest:
        high, wide = _last_two(op, -1, "pads", neutral=0)
        more = {"pads": [high, wide, high, wide], "dilations": _last_two(op, -1, "dilation")}
    else:
        more = _padding(op)
        more["count_include_pad"] = int(op.setting(-1, "count_include_pad", True))
        if op.setting(-1, "divisor_override", 0):
            raise Unsupported("its divisor is another than the number of pixels")
    y = t.emit(
        "MaxPool" if largest else "AveragePool",
        [x.name],
        kernel_shape=_last_two(op, -1, "ksize" if largest else "kernel_size"),
        strides=_last_two(op, -1, "strides"),
        ceil_mode=int(op.setting(-1, "ceil_mode", False)),
        **more,
    )
    y = t.emit("Unsqueeze", [y.name], axes=[2])
    return (y,) if largest else y


def pool_ext(t: Translation, op: Operation) -> Value:
    """`MaxPoolWithMask` and `AvgPool2D` of `mindspore.mint`: (x, kernel, stride, padding, ...)."""
    high, wide = _last_two(op, 3, "padding", neutral=0)
    both = {"strides": _last_two(op, 2, "stride"), "pads": [high, wide, high, wide]}
    kernel = _last_two(op, 1, "kernel_size")
    if op.kind == "MaxPoolWithMask":
        both["dilations"] = _last_two(op, 4, "dilation")
        ceil = int(op.setting(5, "ceil_mode", False))
        return (t.emit("MaxPool", [op.ref().name], kernel_shape=kernel, ceil_mode=ceil, **both),)
    if op.has(6):
        raise Unsupported("its divisor is another than the number of pixels")
    counts = int(op.setting(5, "count_include_pad", True))
    ceil = int(op.setting(4, "ceil_mode", False))
    return t.emit("AveragePool", [op.ref().name], kernel_shape=kernel, ceil_mode=ceil, count_include_pad=counts, **both)


def adaptive_pool(t: Translation, op: Operation) -> Value:
    """`AdaptiveAvgPool2D` to one pixel, or to a size that divides the image's."""
    x = op.ref()
    wanted = _last_two(op, 1, "output_size")
    if wanted == [1, 1]:
        return t.emit("GlobalAveragePool", [x.name])
    size = list(t.shape(x)[-2:])
    if any(w < 1 or s < 1 or s % w for s, w in zip(size, wanted, strict=True)):
        raise Unsupported(f"its output {wanted} does not divide its input {size}")
    window = [s // w for s, w in zip(size, wanted, strict=True)]
    return t.emit("AveragePool", [x.name], kernel_shape=window, strides=window)


def gather(t: Translation, op: Operation) -> Value:
    """`Gather`: (table, ids, axis, batch dimensions)."""
    if op.setting(3, "batch_dims", 0):
        raise Unsupported("it looks up in another table for each sample")
    return t.emit("Gather", [op.ref(0).name, op.ref(1).name], axis=op.setting(2, "axis", 0))


def embedding(t: Translation, op: Operation) -> Value:
    """`Embedding` of `mindspore.mint`: (ids, table, padding id, largest norm, ...)."""
    if op.has(3):
        raise Unsupported("it shrinks rows to a largest norm")
    return t.emit("Gather", [op.ref(1).name, op.ref(0).name], axis=0)


RULES = {
    **dict.fromkeys(("ResizeNearestNeighbor", "ResizeNearestNeighborV2", "ResizeBilinear", "ResizeBilinearV2"), resize),
    **{"Conv2DTranspose": conv_transpose, "Conv2DBackpropInput": conv_transpose, "LRN": response_norm},
    **{"Conv2D": conv, "Conv2DExt": conv_ext, "Conv2DPadding": conv_ext, "BiasAdd": bias_add},
    **dict.fromkeys(("MatMul", "BatchMatMul", "MatMulExt", "BatchMatMulExt", "Mm"), matmul),
    **{"Dense": dense, "BatchNorm": batch_norm, "BatchNormExt": batch_norm_ext},
    **{"LayerNorm": layer_norm, "LayerNormExt": layer_norm_ext},
    **{"MaxPool": pool, "AvgPool": pool, "MaxPool3DWithArgmax": pool_as_3d, "AvgPool3D": pool_as_3d},
    **{"MaxPoolWithMask": pool_ext, "AvgPool2D": pool_ext},
    **{"AdaptiveAvgPool2D": adaptive_pool, "AdaptiveAvgPool2DExt": adaptive_pool},
    **{"Gather": gather, "Embedding": embedding},
}
