"""What ONNX's layers become: convolution, matrix products, norms, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from homespun.formats.assembly import FREE, Pads, Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.layout import CHANNELS_LAST, channel_last, identity
from homespun.formats.onnx.nodes import ForeignNode


def _pair(node: ForeignNode, name: str, default: Sequence[int]) -> tuple[int, int]:
    values = node.get(name, list(default))
    if len(values) != 2 or any(not 0 < v < 2**31 for v in values):
        raise Unsupported(f"{name} is {values}; two positive numbers can be read")
    return (int(values[0]), int(values[1]))


def _padding(node: ForeignNode, size: Sequence[int], kernel: Sequence[int]) -> str | Pads:
    """(top, left, bottom, right), or the rule "same_upper" where the node names it."""
    rule = node.get("auto_pad", "NOTSET")
    if rule == "VALID":
        return (0, 0, 0, 0)
    if rule == "SAME_UPPER":
        return "same_upper"
    if rule == "SAME_LOWER":
        strides, dilations = _pair(node, "strides", (1, 1)), _pair(node, "dilations", (1, 1))
        total = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
        ]
        return (total[0] - total[0] // 2, total[1] - total[1] // 2, total[0] // 2, total[1] // 2)
    pads = node.get("pads", [0, 0, 0, 0])
    if rule != "NOTSET" or len(pads) != 4 or any(not 0 <= p < 2**31 for p in pads):
        raise Unsupported(f"auto_pad is {rule!r}, pads are {pads}; four numbers that are not negative can be read")
    return (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3]))


def conv(imp: Conversion, node: ForeignNode) -> None:
    """`Conv` over images, grouped and depthwise included; a sequence is an image of one row."""
    weight, rank = imp.constant(node, 1, "weight"), len(imp.shape(node.inputs[0]))
    if weight.ndim != rank or rank not in (3, 4):
        raise Unsupported(f"it convolves {weight.ndim - 2} axes; one and two can be")
    x = imp.channels_last(node.inputs[0])
    if rank == 3:
        node, weight = _in_one_row(node), weight[:, :, None]
        batch, length, channels = imp.types[x].shape
        x = imp.reshape(x, (batch, 1, length, channels))
    padding = _padding(node, imp.types[x].shape[1:3], weight.shape[2:])
    if isinstance(padding, tuple):
        x, padding = imp.padded_before(x, padding)
    inputs = [x, imp.layer_weight(node.inputs[1], "weight", weight.transpose(2, 3, 1, 0))]
    if node.has(2):
        inputs.append(imp.layer_weight(node.inputs[2], "bias", imp.constant(node, 2, "bias")))
    y = imp.emit(
        "conv2d",
        inputs,
        stride=_pair(node, "strides", (1, 1)),
        dilation=_pair(node, "dilations", (1, 1)),
        padding=padding,
        groups=node.get("group", 1),
    )
    if rank == 3:
        y = imp.reshape(y, (imp.types[y].shape[0], *imp.types[y].shape[2:]))
    imp.set(node.outputs[0], y, channel_last(rank))


def _in_one_row(node: ForeignNode) -> ForeignNode:
    """The node with the attributes of a window over images whose first axis is one long."""
    more = {k: [1, *node.get(k, [1])] for k in ("strides", "dilations")}
    before, after = node.get("pads", [0, 0])
    return replace(node, attributes={**node.attributes, **more, "pads": [0, before, 0, after]})


def _linear(imp: Conversion, node: ForeignNode, weight: Any, bias: Any) -> None:
    """A matrix product with a constant (K, M), over the last axis."""
    value = imp.value(node.inputs[0])
    rank = len(value.axes)
    kind = "weight"
    if value.image is not None:
        c, h, w = value.image
        if weight.shape[0] != c * h * w:
            raise Unsupported(f"{c * h * w} inputs do not fit weights {list(weight.shape)}")
        weight = weight.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(c * h * w, -1)
        kind = f"weight/{h}x{w}"
    elif value.axes[-1] != rank - 1:
        value = imp.laid_out(value, identity(rank))
    inputs = [value.name, imp.layer_weight(node.inputs[1], kind, weight)]
    if bias is not None:
        inputs.append(imp.layer_weight(node.inputs[2], "bias", bias))
    y = imp.emit("linear", inputs)
    imp.set(node.outputs[0], y, value.axes)


def gemm(imp: Conversion, node: ForeignNode) -> None:
    """`Gemm` with constant weights: alpha x W + beta c."""
    if node.get("transA", 0):
        raise Unsupported("its first operand is transposed")
    weight = imp.constant(node, 1, "weight")
    weight = weight.T if node.get("transB", 0) else weight
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    bias = None
    if node.has(2) and beta != 0:
        given = imp.constant(node, 2, "bias")
        if given.size not in (1, weight.shape[1]) or given.shape[:-1].count(1) != max(0, given.ndim - 1):
            raise Unsupported(f"its bias has the shape {list(given.shape)}; one number a column can be read")
        spread = np.broadcast_to(given.reshape(-1), (weight.shape[1],))
        bias = spread if beta == 1 else spread * np.float32(beta)
    _linear(imp, node, weight if alpha == 1 else weight * np.float32(alpha), bias)


def matmul(imp: Conversion, node: ForeignNode) -> None:
    """`MatMul` with constant weights (K, M), or of two computed tensors."""
    if not any(imp.is_constant(n) for n in node.inputs):
        products(imp, node)
        return
    weight = imp.constant(node, 1, "second operand")
    if weight.ndim != 2 or imp.is_constant(node.inputs[0]):
        raise Unsupported(f"its constant operand has {weight.ndim} axes; second operands with two can be read")
    _linear(imp, node, weight, None)


def products(imp: Conversion, node: ForeignNode) -> None:
    """`MatMul` of two computed tensors; a transpose of the last axes before it becomes part of it."""
    names, transposed = [], []
    for name in node.inputs:
        value, rank = imp.value(name), len(imp.shape(name))
        if rank < 2:
            raise Unsupported("it multiplies a vector")
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        transposed.append(value.image is None and value.axes == swapped)
        names.append(value.name if transposed[-1] else imp.plain(name))
    y = imp.emit("matmul", names, transpose_a=transposed[0], transpose_b=transposed[1])
    imp.set(node.outputs[0], y)


def einsum(imp: Conversion, node: ForeignNode) -> None:
    """`Einsum` that is one product of matrices for each entry of the axes before, as in attention."""
    equation = node.get("equation", "").replace(" ", "")
    operands, _, out = equation.partition("->")
    sides = operands.split(",")
    if len(sides) != 2 or any(len(set(s)) != len(s) or not s.isalpha() for s in (*sides, out)):
        raise Unsupported(f"its equation is {equation!r}; products of two tensors can be read")
    a, b = sides
    batch = [i for i in out if i in a and i in b]
    inner = [i for i in a if i in b and i not in out]
    rows, columns = [i for i in a if i not in b], [i for i in b if i not in a]
    if (len(inner), len(rows), len(columns)) != (1, 1, 1) or {*rows, *columns, *batch} != set(out):
        raise Unsupported(
            f"its equation is {equation!r}; products of matrices, for each entry of other axes, can be read"
        )
    names = []
    for name, have, want in (
        (node.inputs[0], a, [*batch, *rows, *inner]),
        (node.inputs[1], b, [*batch, *inner, *columns]),
    ):
        names.append(imp.laid_out(imp.value(name), tuple(have.index(i) for i in want)).name)
    made = [*batch, *rows, *columns]
    imp.set(node.outputs[0], imp.emit("matmul", names), [out.index(i) for i in made])


def pool(imp: Conversion, node: ForeignNode) -> None:
    """`MaxPool` and `AveragePool` over images."""
    kernel = node.get("kernel_shape", [0])
    if len(kernel) != 2 or len(imp.shape(node.inputs[0])) != 4:
        raise Unsupported(f"its window has {len(kernel)} axes; images, with two, can be pooled")
    x = imp.channels_last(node.inputs[0])
    more: dict[str, Any] = {}
    if node.op == "AveragePool":
        more["count_include_pad"] = bool(node.get("count_include_pad", 0))
    elif node.get("storage_order", 0):
        raise Unsupported("storage_order is 1")
    y = imp.emit(
        "max_pool" if node.op == "MaxPool" else "average_pool",
        [x],
        kernel=_pair(node, "kernel_shape", (1, 1)),
        stride=_pair(node, "strides", (1, 1)),
        dilation=_pair(node, "dilations", (1, 1)),
        padding=_padding(node, imp.types[x].shape[1:3], kernel),
        ceil=bool(node.get("ceil_mode", 0)),
        **more,
    )
    imp.set(node.outputs[0], y, CHANNELS_LAST)


def conv_transpose(imp: Conversion, node: ForeignNode) -> None:
    """`ConvTranspose` over images."""
    weight = imp.constant(node, 1, "weight")
    if weight.ndim != 4 or len(imp.shape(node.inputs[0])) != 4:
        raise Unsupported(f"it convolves {weight.ndim - 2} axes; images, with two, can be")
    x = imp.channels_last(node.inputs[0])
    stride, dilation = _pair(node, "strides", (1, 1)), _pair(node, "dilations", (1, 1))
    sides = zip(imp.types[x].shape[1:3], stride, weight.shape[2:], dilation, strict=True)
    more = node.get("output_padding", [0, 0])
    reach = [(n - 1) * s + (k - 1) * d + 1 + o for (n, s, k, d), o in zip(sides, more, strict=True)]
    rule, pads = node.get("auto_pad", "NOTSET"), [int(p) for p in node.get("pads", [0, 0, 0, 0])]
    wanted = node.attributes.get("output_shape")
    if wanted is None and rule.startswith("SAME"):
        wanted = [n * s for n, s in zip(imp.types[x].shape[1:3], stride, strict=True)]
    if wanted is not None:
        total = [r - int(w) for r, w in zip(reach, wanted[-2:], strict=True)]
        lesser = [t // 2 for t in total]
        before = lesser if rule == "SAME_UPPER" else [t - h for t, h in zip(total, lesser, strict=True)]
        pads = [*before, *(t - b for t, b in zip(total, before, strict=True))]
    if len(pads) != 4 or any(not 0 <= p < 2**31 for p in pads):
        raise Unsupported(f"its pads are {pads}; four numbers that are not negative can be read")
    y = imp.emit(
        "conv2d_transpose",
        [x, imp.layer_weight(node.inputs[1], "weight", weight.transpose(2, 3, 1, 0))],
        size=(reach[0] - pads[0] - pads[2], reach[1] - pads[1] - pads[3]),
        stride=stride,
        dilation=dilation,
        padding=(pads[0], pads[1], pads[2], pads[3]),
        groups=node.get("group", 1),
    )
    if node.has(2):
        y = imp.emit("add", [y, imp.layer_weight(node.inputs[2], "bias", imp.constant(node, 2, "bias"))])
    imp.set(node.outputs[0], y, CHANNELS_LAST)


def resize(imp: Conversion, node: ForeignNode) -> None:
    """`Resize` of images, nearest or linear."""
    if len(imp.shape(node.inputs[0])) != 4:
        raise Unsupported("its input is no image")
    x = imp.channels_last(node.inputs[0])
    mode, coordinates = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    rounding, policy = node.get("nearest_mode", "round_prefer_floor"), node.get("keep_aspect_ratio_policy", "stretch")
    plain = not node.get("antialias", 0) and not node.get("exclude_outside", 0) and policy == "stretch"
    if mode not in ("nearest", "linear") or not plain:
        raise Unsupported(f"mode {mode!r} with its settings; 'nearest' and 'linear', which stretch, can be read")
    by_size = node.has(3)
    given = imp.constant(node, 3 if by_size else 2, "size").tolist()
    axes = [int(a) % 4 for a in node.get("axes", list(range(4)))]
    old = imp.shape(node.inputs[0])
    found = dict(zip(axes, given, strict=True))
    for axis in (0, 1):
        unchanged = (old[axis], imp.declared_batch if axis == 0 else None) if by_size else (1.0,)
        if axis in found and found[axis] not in unchanged:
            raise Unsupported("it resizes the batch or the channels")
    before = old[2:]
    scale: tuple[float, ...] = (0.0, 0.0)
    if by_size:
        size = tuple(int(found.get(i + 2, n)) for i, n in enumerate(before))
    else:
        scale = tuple(float(found.get(i + 2, 1.0)) for i in range(2))
        size = tuple(math.floor(np.float32(n) * np.float32(s)) for n, s in zip(before, scale, strict=True))
        if all(abs(n * s - m) < 1e-3 for n, s, m in zip(before, scale, size, strict=True)):
            scale = (0.0, 0.0)  # that of the sizes, which is exact
    if coordinates == "pytorch_half_pixel":
        if 1 in size:
            raise Unsupported("it goes by pytorch_half_pixel to a single pixel")
        coordinates = "half_pixel"
    repeats = [m % n == 0 for n, m in zip(before, size, strict=True)]
    if (mode, coordinates, rounding, scale) == ("nearest", "asymmetric", "floor", (0.0, 0.0)) and all(repeats):
        y = imp.emit("upsample", [x], factor=tuple(m // n for n, m in zip(before, size, strict=True)))
    else:
        how: dict[str, Any] = {"mode": mode, "coordinates": coordinates, "rounding": rounding}
        y = imp.emit("resize", [x], size=size, scale=scale, **how)
    imp.set(node.outputs[0], y, CHANNELS_LAST)


def global_pool(imp: Conversion, node: ForeignNode) -> None:
    """`GlobalAveragePool` and `GlobalMaxPool` over images."""
    if len(imp.shape(node.inputs[0])) != 4:
        raise Unsupported("its input is no image")
    x = imp.channels_last(node.inputs[0])
    if node.op == "GlobalAveragePool":
        y = imp.emit("global_average_pool", [x])
    else:
        y = imp.emit("reduce_max", [x], axes=(1, 2), keep_axes=True)
    imp.set(node.outputs[0], y, CHANNELS_LAST)


def reduce(imp: Conversion, node: ForeignNode) -> None:
    """`ReduceMean`, `ReduceSum`, `ReduceMax`, `ReduceMin`, which is -max(-x), and sums of |x| and x^2 and its root."""
    axes = imp.axes(node)
    value = imp.value(node.inputs[0])
    rank = len(imp.shape(node.inputs[0]))
    value = imp.laid_out(value, identity(rank)) if value.image is not None else value
    if not axes and node.get("noop_with_empty_axes", 0):
        imp.values[node.outputs[0]] = value
        return
    axes = sorted({a % rank for a in axes} if axes else range(rank))
    if any(imp.shape(node.inputs[0])[a] % FREE == 0 for a in axes):
        raise Unsupported("it reduces over the batch")
    keep = bool(node.get("keepdims", 1))
    if node.op == "ReduceMean" and keep and axes == [2, 3] and rank == 4:
        y = imp.emit("global_average_pool", [imp.channels_last(node.inputs[0])])
        imp.set(node.outputs[0], y, CHANNELS_LAST)
        return
    op, before, after = _REDUCTIONS[node.op]
    x = imp.emit(before, [value.name]) if before else value.name
    y = imp.reduce(op, x, [value.axes.index(a) for a in axes], keep)
    if after == "sqrt":  # whose gradient at zero is none: that of zeros is zero then
        y = imp.emit("clip", [y], low=1e-24, high=math.inf)
    y = imp.emit(after, [y]) if after else y
    left = [a for a in value.axes if keep or a not in axes]
    imp.set(node.outputs[0], y, [sorted(left).index(a) for a in left])


#: What becomes of the operator, and what is done to each element before and to the result.
_REDUCTIONS = {
    "ReduceMean": ("reduce_mean", "", ""),
    "ReduceSum": ("reduce_sum", "", ""),
    "ReduceMax": ("reduce_max", "", ""),
    "ReduceMin": ("reduce_max", "neg", "neg"),
    "ReduceL1": ("reduce_sum", "abs", ""),
    "ReduceL2": ("reduce_sum", "square", "sqrt"),
    "ReduceSumSquare": ("reduce_sum", "square", ""),
}


def softmax(imp: Conversion, node: ForeignNode) -> None:
    """`Softmax` and `LogSoftmax`; before opset 13 over all axes from `axis` on."""
    op = "softmax" if node.op == "Softmax" else "log_softmax"
    shape = imp.shape(node.inputs[0])
    rank = len(shape)
    axis = node.get("axis", -1 if imp.opset >= 13 else 1)
    if not -rank <= axis < rank:
        raise Unsupported(f"axis {axis} is outside its {rank} axes")
    axis %= rank
    if imp.opset < 13 and math.prod(shape[axis + 1 :]) != 1:
        flat = imp.reshape(imp.plain(node.inputs[0]), (math.prod(shape[:axis]), math.prod(shape[axis:])))
        imp.set(node.outputs[0], imp.reshape(imp.emit(op, [flat]), shape))
        return
    value = imp.value(node.inputs[0])
    if value.image is not None or value.axes[-1] != axis:
        value = imp.laid_out(value, (*(i for i in range(rank) if i != axis), axis))
    imp.set(node.outputs[0], imp.emit(op, [value.name]), value.axes)


RULES = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Resize": resize,
    "Gemm": gemm,
    "MatMul": matmul,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    **dict.fromkeys(_REDUCTIONS, reduce),
    "Einsum": einsum,
    "Softmax": softmax,
    "LogSoftmax": softmax,
}
