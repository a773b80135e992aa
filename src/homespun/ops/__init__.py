"""What a model computes: one file for each operator family; all that is known about an operator is there."""

from homespun.graph import operator as _table
from homespun.ops import (
    activation,
    attention,
    channels,
    convolution,
    detection,
    elementwise,
    embedding,
    gradient,
    inverted_residual,
    layer_norm,
    linear,
    loss,
    matmul,
    normalization,
    parts,
    pooling,
    quantized,
    reduction,
    resize,
    shape,
    softmax,
    training_convolution,
    training_norm,
    transposed_convolution,
    update,
)

FAMILIES = (
    *(activation, channels, convolution, elementwise, linear, normalization, parts, pooling, reduction),
    *(shape, softmax),
    # what encoders are made of, beside these
    *(attention, embedding, layer_norm, matmul),
    # how images become larger
    *(resize, transposed_convolution),
    # what the compiler puts in place of others for 8-bit weights
    quantized,
    # what it puts in place of others for speed, in inference
    inverted_residual,
    # what only training graphs hold
    *(detection, gradient, loss, training_convolution, training_norm, update),
)

_table.OPERATORS.update({op.name: op for family in FAMILIES for op in family.OPERATORS})

__all__ = ["FAMILIES"]
