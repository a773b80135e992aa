"""Which channels go together where operators pass them on: the rules that several families share, for pruning."""

from __future__ import annotations

from homespun.graph.graph import Node
from homespun.graph.operator import Channels


def each_channel(channels: Channels, node: Node) -> None:
    """Every channel of the output comes from the same channel of the first input, and from no other."""
    channels.give(node.outputs[0], channels.of(node.inputs[0]))


def weighted(channels: Channels, node: Node) -> None:
    """`conv2d` and `linear`: all inputs, of their group, go into every output.

    With groups the same places of all groups go together, so that groups stay equally wide. Where each channel has
    filters of its own (depthwise), these go with it.
    """
    x, weight, bias, residual = (*node.inputs, "", "")[:4]
    if not channels.carries(weight) or (bias and not channels.carries(bias)):
        stay(channels, node)
        return
    shape = channels.type(weight).shape
    inputs, groups = channels.of(x), int(node.attributes.get("groups", 1))  # type: ignore[arg-type]
    if groups > 1 and groups == inputs.size:
        outputs = inputs.repeat(shape[-1] // groups)
        channels.lay(weight, len(shape) - 1, outputs)
        channels.adjust("groups", lambda left: left(inputs))
    else:
        outputs = channels.of(weight)
        if groups > 1:
            channels.couple(*inputs.reshape(groups, -1))
            channels.couple(*outputs.reshape(groups, -1))
        channels.lay(weight, len(shape) - 2, inputs[: shape[-2]])
    if bias:
        channels.couple(channels.of(bias), outputs)
    if residual:
        channels.couple(channels.of(residual), outputs)
    channels.give(node.outputs[0], outputs)


def stay(channels: Channels, node: Node) -> None:
    """What is not known: all channels of all tensors stay."""
    for name in (*node.inputs, *node.outputs):
        if name:
            channels.freeze(channels.of(name))
