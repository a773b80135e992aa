"""Building a graph layer by layer: what the zoo, heads and tests are written with.

`GraphBuilder` adds parameters with the usual initial values and names them `layer.weight`, `layer.bias`...; names are
stable, since checkpoints and federated learning depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.errors import ModelError
from homespun.graph.graph import BATCH, Array, Attribute, Graph, Tensor


class GraphBuilder:
    """Appends layers to a graph; every method takes tensor names and returns the name of its result."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.graph = Graph(name)
        self._random = np.random.default_rng(seed)

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declare an input with `shape` per sample; the batch dimension is put before it."""
        self.graph.add_tensor(Tensor(name, "input", (BATCH, *shape), dtype))
        self.graph.inputs.append(name)
        return name

    def parameter(self, name: str, data: Array) -> str:
        """A trainable array (float32)."""
        return self.graph.add_array(name, np.ascontiguousarray(data, dtype=np.float32), "parameter")

    def normal(self, name: str, shape: Sequence[int], std: float) -> str:
        """A trainable array, normal around zero with deviation `std`."""
        return self.parameter(name, self._random.normal(0.0, std, shape))

    def op(self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Attribute) -> Any:
        """Any operator by name. Returns the output's name, or a tuple of names where `outputs` is more than one."""
        stem = name or op
        out = tuple(self.graph.fresh_name(stem if i == 0 else f"{stem}:{i}") for i in range(outputs))
        for o in out:
            self.graph.add_tensor(Tensor(o, "activation"))
        self.graph.add_node(op, inputs, out, attributes, name=out[0])
        return out if outputs > 1 else out[0]

    def conv(
        self,
        x: str,
        name: str,
        *,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: str | tuple[int, int, int, int] = "same",
        bias: bool = False,
    ) -> str:
        """Convolution; weights (kh, kw, inputs / groups, outputs), He-normal over fan-out as the MobileNet papers use.

        `padding`: "same" is symmetric, (k - 1) // 2 * dilation on each side, as PyTorch pads; "same_upper" puts the
        odd pixel at the bottom and right, as TensorFlow does (known at compile time); or (top, left, bottom, right).
        """
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        if inputs % groups or outputs % groups:
            raise ModelError(f"{name}: {inputs} -> {outputs} channels can't be split into {groups} groups")
        std = np.sqrt(2.0 / (kh * kw * outputs / groups))
        shape = (kh, kw, inputs // groups, outputs)
        w = self.parameter(f"{name}.weight", self._random.normal(0.0, std, shape))
        args = [x, w]
        if bias:
            args.append(self.parameter(f"{name}.bias", np.zeros(outputs)))
        attributes: dict[str, Attribute] = {"stride": (stride, stride), "dilation": (dilation, dilation)}
        attributes["groups"] = groups
        if padding == "same":
            ph, pw = dilation * (kh - 1) // 2, dilation * (kw - 1) // 2
            attributes["padding"] = (ph, pw, ph, pw)
        else:
            attributes["padding"] = padding
        return str(self.op("conv2d", *args, name=name, outputs=1, **attributes))

    def batch_norm(self, x: str, name: str, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> str:
        """Batch normalisation over all but the last axis. `momentum` is the weight of the new batch."""
        scale = self.parameter(f"{name}.weight", np.ones(channels))
        shift = self.parameter(f"{name}.bias", np.zeros(channels))
        mean = self.graph.add_array(f"{name}.running_mean", np.zeros(channels, np.float32), "state")
        var = self.graph.add_array(f"{name}.running_var", np.ones(channels, np.float32), "state")
        return str(self.op("batch_norm", x, scale, shift, mean, var, name=name, eps=eps, momentum=momentum))

    def linear(
        self, x: str, name: str, inputs: int, outputs: int, *, bias: bool = True, std: float | None = None
    ) -> str:
        """y = x W + b over the last axis; W (inputs, outputs), uniform in +-1/sqrt(inputs), or normal with `std`."""
        bound, weight = 1.0 / np.sqrt(inputs), f"{name}.weight"
        if std is None:
            args = [x, self.parameter(weight, self._random.uniform(-bound, bound, (inputs, outputs)))]
        else:
            args = [x, self.normal(weight, (inputs, outputs), std)]
        if bias:
            args.append(self.parameter(f"{name}.bias", np.zeros(outputs)))
        return str(self.op("linear", *args, name=name))

    def embedding(self, ids: str, name: str, vocabulary: int, channels: int, *, std: float = 0.02) -> str:
        """Rows of a table (vocabulary, channels) for ids (...) int32; normal with deviation `std`, as BERT begins."""
        table = self.normal(f"{name}.weight", (vocabulary, channels), std)
        return str(self.op("embedding", ids, table, name=name))

    def layer_norm(self, x: str, name: str, channels: int, *, eps: float = 1e-5) -> str:
        """Layer normalisation over the last axis."""
        scale = self.parameter(f"{name}.weight", np.ones(channels))
        shift = self.parameter(f"{name}.bias", np.zeros(channels))
        return str(self.op("layer_norm", x, scale, shift, name=name, eps=eps))

    def build(self, *outputs: str) -> Graph:
        """Declare the outputs, check the graph and return it."""
        from homespun.graph.check import check

        self.graph.outputs = list(outputs)
        check(self.graph)
        return self.graph
