"""What a model computes: one file for each operator family; all that is known about an operator is there."""

from homespun.graph import operator as _table
from homespun.ops import (
    activation,
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    reduction,
    shape,
    softmax,
)

FAMILIES = (activation, convolution, elementwise, linear, normalization, pooling, reduction, shape, softmax)

_table.OPERATORS.update({op.name: op for family in FAMILIES for op in family.OPERATORS})

__all__ = ["FAMILIES"]
